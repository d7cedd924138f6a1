"""A user runs the demo: logs to item table, then again, then with a model that is too bad to publish."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks import ablation
from benchmarks.jobs import shuffle_written, stored
from dssm import published
from dssm.config import load_settings
from dssm.errors import UserError
from dssm.manifest import ITEM_ID, NEGATIVES, SEEN, data_files, read_manifest
from dssm.model.manifest import read_model_manifest
from dssm.packing import unpack_all
from dssm.paths import DATASETS
from dssm.plan.constants import load_constants
from dssm.plan.estimate import Cluster, plan
from dssm.plan.sizes import read_sizes
from tests.browser import DESKTOP, PHONE, Browser
from tests.checkout import SMALL_DEMO, copy_of_project, of_no_make, shrink
from tests.pipeline import JOBS, TABLE_FACTS, Pipeline, changed, files_of, run_in_process, said
from tests.report.drawn import check_run_report

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.spark, pytest.mark.timeout(1200)]

DATE = "2024-01-15"
TABLE = "demo_items"


@dataclass
class Demo(Pipeline):
    """`make demo` in a copy of the checkout.

    Attributes: printed: all that it said; last: its last line; shuffled: bytes between the tasks of build_samples.
    """

    printed: str = ""
    last: str = ""
    shuffled: int = 0


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    copy = copy_of_project(tmp_path_factory.mktemp("demo"))
    (copy / "events").mkdir()
    logged = {
        "spark.eventLog.enabled": True,
        "spark.eventLog.compress": False,
        "spark.eventLog.dir": f"{copy}/events",
    }
    shrink(
        copy / "conf" / "demo.yaml",
        samples={"rows_per_file": 1000}, train={"epochs": 8, "batch_size": 256}, spark={"conf": logged},
    )  # fmt: skip
    made = subprocess.run(
        ["make", "demo"], cwd=copy, env=of_no_make() | {"DEMO": SMALL_DEMO}, capture_output=True, text=True,
        timeout=900, check=False,
    )  # fmt: skip
    assert made.returncode == 0, said(made)
    for log in (copy / "events").iterdir():
        if '"dssm demo build_samples"' not in log.read_text():
            log.unlink()
    return Demo(
        str(copy / "conf/demo.yaml"), "demo", copy / "runs", [f"data={copy}/data/demo"],
        printed=said(made), last=made.stdout.rstrip().splitlines()[-1], shuffled=shuffle_written(copy / "events"),
    )  # fmt: skip


def test_the_demo_ends_with_top_items_the_tables_rows_and_the_report(demo: Demo) -> None:
    assert "Traceback" not in demo.printed
    assert demo.last == f"report: runs/demo/{DATE}/report.html"
    assert (demo.root / "demo" / DATE / "report.html").stat().st_size > 100_000
    assert "top items for user" in demo.printed
    assert " 400 " in demo.printed[demo.printed.index("is current") :]


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_the_report_is_drawn_on_a_screen_and_a_phone(demo: Demo, browser: Browser, size: tuple[int, int]) -> None:
    with browser.page((demo.run_folder(DATE) / "report.html").as_uri(), size) as page:
        labels = check_run_report(page, size[0])
    assert {"loss by epoch", "recall@50, seen items kept", "recall@50, seen items filtered"} <= set(labels)
    assert any(label.startswith("map of 400 items") for label in labels)


def test_the_model_stands_between_popularity_and_the_best_reachable(demo: Demo) -> None:
    found = demo.evaluation(DATE)
    kept, filtered = found["seen_kept"], found["seen_filtered"]
    assert kept["popularity"]["recall@50"] < kept["model"]["recall@50"] < kept["best_reachable"]["recall@50"]
    baselines = {"popularity", "popularity_recent", "itemcf", "itemcf_impressions", "ease", "ease_recent"}
    assert set(kept) == set(filtered) == {"model", "best_reachable", *baselines}
    metrics = ("recall", "precision", "hitrate", "ndcg", "mrr", "coverage")
    names = {f"{metric}@{k}" for metric in metrics for k in (10, 50, 100)}
    assert all(set(of_ranker) == names for of_ranker in (*kept.values(), *filtered.values()))
    assert found["items"] == 400
    assert found["users"] > 100
    assert found["users"] + found["cold_users"] == read_manifest(str(demo.run_folder(DATE) / "samples/users"), "").rows


def test_the_ablation_ranks_as_evaluate_does(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "BLOCK", 37)  # users, of which there are some hundred
    evaluated = demo.evaluation(DATE)
    told = {
        f"{view}@{k}": evaluated[f"seen_{view}"]["model"][f"recall@{k}"]
        for view in ("kept", "filtered")
        for k in ablation.CUTOFFS
    }
    assert len(set(told.values())) == 4
    settings = load_settings(demo.config, [f"root={demo.root}", *demo.sets])
    one_click = 1 / evaluated["users"]  # scores that hardly differ may change places: blocks round otherwise
    assert ablation.recall(settings) == pytest.approx(told, abs=one_click)


def test_published_vectors_are_those_of_the_item_tower(demo: Demo) -> None:
    from dssm.model.export import LoadedTower

    run = demo.run_folder(DATE)
    model, items = read_model_manifest(str(run / "model")), read_manifest(str(run / "samples/items"), "")
    rows = pa.concat_tables([pq.read_table(file) for file in data_files(str(run / "samples/items"), items)])
    (batch,) = rows.combine_chunks().to_batches()
    expected = LoadedTower(str(run / "model/item_tower")).vectors(unpack_all(batch, model.item_columns))
    (version,) = (demo.root / "demo/item_table" / f"dt={DATE}").glob("version=*")
    rows_there = pq.read_table(version / "data").to_pandas().set_index("item_id")
    found = np.stack(rows_there.loc[rows[ITEM_ID].to_pylist(), "vector"].to_numpy())
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_training_is_seen_and_logged(demo: Demo) -> None:
    printed = demo.printed
    model = read_model_manifest(str(demo.run_folder(DATE) / "model"))
    train = read_manifest(str(demo.run_folder(DATE) / "samples/train"), "")
    assert model.ranks == 2
    assert model.rows_per_epoch == train.rows
    assert model.samples_build == train.build
    assert len(model.loss) == len(model.auc) == 8
    assert model.loss[-1] < model.loss[0]
    assert model.auc[-1] is not None
    assert model.auc[-1] > 0.55  # popularity alone has 0.5 on this feed
    assert f"epoch 8/8  loss {model.loss[-1]:.4f}" in printed
    assert "samples/s" in printed
    assert demo.evaluation(DATE)["test_rows"] == model.metrics[-1]
    assert list((demo.run_folder(DATE) / "logs").glob("events.out.tfevents.*"))


@pytest.mark.parametrize("job", JOBS)
def test_each_job_leaves_its_log_and_metrics(demo: Demo, job: str) -> None:
    folder = demo.run_folder(DATE) / "jobs"
    records = [json.loads(line) for line in (folder / f"{job}.jsonl").read_text().splitlines()]
    first = next(record["run_id"] for record in records)
    ended = [record for record in records if record["run_id"] == first and "exit_code" in record]
    assert [(record["message"], record["exit_code"]) for record in ended] == [(f"{job} done", 0)]
    assert f'dssm_job_duration_seconds{{job_name="{job}",pipeline="demo"}}' in (folder / f"{job}.prom").read_text()
    of_spark = folder / f"{job}.spark.log"
    assert of_spark.exists() == (job != "index_items")
    if job == "build_samples":
        assert "INFO SparkContext: Submitted application: dssm demo build_samples" in of_spark.read_text()
        counts = next(r["counts"] for r in records if r["stage"] == "samples, users and interactions")
        train = read_manifest(str(demo.run_folder(DATE) / "samples/train"), "")
        assert counts["train"] == train.rows
        text = (folder / "build_samples.prom").read_text()
        assert f'dssm_rows_written{{dataset="train",job_name="build_samples",pipeline="demo"}} {train.rows}.0' in text
    assert " INFO " not in demo.printed


def test_the_plan_knows_the_bytes(demo: Demo) -> None:
    """Within 30 %: the constants are of larger feeds, the arithmetic is of the settings and the rows."""
    settings = load_settings(demo.config, [f"root={demo.root}", *demo.sets])
    constants = load_constants()
    sizes = read_sizes(settings)
    assert sizes is not None
    interactions = str(demo.run_folder(DATE) / "samples/interactions")
    seen = pq.read_table(data_files(interactions, read_manifest(interactions, "")), columns=[SEEN])[SEEN]
    assert sizes.pairs == pc.sum(pc.list_value_length(seen)).as_py()
    lines = {(line.job, line.what): line.value for line in plan(settings, sizes, Cluster(), constants)}
    parts = {part: stored(settings, part).total for part in DATASETS}
    run = demo.run_folder(DATE)
    (version,) = (demo.root / "demo/item_table" / f"dt={DATE}").glob("version=*")
    (index,) = (demo.root / "demo/index").rglob("index.faiss")
    found = {
        ("build_samples", "Parquet, samples"): parts["train"] + parts["test"],
        ("build_samples", "Parquet, items"): parts["items"],
        ("build_samples", "Parquet, users and interactions"): parts["users"] + parts["interactions"],
        ("build_samples", "shuffle"): demo.shuffled,
        ("train", "received a step, as chosen"): read_model_manifest(str(run / "model")).bytes_per_step,
        ("score_items", "table"): sum(path.stat().st_size for path in (version / "data").iterdir()),
        ("index_items", "faiss (faiss)"): index.stat().st_size,
    }
    assert {key: lines[key] / value for key, value in found.items()} == pytest.approx(dict.fromkeys(found, 1), rel=0.3)


def test_a_rerun_publishes_the_same_version(demo: Demo) -> None:
    partition = demo.root / "demo/item_table" / f"dt={DATE}"
    before = sorted(path.name for path in partition.iterdir())
    printed = demo.succeed("score_items")
    assert sorted(path.name for path in partition.iterdir()) == before
    assert "is there already" in printed


def test_the_table_holds_each_item_once_with_unit_norm(demo: Demo) -> None:
    (facts,) = demo.table(TABLE_FACTS.format(table=TABLE, date=DATE))
    assert (facts["row_count"], facts["items"], facts["versions"], facts["dt"]) == (400, 400, 1, DATE)
    assert facts["width"] == 64
    assert facts["shortest"] == pytest.approx(1, abs=1e-5)
    assert facts["longest"] == pytest.approx(1, abs=1e-5)


@pytest.fixture
def here(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a job's entry point in this process, on the session of the tests: a start of Spark less.

    Returns: what it printed.
    """

    def run(pipeline: Pipeline, job: str, *arguments: str) -> str:
        run_in_process(spark, monkeypatch, pipeline, job, *arguments)
        captured = capsys.readouterr()
        return captured.out + captured.err

    return run


