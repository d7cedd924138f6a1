"""Evaluations written without Spark, and what compare says of them."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dssm import storage
from dssm.errors import UserError
from dssm.evaluation import KEPT, VIEWS
from dssm.paths import RunPaths
from dssm.retrieval.catalogue import Catalogue
from dssm.retrieval.compare import compare
from dssm.retrieval.evaluated import read_evaluation
from dssm.retrieval.rankers import Block
from dssm.retrieval.ranking import Ranking
from dssm.retrieval.results import show, write_results
from jobs.compare import main
from tests.retrieval.rankings import asked_of, make_block, part_of, write_rankers
from tests.serving.tables import model_manifest

USERS, ITEMS, REPLICATES = 200, 25, 200


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`one`, `again` with the same model, `better`, whose vectors lie where the clicks do, and `fewer` users."""
    root = tmp_path_factory.mktemp("runs")
    block = make_block(USERS, ITEMS)
    arrays = write_rankers(root / "arrays", ITEMS).arrays()
    items = np.concatenate([arrays[name] for name in sorted(arrays) if name.startswith("vectors-")])
    better = block.vectors + 2 * np.asarray(block.clicked @ items)
    _write(root, "one", block)
    _write(root, "again", block)
    _write(root, "better", Block(block.ids, block.keys, better, block.clicked, block.seen, block.positive), 100)
    _write(root, "fewer", part_of(block, slice(1, None)))
    return root


def _write(root: Path, name: str, block: Block, replicates: int = REPLICATES) -> None:
    rankers = write_rankers(root / "arrays", ITEMS)
    asked = asked_of(block, replicates)
    ranking = Ranking(rankers, asked)
    ranking.add(block)
    header = {"model_version": name, "samples_build": "b", "date": "2024-01-08"}
    write_results(RunPaths(f"{root}/{name}"), header, ranking.found, Catalogue(ITEMS, 9, 7), asked)


def _compared(root: Path, *names: str, metric: str | None = None, filtered: bool = False) -> list[list[str]]:
    """Returns the printed rows, each with its cells."""
    out = Console(file=io.StringIO(), width=160)
    compare([(name, RunPaths(f"{root}/{name}")) for name in names], out, metric, filtered)
    printed = out.file.getvalue()  # type: ignore[attr-defined]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]


def _result(root: Path, name: str) -> dict[str, Any]:
    return json.loads((root / name / "evaluation.json").read_text())


def test_no_number_is_cut_on_a_narrow_terminal(runs: Path):
    out = Console(file=io.StringIO(), width=60)
    compare([(name, RunPaths(f"{runs}/{name}")) for name in ("one", "better")], out, "recall@2", False)
    shown = out.file.getvalue().split()  # type: ignore[attr-defined]
    wide = [cell for row in _compared(runs, "one", "better", metric="recall@2") for cell in row]
    assert [word for cell in wide for word in cell.split() if word not in shown] == []


def test_a_better_run_stands_first_with_its_difference(runs: Path):
    rows = _compared(runs, "one", "again", "better", metric="recall@2")
    names = [row[0].rpartition("/")[2] for row in rows]
    assert names == ["better", "one", "again"]
    one, better = (_result(runs, name)[KEPT]["model"]["recall@2"] for name in ("one", "better"))
    by_name = dict(zip(names, rows, strict=True))
    assert by_name["better"][2] == f"{better - one:+.4f}"
    low, high = map(float, by_name["better"][3].split("…"))
    assert 0 < low < better - one < high
    assert float(by_name["better"][4]) == pytest.approx(2 / 101, abs=5e-4)  # of 100 replicates, those that both have
    assert by_name["better"][5].endswith("*")
    assert by_name["again"][2:5] == ["+0.0000", "+0.0000…+0.0000", "1.000"]
    assert by_name["one"][2:5] == ["", "", ""]


