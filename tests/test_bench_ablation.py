"""The variants of the ablation are settings that can be trained, and change what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ablation as bench
from benchmarks import report
from benchmarks.ablation import Runs, Variant, _columns, variants_of
from dssm.config import load_settings
from dssm.manifest import Manifest, write_manifest
from dssm.paths import RunPaths

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CONFIG = str(ROOT / "conf" / "kuairand_ablation.yaml")
BASE = load_settings(CONFIG)
ALL = {f"{variant.group}: {variant.name}": variant.changes for variant in variants_of(BASE)}


@pytest.mark.parametrize("variant", ALL)
def test_a_variant_is_another_training(variant: str):
    settings = load_settings(CONFIG, ALL[variant])
    changed = (settings.model, settings.train, settings.features) != (BASE.model, BASE.train, BASE.features)
    assert changed == bool(ALL[variant])


def test_feature_groups_leave_out_what_they_say():
    groups = {variant.name: variant.changes for variant in variants_of(BASE) if variant.group == "features"}
    without = load_settings(CONFIG, groups["no histories"])
    assert not any(feature.source_column in BASE.histories for feature in without.features.values())
    assert not any(
        getattr(f, "pre_embed", None) for f in load_settings(CONFIG, groups["no pretrained vectors"]).features.values()
    )
    items = [f.name for f in load_settings(CONFIG, groups["item id and tags"]).features.values() if f.side == "item"]
    assert items[:1] == ["video_id"]
    assert set(items) == {"video_id", "tag"}  # a user's feature shares the table of tags
    no_time = load_settings(CONFIG, groups["no hour and weekday"])
    assert set(BASE.features) - set(no_time.features) == {"hour", "weekday"}
    assert {"hour", "weekday", "user_id"} <= set(load_settings(CONFIG, groups["no profile"]).features)


def test_columns_are_means_and_deviations_over_seeds():
    found = [{"kept@50": 0.1, "kept@100": 0.2, "filtered@50": 0.3, "filtered@100": 0.4}] * 2
    found[1] = {name: value + 0.02 for name, value in found[1].items()}
    assert _columns(found) == ["0.1100 ± 0.0141", "0.2100 ± 0.0141", "0.3100 ± 0.0141", "0.4100 ± 0.0141"]
    assert _columns(found[:1]) == ["0.1000", "0.2000", "0.3000", "0.4000"]


def test_the_pages_table_has_the_kept_results():
    """And rows of earlier runs that these do not replace."""
    kept = json.loads((report.RESULTS / "ablation.json").read_text(encoding="utf-8"))["figures"]
    rows = [[*name.split(": "), *_columns(recalls)] for name, recalls in kept.items()]
    shown = bench.rows_of(report.PAGE)
    assert len(rows) > 1
    assert bench.merged(shown, rows) == shown


# Going on where it was broken off ------------------------------------------------------------------------

RECALLS = {"kept@50": 0.1, "kept@100": 0.2, "filtered@50": 0.3, "filtered@100": 0.4}
RECIPE, OFF = Variant("recipe", "as it is", ()), Variant("logq", "off", ("train.loss.logq=off",))


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The run's samples are there, and a training only notes its changes. Returns: those of each training."""
    noted: list[list[str]] = []
    base = load_settings(CONFIG, [f"root={tmp_path}"])
    write_manifest(
        RunPaths(base.run_folder).part("train"),
        Manifest(kind="train", date="2022-05-01", build="first", seed=0, columns={}, files=[]),
    )
    monkeypatch.setattr(bench.subprocess, "run", lambda command, check, env: noted.append(command[4:]))
    monkeypatch.setattr(
        bench, "recall", lambda settings: {**RECALLS, "kept@50": round((settings.seed - BASE.seed + 1) / 10, 1)}
    )
    return noted


def runs_at(root: Path) -> Runs:
    overrides = [f"root={root}"]
    return Runs(CONFIG, overrides, load_settings(CONFIG, overrides))