def test_a_gate_refuses_a_model_that_is_no_better(demo: Demo) -> None:
    def lower(evaluation: dict[str, Any]) -> None:
        kept = evaluation["seen_kept"]
        kept["model"]["recall@50"] = kept["popularity"]["recall@50"]

    table = demo.root / "demo/refused"  # in the other one the version is current, and is not judged anew
    with changed(demo.run_folder(DATE) / "evaluation.json", lower):
        refused = demo.run("score_items", *f"--set item_table.location={table} --set item_table.name=refused".split())
    assert refused.returncode == 3
    assert "gate: the model's recall@50 is" in said(refused)
    assert "Traceback" not in said(refused)
    assert not list(table.glob("dt=*/version=*"))


def test_an_evaluation_of_other_samples_does_not_open_the_gate(demo: Demo, here: Callable[..., str]) -> None:
    with (
        changed(demo.run_folder(DATE) / "evaluation.json", lambda found: found.update(samples_build="0" * 16)),
        pytest.raises(UserError, match="of other samples than"),
    ):
        here(demo, "score_items")


def test_samples_of_other_vocabularies_are_refused(demo: Demo, here: Callable[..., str]) -> None:
    def renumber(manifest: dict[str, Any]) -> None:
        manifest["vocabularies"]["topic_id"]["digest"] = "0" * 16

    with (
        changed(demo.run_folder(DATE) / "samples/items/manifest.json", renumber),
        pytest.raises(UserError, match="vocabulary 'topic_id' is not the one"),
    ):
        here(demo, "evaluate")


