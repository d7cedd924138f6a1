"""What the benchmarks of `plan` read out of files: no time is tested."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks import plan
from benchmarks import report as results
from benchmarks.constants import line, parquet_of, rounded
from benchmarks.jobs import PAIR, ROW, Stored, shuffle_written, stored
from dssm.config import load_settings
from dssm.manifest import read_manifest
from dssm.paths import DATASETS
from dssm.plan.constants import FILE, Constants, load_constants
from tests.report.full_run import samples_run, settings_of


def test_a_line_through_two_points() -> None:
    assert line((2, 7), (6, 15)) == (3, 2)


def test_bytes_that_tasks_wrote_for_others(tmp_path: Path) -> None:
    def task(written: int | None) -> str:
        metrics = {} if written is None else {"Shuffle Write Metrics": {"Shuffle Bytes Written": written}}
        return json.dumps({"Event": "SparkListenerTaskEnd", "Task Metrics": metrics})

    start = json.dumps({"Event": "SparkListenerStageSubmitted"})
    failed = json.dumps({"Event": "SparkListenerTaskEnd", "Task Metrics": None})
    (tmp_path / "app-1").write_text("\n".join([start, task(5), task(None), failed]) + "\n")
    (tmp_path / "app-2").write_text(task(70) + "\n")
    assert shuffle_written(tmp_path) == 75


def test_columns_count_to_their_kinds(tmp_path: Path) -> None:
    paths = samples_run(tmp_path)
    settings = settings_of(tmp_path)
    found = stored(settings, "train")
    assert found.rows == found.numbers[ROW] == 40
    on_disk = sum(path.stat().st_size for path in Path(paths.part("train")).glob("*.parquet"))
    assert 0 < found.total < on_disk  # without the files' footers
    columns = read_manifest(paths.part("train"), "").columns
    lists = [
        spec.shape[0]
        for name, spec in columns.items()
        if name in settings.features and spec.dtype == "int32" and spec.shape
    ]
    assert found.numbers["list_id"] == 40 * sum(lists) > 0


def test_constants_are_weighted_over_the_datasets() -> None:
    sample = Stored(10, {ROW: 100, "id": 60, "number": 8, "list_id": 40, "list_number": 10, "vector": 80},
                    {ROW: 10, "id": 20, "number": 4, "list_id": 80, "list_number": 10, "vector": 20})  # fmt: skip
    item = Stored(5, {ROW: 150, "id": 30}, {ROW: 5, "id": 10})
    pairs = Stored(2, {PAIR: 44}, {ROW: 2, PAIR: 4})
    parts = dict(zip(DATASETS, (sample, sample, sample, item, pairs), strict=True))
    made = parquet_of(parts)
    assert (made.sample_row, made.user_row, made.item_row, made.pair) == (10, 10, 30, 11)
    assert (made.id, made.vector, made.list_id) == (pytest.approx((3 * 60 + 30) / (3 * 20 + 10)), 4, 0.5)


def test_the_constants_that_are_kept_are_those_of_a_machine() -> None:
    made = load_constants()
    assert Constants.model_validate(json.loads(FILE.read_text())) == made
    assert json.loads(FILE.read_text()) == rounded(json.loads(FILE.read_text()))
    assert "cores of" in made.machine
    used = load_settings("conf/demo.yaml").train.batch_size
    assert used not in made.sizes["batch sizes"]  # what bench-plan predicts was not measured


def test_the_pages_predictions_are_the_kept_ones_and_none_is_far_off() -> None:
    kept = json.loads((results.RESULTS / "plan.json").read_text(encoding="utf-8"))
    page = results.PAGE.read_text(encoding="utf-8")
    assert results.with_table(page, "predictions", plan.markdown(kept["rows"])) == page
    assert len(kept["ratios"]) == 24
    assert plan.too_far(kept["ratios"]) == []


@pytest.mark.parametrize(("ratio", "far"), [(0.69, True), (0.7, False), (1.3, False), (1.31, True), (math.nan, True)])
def test_a_prediction_that_is_further_off(ratio: float, far: bool) -> None:
    assert bool(plan.too_far({"time": ratio, "bytes": 1.0})) == far