def test_what_is_finished_is_not_trained_again(tmp_path: Path, trained: list[list[str]]):
    runs = runs_at(tmp_path)
    assert runs.finished(RECIPE, 0) is None
    runs.run(RECIPE, 0)
    runs.run(OFF, 1)
    assert [f"seed={BASE.seed + seed}" in changes for seed, changes in enumerate(trained)] == [True, True]
    assert "train.loss.logq=off" not in trained[0]
    assert "train.loss.logq=off" in trained[1]
    again = runs_at(tmp_path)
    assert again.finished(RECIPE, 0) == {**RECALLS, "kept@50": 0.1}
    assert again.finished(OFF, 1) == {**RECALLS, "kept@50": 0.2}
    assert again.finished(RECIPE, 1) is again.finished(OFF, 0) is None
    assert dict(again.all_finished([RECIPE, OFF], seeds=1)) == {RECIPE: [again.finished(RECIPE, 0)]}
    samples = RunPaths(load_settings(CONFIG, [f"root={tmp_path}"]).run_folder).part("train")
    write_manifest(samples, Manifest(kind="train", date="2022-05-01", build="second", seed=0, columns={}, files=[]))
    assert runs_at(tmp_path).finished(RECIPE, 0) is None  # other samples


def test_a_run_of_one_group_shows_what_else_is_finished(
    kept_in: Path, trained: list[list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bench, "variants_of", lambda settings: [RECIPE, OFF])
    page = kept_in / "page.md"
    empty = "<!-- ablation -->\n<!-- /ablation -->\n"
    page.write_text(empty)
    options = ["--config", CONFIG, "--set", f"root={kept_in}", "--seeds", "2"]
    bench.main([*options, "--only", "recipe"])  # without --docs
    assert len(trained) == 2
    assert not (kept_in / "ablation.json").exists()
    assert page.read_text() == empty
    bench.main([*options, "--docs"])
    assert len(trained) == 4
    assert "1/2 logq: off, seed 0" in capsys.readouterr().out
    assert page.read_text().splitlines()[1:5] == [
        "|  | variant | kept recall@50 | kept recall@100 | filtered recall@50 | filtered recall@100 |",
        "| --- | --- | --- | --- | --- | --- |",
        "| recipe | as it is | 0.1500 ± 0.0707 | 0.2000 ± 0.0000 | 0.3000 ± 0.0000 | 0.4000 ± 0.0000 |",
        "| logq | off | 0.1500 ± 0.0707 | 0.2000 ± 0.0000 | 0.3000 ± 0.0000 | 0.4000 ± 0.0000 |",
    ]
    assert json.loads((kept_in / "ablation.json").read_text())["ratios"] == {"logq: off": 1.0}
    bench.main(options)
    assert len(trained) == 4


def keep_results(folder: Path, rows: list[list[str]], figures: dict[str, list[dict[str, float]]]) -> None:
    """Writes results and the page's table as `--docs` leaves them."""
    page = folder / "page.md"
    page.write_text("<!-- ablation -->\n<!-- /ablation -->\n")
    heads = ["", "variant", "kept recall@50", "kept recall@100", "filtered recall@50", "filtered recall@100"]
    report.report("ablation", "", heads, rows, bench.ratios_of(rows), figures=figures)
    report.replace_table(page, "ablation", report.markdown_table(heads, rows, ["---"] * len(heads)))


OLD = {"recipe: as it is": [{**RECALLS, "kept@50": value} for value in (0.4, 0.5, 0.6)], "towers: wide": [RECALLS] * 3}
OLD_ROWS = [
    ["recipe", "as it is", *_columns(OLD["recipe: as it is"])],
    ["logq", "off", *["0.2000 ± 0.0100"] * 4],  # its seeds are not kept
    ["towers", "wide", *_columns(OLD["towers: wide"])],
]


def results_in(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "ablation.json").read_text())
    assert bench.rows_of(folder / "page.md") == found["rows"]
    return found