def test_jobs_say_which_job_is_missing(demo: Demo, here: Callable[..., str], tmp_path: Path) -> None:
    other = Pipeline(demo.config, demo.name, tmp_path / "runs", demo.sets)
    single = ["--set", "train.launch=single", "--set", "train.ranks=1"]
    for job, first in (("train", "build_samples"), ("evaluate", "train")):
        with pytest.raises(UserError, match=f"run {first} for this date first"):
            here(other, job, *single)
    assert [path.name for path in (tmp_path / "runs/demo" / DATE).iterdir()] == ["jobs"]
    told = other.succeed_view("status", "demo")
    for job in ("train", "evaluate"):
        assert f"log of {job}: {tmp_path}/runs/demo/{DATE}/jobs/{job}.jsonl" in told


def test_past_dates_run_in_turn_and_are_built_once(demo: Demo, here: Callable[..., str]) -> None:
    dates, short = ("2024-01-13", "2024-01-14"), ("--set", "window.train_days=3")
    range_, first = ("--dates", f"{dates[0]}..{dates[1]}", *short), ("--dates", f"{dates[0]}..{dates[0]}", *short)
    printed = demo.succeed("build_samples", *range_)
    for date in dates:
        assert f"build_samples demo {date}" in printed
        manifest = read_manifest(str(demo.run_folder(date) / "samples"), "")
        assert manifest.date == date
        assert manifest.sources["sources.feed"].used["test"] > 0
    before = {date: files_of(demo.run_folder(date) / "samples") for date in dates}
    again = here(demo, "build_samples", *range_)
    assert again.count("left as it is") == 2
    assert "samples, users and interactions" not in again
    forced = here(demo, "build_samples", *first, "--force")
    assert "left as it is" not in forced
    assert {date: files_of(demo.run_folder(date) / "samples") for date in dates} == before
    other = here(demo, "build_samples", *first, "--set", "seed=7")
    assert "left as it is" not in other  # complete, but with other settings
    assert files_of(demo.run_folder(dates[0]) / "samples") != before[dates[0]]


