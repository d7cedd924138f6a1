"""Incremental scoring of a dataset that grows: rows that stay as they are are found, wherever they lie now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.config import Settings
from dssm.features import of_side
from dssm.manifest import ITEM_ID, ITEM_INDEX, ITEM_KEY, ITEM_PROBABILITY, ITEM_ROWS
from dssm.samples.writing import stable_files, write_shuffled
from dssm.scoring.earlier import Earlier, files_of_rows
from dssm.scoring.files import FileResult, score_file
from dssm.scoring.tasks import commit_files
from tests.datasets import ITEMS, draw_features, item_columns_of, make_settings, write_dataset
from tests.model.tiny import write_model
from tests.scoring.runs import settings_at, write_run
from tests.scoring.test_files import scoring_of, total

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PER_FILE = 100
counts = st.integers(0, 6).map(lambda power: 2**power)


@given(rows=st.integers(0, 10**10), per_file=st.integers(1, 10**6))
def test_the_count_is_the_smallest_power_of_two(rows: int, per_file: int) -> None:
    files = stable_files(rows, per_file)
    assert files.bit_count() == 1
    assert rows <= files * per_file
    assert files == 1 or rows > files // 2 * per_file


@given(now=counts, before=counts, row=st.integers(0, 2**64 - 1))
def test_a_row_is_looked_for_where_it_was(now: int, before: int, row: int) -> None:
    names, earlier = ([f"part-{number}" for number in range(count)] for count in (now, before))
    found = files_of_rows(names, earlier)
    assert earlier[row % before] in found[names[row % now]]
    assert sorted(file for files in found.values() for file in files) == sorted(earlier * max(1, now // before))


def test_nothing_is_looked_for_in_a_version_without_files() -> None:
    assert files_of_rows(["a", "b"], []) == {"a": [], "b": []}


def write_whole(settings: Settings, folder: Path, rows: int) -> str:
    """Writes items in one file."""
    columns = item_columns_of(settings)
    drawn = draw_features(settings, of_side(settings.features, "item"), rows, np.random.default_rng(1))
    keys = {name: np.zeros(rows) for name in (ITEM_KEY, ITEM_PROBABILITY, ITEM_ROWS)}
    ids = {ITEM_ID: np.array([f"item{number:03d}" for number in range(rows)]), ITEM_INDEX: np.arange(rows)}
    typed = {name: values.astype(columns[name].numpy_dtype) for name, values in keys.items()}
    write_dataset(str(folder), settings, [{**ids, **typed, **drawn}], "items", columns)
    return f"{folder}/part-00000.parquet"


def score(
    settings: Settings, folder: Path, names: Sequence[str], last: tuple[Path, Sequence[str]] | None
) -> list[FileResult]:
    """Scores the files below a folder. Args: last: what was scored before, and its files."""
    earlier = None
    if last is not None:
        earlier = Earlier(f"{last[0]}/table", files_of_rows(names, last[1]), {"vector": 5}, "float32", "model")
    scoring = scoring_of(settings, folder / "table", folder / "items", earlier=earlier, copies=True)
    results = [score_file(scoring, name) for name in names]
    commit_files(scoring.target, results)
    return results


def vectors_of(folder: Path) -> dict[str, list[float]]:
    table = pa.concat_tables([pq.read_table(path) for path in (folder / "table/data").iterdir()])
    return dict(zip(table["item_id"].to_pylist(), table["vector"].to_pylist(), strict=True))


@pytest.mark.spark
def test_one_per_cent_more_items_and_twice_the_files(spark: SparkSession, tmp_path: Path) -> None:
    from pyspark.sql import functions as F

    settings = make_settings(tmp_path, model={"similarity": "cosine"})
    write_model(settings)
    items = spark.read.parquet(write_whole(settings, tmp_path / "whole", 2 * PER_FILE + 2))
    last = None
    found = []
    for name, rows in (("first", 200), ("grown", 202), ("shrunk", 198)):
        folder = tmp_path / name
        made = write_shuffled(items.filter(F.col(ITEM_INDEX) < rows), f"{folder}/items", rows, PER_FILE, seed=3)
        names = [file.name for file in made]
        results = score(settings, folder, names, last)
        found.append((len(names), total(results, "scored"), total(results, "copied")))
        assert total(results, "drift_rows") == (0 if last is None else min(rows, 200))
        last = folder, names
    assert found == [(2, 200, 0), (4, 2, 200), (2, 0, 198)]
    first, grown, shrunk = (vectors_of(tmp_path / name) for name in ("first", "grown", "shrunk"))
    assert {item: grown[item] for item in first} == first
    assert {item: grown[item] for item in shrunk} == shrunk
    assert set(grown) - set(first) == {"item200", "item201"}


@pytest.mark.spark
def test_files_of_the_last_version_that_are_cut_off_keep_no_version_back(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dssm.scoring.items import score_items

    settings = settings_at(tmp_path, "cut", kind="path", incremental=True, min_drift_cosine=0.5)
    write_run(settings)
    first = score_items(spark, settings)
    digests = sorted(Path(first.folder, "digests").iterdir())
    for path in digests:
        path.write_bytes(path.read_bytes()[:-9])
    for name in ("samples", "model"):
        Path(settings.run_folder, name).rename(tmp_path / name)
    write_run(settings, "later")
    second = score_items(spark, settings)
    assert (second.manifest.scored, second.manifest.copied) == (ITEMS, 0)
    told = " ".join(capsys.readouterr().out.split())
    reason = second.manifest.incomparable
    assert reason is not None
    assert reason.startswith(f"{digests[0]} (")
    assert reason.endswith(f") and {len(digests) - 1} more files can't be read")
    assert f"{reason}: nothing is taken from there" in told
    assert f"gate 'drift' has not looked: not comparable: {reason}" in told