def test_pairs_tell_more_than_each_runs_interval(runs: Path):
    """The interval of the difference is that of paired replicates."""
    one, better = (read_evaluation(RunPaths(f"{runs}/{name}"), name).replicates for name in ("one", "better"))
    changes = better.means(KEPT, "model", "recall@2") - one.means(KEPT, "model", "recall@2")[:101]
    (low, high) = map(float, _compared(runs, "one", "better", metric="recall@2")[0][3].split("…"))
    assert (low, high) == pytest.approx(np.quantile(changes[1:], [0.025, 0.975]), abs=6e-5)


def test_of_one_run_its_rankers_are_compared(runs: Path):
    rows = _compared(runs, "one", filtered=True)
    found = _result(runs, "one")["seen_filtered"]
    recalls = {name: values["recall@2"] for name, values in found.items()}
    assert [row[0] for row in rows] == sorted(recalls, key=lambda name: -recalls[name])
    for row in rows:
        if row[0] != "model":
            assert float(row[2]) == pytest.approx(recalls[row[0]] - recalls["model"], abs=6e-5)


def test_coverage_has_a_difference_and_no_p(runs: Path):
    (first, _) = _compared(runs, "one", "better", metric="coverage@2")
    assert first[3:5] == ["", ""]


def test_an_evaluation_of_another_model_than_the_runs_is_told(tmp_path: Path):
    _write(tmp_path, "2024-01-08", make_block(USERS, ITEMS))
    paths, out = RunPaths(f"{tmp_path}/2024-01-08"), Console(file=io.StringIO(), width=160)
    for version in ("2024-01-08", "m2"):
        manifest = model_manifest("2024-01-08", 2, version)
        storage.write_text(f"{paths.model}/manifest.json", manifest.model_dump_json())
        compare([("one", paths)], out, "recall@2", False)
    told = [line for line in out.file.getvalue().splitlines() if "run evaluate" in line]  # type: ignore[attr-defined]
    assert told == [f"{tmp_path.name}/2024-01-08: evaluated model 2024-01-08, its model is now m2; run evaluate for it"]


def test_other_users_are_refused(runs: Path):
    with pytest.raises(UserError, match=r"^RUN .*fewer: not comparable with .*one: its users are others \("):
        _compared(runs, "one", "fewer")


@pytest.mark.parametrize(
    ("digest", "message"),
    [
        ("catalogue", r"its catalogue is another one \(25 items, not 25\)"),
        ("relevant", "the same users clicked other items"),
        ("relevant_unseen", "the same users had seen other items before"),
    ],
)
def test_what_differs_is_named(runs: Path, digest: str, message: str):
    path = runs / "again" / "evaluation.json"
    good = path.read_text()
    changed = json.loads(good)
    changed["evaluated"][digest] = "0" * 16
    path.write_text(json.dumps(changed))
    try:
        with pytest.raises(UserError, match=message):
            _compared(runs, "one", "again", filtered=True)
        if digest == "relevant_unseen":
            assert len(_compared(runs, "one", "again")) == 2  # nothing is filtered there
    finally:
        path.write_text(good)


def test_without_replicates_there_are_differences_alone(runs: Path, tmp_path: Path):
    block = make_block(USERS, ITEMS)
    for name in ("one", "other"):
        _write(tmp_path, name, block, replicates=0)
    result = _result(tmp_path, "one")
    assert result["intervals"] == {view: {} for view in VIEWS}
    rows = _compared(tmp_path, "one", "other")
    assert [row[2:5] for row in rows] == [["", "", ""], ["+0.0000", "", ""]]


def test_missing_or_foreign_files_are_told(runs: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"evaluation\.json not found; run evaluate for it first"):
        _compared(tmp_path, "none")
    _write(tmp_path, "one", make_block(USERS, ITEMS))
    replicates = (runs / "better" / "evaluation_replicates.npz").read_bytes()
    (tmp_path / "one" / "evaluation_replicates.npz").write_bytes(replicates)
    with pytest.raises(UserError, match=r"does not belong to .*evaluation\.json; run evaluate again"):
        _compared(tmp_path, "one")
    with pytest.raises(UserError, match=r"--metric recal@2: .*did you mean 'recall@2'"):
        _compared(runs, "one", metric="recal@2")