def test_a_run_that_is_broken_off_leaves_what_is_kept_and_goes_on(
    kept_in: Path, trained: list[list[str]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bench, "variants_of", lambda settings: [RECIPE, OFF])
    keep_results(kept_in, OLD_ROWS, OLD)
    before = [(kept_in / name).read_bytes() for name in ("ablation.json", "page.md")]
    train = bench.subprocess.run

    def break_off_in_the_third(command: list[str], check: bool, env: dict[str, str]) -> None:
        if len(trained) == 2:
            raise KeyboardInterrupt
        train(command, check, env)

    monkeypatch.setattr(bench.subprocess, "run", break_off_in_the_third)
    options = ["--config", CONFIG, "--set", f"root={kept_in}", "--docs"]
    with pytest.raises(KeyboardInterrupt):
        bench.main(options)
    assert [(kept_in / name).read_bytes() for name in ("ablation.json", "page.md")] == before
    monkeypatch.setattr(bench.subprocess, "run", train)
    bench.main([*options, "--only", "recipe"])
    assert len(trained) == 3  # a group alone, of which one seed was left
    found = results_in(kept_in)
    new = [{**RECALLS, "kept@50": value} for value in (0.1, 0.2, 0.3)]
    assert found["figures"] == {**OLD, "recipe: as it is": new}
    assert found["rows"] == [["recipe", "as it is", *_columns(new)], *OLD_ROWS[1:]]
    bench.main(options)
    assert len(trained) == 6
    found = results_in(kept_in)
    assert found["figures"] == {**OLD, "recipe: as it is": new, "logq: off": new}
    assert found["rows"] == [["recipe", "as it is", *_columns(new)], ["logq", "off", *_columns(new)], OLD_ROWS[2]]


@pytest.mark.parametrize(("seeds", "replaced"), [(1, []), (2, ["logq: off"]), (3, ["recipe: as it is", "logq: off"])])
def test_fewer_seeds_do_not_take_the_place_of_more(
    kept_in: Path,
    trained: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seeds: int,
    replaced: list[str],
):
    monkeypatch.setattr(bench, "variants_of", lambda settings: [RECIPE, OFF])
    keep_results(kept_in, OLD_ROWS, OLD)
    bench.main(["--config", CONFIG, "--set", f"root={kept_in}", "--docs", "--seeds", str(seeds)])
    assert len(trained) == 2 * seeds
    new = [{**RECALLS, "kept@50": round(0.1 * (seed + 1), 1)} for seed in range(seeds)]
    found = results_in(kept_in)
    assert found["figures"] == OLD | dict.fromkeys(replaced, new)
    old, made = bench.named(OLD_ROWS), bench.named(found["rows"])
    assert {name for name in made if made[name] != old[name]} == set(replaced)
    stays = [line for line in capsys.readouterr().out.splitlines() if "stays as it is kept" in line]
    assert len(stays) == 2 - len(replaced)


def test_rows_that_the_page_has_lost_or_did_not_get_are_those_of_the_results(
    kept_in: Path, trained: list[list[str]], monkeypatch: pytest.MonkeyPatch
):
    """As after a break between the writes of the two."""
    monkeypatch.setattr(bench, "variants_of", lambda settings: [RECIPE])
    keep_results(kept_in, OLD_ROWS, OLD)
    page = kept_in / "page.md"
    rows = [line for line in page.read_text().splitlines() if "wide" not in line]
    page.write_text("\n".join(rows).replace("0.2000 ± 0.0100", "0.1000"))
    bench.main(["--config", CONFIG, "--set", f"root={kept_in}", "--docs", "--only"])
    assert not trained
    assert results_in(kept_in)["rows"] == OLD_ROWS


def test_results_without_figures_get_some(kept_in: Path, trained: list[list[str]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench, "variants_of", lambda settings: [RECIPE])
    keep_results(kept_in, OLD_ROWS[1:2], {})
    assert "figures" not in results_in(kept_in)
    bench.main(["--config", CONFIG, "--set", f"root={kept_in}", "--docs"])
    assert list(results_in(kept_in)["figures"]) == ["recipe: as it is"]


def test_rows_that_are_not_finished_here_stay(tmp_path: Path):
    page = tmp_path / "page.md"
    rows = "| | v | r |\n|---|---|---|\n| g | a | 1 |\n| | b | 2 |\n| h | c | 3 |"
    page.write_text(f"a\n<!-- ablation -->\n{rows}\n<!-- /ablation -->\n| x |")
    before = bench.rows_of(page)
    assert before == [["g", "a", "1"], ["", "b", "2"], ["h", "c", "3"]]
    assert bench.merged(before, [["g", "b", "9"], ["g", "d", "8"], ["i", "e", "7"]]) == [
        ["g", "a", "1"], ["", "b", "9"], ["", "d", "8"], ["h", "c", "3"], ["i", "e", "7"],
    ]  # fmt: skip
    assert bench.merged([], []) == []