DAYS = ("2024-01-13", "2024-01-14")


@pytest.fixture(scope="module")
def daily(demo: Demo, spark: SparkSession) -> Pipeline:
    """A run of two days, built and trained; the second day's vocabularies are the first's, grown."""
    single = ["train.launch=single", "train.ranks=1", "train.epochs=1", "window.train_days=2"]
    made = Pipeline(demo.config, "daily", demo.root, [*demo.sets, "name=daily", "item_table.dates_at_once=2", *single])
    earlier, one_day = ("--vocabularies", f"daily/{DAYS[0]}", "--grow"), ("--set", "window.train_days=1")
    with pytest.MonkeyPatch.context() as patched:
        for job in ("build_samples", "train"):
            run_in_process(spark, patched, made, job, "--date", DAYS[0])
        run_in_process(spark, patched, made, "build_samples", "--date", DAYS[1], *earlier, *one_day)
        run_in_process(spark, patched, made, "train", "--date", DAYS[1], *one_day)
    return made


def test_a_days_increment_trains_the_day_before_further_with_grown_vocabularies(
    daily: Pipeline, here: Callable[..., str]
) -> None:
    before, cold = (read_model_manifest(str(daily.run_folder(day) / "model")) for day in DAYS)
    here(daily, "train", "--date", DAYS[1], "--set", "window.train_days=1", "--warm-start", f"daily/{DAYS[0]}")
    warm = read_model_manifest(str(daily.run_folder(DAYS[1]) / "model"))
    grown = {name: warm.vocabularies[name].size - spec.size for name, spec in before.vocabularies.items()}
    assert min(grown.values()) >= 0
    assert max(grown.values()) > 0
    assert warm.rows_per_epoch == cold.rows_per_epoch < 0.7 * before.rows_per_epoch
    assert warm.loss[0] < cold.loss[0]