def test_intervals_stand_beside_each_metric(runs: Path):
    result = _result(runs, "one")
    for view in VIEWS:
        for ranker, metrics in result[view].items():
            bounds = result["intervals"][view][ranker]
            assert set(bounds) == {name for name in metrics if not name.startswith("coverage")}
            for name, (low, high) in bounds.items():
                assert low <= metrics[name] <= high
    tenths = result["popularity_tenths"]
    assert len(tenths["intervals"][KEPT]["model"]["recall@5"]) == 10
    assert result["bootstrap"]["replicates"] == REPLICATES
    assert sum(result["activity_tenths"][KEPT]["users"]) == result["users"]
    cold = result["cold"]["items"]
    assert cold["items"] == 9
    low, high = cold["intervals"][KEPT]["model"]["recall@5"]
    assert 0 < low < cold[KEPT]["model"]["recall@5"] < high < 1


@pytest.mark.parametrize("shown", ["recall@2", "recall@5"])
def test_each_ranker_has_a_row_in_the_printed_tenths_of_the_headline(
    runs: Path, capsys: pytest.CaptureFixture[str], shown: str
):
    result = _result(runs, "one")
    show({**result, "headline": shown}, (2, 5))
    printed = capsys.readouterr().out
    assert re.search(rf"┃ {shown} ┃ +± 95 % ┃", printed)
    for group in ("the catalogue", "the users"):
        below = printed[printed.index(f"{shown} by tenth of {group}") :].split("└")[0]
        assert re.findall("│ ([a-z_]+) +│", below)[-len(result[KEPT]) :] == list(result[KEPT]), below


def test_metrics_of_the_test_rows_are_printed_and_not_compared(runs: Path, capsys: pytest.CaptureFixture[str]):
    result = {**_result(runs, "one"), "headline": "recall@5"}
    show(result, (2, 5))
    assert "test rows" not in capsys.readouterr().out
    show({**result, "test_rows": {"auc": 0.7, "log_loss": None}}, (2, 5))
    assert "\n  of the test rows: auc 0.7000, log_loss –\n" in capsys.readouterr().out
    path = runs / "one" / "evaluation.json"
    before, compared = path.read_text(), _compared(runs, "one", "better")
    path.write_text(json.dumps({**json.loads(before), "test_rows": {"auc": 0.7}}))
    assert _compared(runs, "one", "better") == compared
    path.write_text(before)


def test_rows_are_ordered_by_the_first_runs_headline(runs: Path):
    """recall@50 in an evaluation from before there was one: here it is no cutoff, and the first recall stands in."""
    path = runs / "one" / "evaluation.json"
    before = path.read_text()
    assert _compared(runs, "one", "better") == _compared(runs, "one", "better", metric="recall@2")
    for shown in ("recall@2", "recall@5"):
        path.write_text(json.dumps({**json.loads(before), "headline": shown}))
        assert _compared(runs, "one", "better") == _compared(runs, "one", "better", metric=shown)
    path.write_text(before)
    by_both = [_compared(runs, "one", "better", metric=metric) for metric in ("recall@2", "recall@5")]
    assert by_both[0] != by_both[1]


def test_the_view_finds_runs_by_name(runs: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("one", "better"):
        (runs / name / "samples").mkdir()
        (runs / name / "samples" / "manifest.json").write_text("{}")
    main(["one", "better", "--root", str(runs), "--metric", "recall@5", "--filtered"])
    printed = capsys.readouterr().out
    assert "recall@5, seen items filtered: " in printed
    assert f"{runs.name}/better" in printed
    with pytest.raises(UserError, match=r"RUN nine: "):
        main(["one", "nine", "--root", str(runs)])