def test_a_backfill_publishes_a_version_a_date_and_goes_on_where_it_failed(
    daily: Pipeline, here: Callable[..., str], spark: SparkSession
) -> None:
    """Both dates side by side; the second's scoring fails on an executor: a file of its catalogue is gone."""
    table = daily.root / "daily/item_table"
    asked = ("--dates", f"{DAYS[0]}..{DAYS[1]}", "--set", "item_table.gate.better_than=none")

    def versions() -> list[list[str]]:
        return [sorted(path.name for path in (table / f"dt={day}").glob("version=*")) for day in DAYS]

    lost = sorted((daily.run_folder(DAYS[1]) / "samples/items").rglob("*.parquet"))[0]
    lost.rename(lost.with_suffix(".away"))
    try:
        with pytest.raises(Exception, match=re.escape(lost.name)):
            here(daily, "score_items", *asked)
    finally:
        lost.with_suffix(".away").rename(lost)
    assert [len(of_date) for of_date in versions()] == [1, 0]
    assert published.read_pointer(str(table), DAYS[1]) is None
    first = files_of(table / f"dt={DAYS[0]}")

    assert here(daily, "score_items", *asked).count("is there already") == 1
    assert [len(of_date) for of_date in versions()] == [1, 1]
    assert files_of(table / f"dt={DAYS[0]}") == first
    for day in DAYS:
        current = published.current(str(table), day)
        assert current is not None
        model = read_model_manifest(str(daily.run_folder(day) / "model"))
        items = read_manifest(str(daily.run_folder(day) / "samples/items"), "")
        assert (current.manifest.date, current.manifest.model_version) == (day, model.model_version)
        ids, vectors = published.load(current)
        assert (len(set(ids.to_pylist())), vectors.shape) == (items.rows, (items.rows, model.vector_dim))
        found = spark.table("daily_items").filter(f"dt = '{day}'").select("item_id", "model_version").collect()
        assert sorted(map(tuple, found)) == sorted((item, model.model_version) for item in ids.to_pylist())
    whole = files_of(table)
    assert here(daily, "score_items", *asked).count("is there already") == 2
    assert files_of(table) == whole


def test_a_model_learns_from_negatives_of_an_earlier_one_with_its_vocabularies(
    demo: Demo, here: Callable[..., str]
) -> None:
    (version,) = (demo.root / "demo/item_table" / f"dt={DATE}").glob("version=*")
    negatives = {
        "popular": {"kind": "popularity", "count": 3},
        "shown": {"kind": "unclicked", "count": 1, "weight": 0.5},
        "hard": {"kind": "hard", "items": str(version / "data"), "ranks": [20, 100], "count": 2},
    }
    sets = [*demo.sets, "name=negatives", f"samples.negatives={json.dumps(negatives)}", "train.loss=weighted_bce"]
    later = Pipeline(
        demo.config, "negatives", demo.root, [*sets, "train.epochs=4", "train.launch=single", "train.ranks=1"]
    )
    here(later, "build_samples", "--vocabularies", f"demo/{DATE}")
    ours, earlier = (read_manifest(str(p.run_folder(DATE) / "samples/train"), "") for p in (later, demo))
    assert ours.vocabularies == earlier.vocabularies
    assert ours.columns[NEGATIVES].shape == (6,)
    here(later, "train")
    model = read_model_manifest(str(later.run_folder(DATE) / "model"))
    assert model.loss[-1] < model.loss[0]
    assert model.auc[-1] is not None
    assert model.auc[-1] > 0.52
    shown = later.succeed_view("show", f"negatives/{DATE}", "--rows", "1")
    assert "popular" in shown
    assert "hard" in shown
    report = later.succeed_view("profile", f"negatives/{DATE}")
    assert "profile.html" in report
    assert (later.run_folder(DATE) / "profile.html").stat().st_size > 10_000
