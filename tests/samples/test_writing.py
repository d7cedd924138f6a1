"""Files of a task's sorted rows. Without Spark but for the last test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.manifest import ITEM_ID, ITEM_INDEX
from dssm.samples.writing import PartWriter, new_file, remove_unfinished, write_parts, write_shuffled
from tests.samples.feed import files_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NAMES = {"a": "first.parquet", "b": "second.parquet", "c": "third.parquet"}


def batches(parts: Sequence[str], cuts: Sequence[int]) -> Iterator[pa.RecordBatch]:
    """Yields rows numbered in their order, in batches that end at the cuts."""
    numbers = pa.array(range(len(parts)), pa.int64())
    whole = pa.RecordBatch.from_arrays([pa.array(parts, pa.string()), numbers], names=["__part", "number"])
    for begin, end in pairwise([0, *sorted(min(cut, len(parts)) for cut in cuts), len(parts)]):
        yield whole.slice(begin, end - begin)


def write(folder: Path, parts: Sequence[str], cuts: Sequence[int], row_group_rows: int) -> dict[str, int]:
    folder.mkdir(parents=True)
    writer = PartWriter(str(folder), ("number",), NAMES, row_group_rows)
    (counted,) = writer.run(batches(parts, cuts))
    for row in counted.to_pylist():
        assert row["sha256"] == hashlib.sha256((folder / row["name"]).read_bytes()).hexdigest()
    return {row["name"]: row["rows"] for row in counted.to_pylist()}


@settings(max_examples=40, deadline=None)
@given(
    counts=st.tuples(*[st.integers(0, 12)] * 3),
    cuts=st.lists(st.integers(0, 36), max_size=6),
    row_group_rows=st.integers(1, 15),
)
def test_the_bytes_do_not_depend_on_the_batches(
    tmp_path_factory: pytest.TempPathFactory, counts: tuple[int, ...], cuts: list[int], row_group_rows: int
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    parts = [part for part, count in zip(NAMES, counts, strict=True) for _ in range(count)]
    expected = {NAMES[part]: count for part, count in zip(NAMES, counts, strict=True) if count}
    assert write(folder / "cut", parts, cuts, row_group_rows) == expected
    assert write(folder / "whole", parts, [], row_group_rows) == expected
    assert files_of(folder / "cut") == files_of(folder / "whole")
    for part, name in NAMES.items():
        if name in expected:
            found = pq.ParquetFile(folder / "cut" / name)
            assert found.read()["number"].to_pylist() == [n for n, given in enumerate(parts) if given == part]
            sizes = [found.metadata.row_group(n).num_rows for n in range(found.metadata.num_row_groups)]
            assert max(sizes) <= row_group_rows
            assert all(size == row_group_rows for size in sizes[:-1])


def test_a_task_that_fails_leaves_nothing_unfinished(tmp_path: Path) -> None:
    def failing() -> Iterator[pa.RecordBatch]:
        yield from batches(["a", "a", "b"], [])
        raise RuntimeError("lost")

    writer = PartWriter(str(tmp_path), ("number",), NAMES, 1)
    with pytest.raises(RuntimeError, match="lost"):
        list(writer.run(failing()))
    assert [path.name for path in tmp_path.iterdir()] == ["first.parquet"]  # which was whole


def test_a_file_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    table = pa.table({"number": [1, 2]})
    path = f"{tmp_path}/rows.parquet"
    file = new_file(path, table.schema)
    file.write(table)
    assert [name.name[:14] for name in tmp_path.iterdir()] == [".rows.parquet."]
    file.__exit__(RuntimeError)
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):  # a task may run twice
        with new_file(path, table.schema) as file:
            file.write(table)
    assert [name.name for name in tmp_path.iterdir()] == ["rows.parquet"]
    assert pq.read_table(path) == table
    (tmp_path / ".rows.parquet.abc.tmp").write_text("left by a task that was killed")
    remove_unfinished(str(tmp_path))
    assert [name.name for name in tmp_path.iterdir()] == ["rows.parquet"]


@pytest.mark.spark
def test_shuffled_files_from_spark(spark: SparkSession, tmp_path: Path) -> None:
    """One row group each, the same for other partitions; in an order that has nothing to do with the ids'."""
    rows = [(f"i{number:03}", number) for number in range(500)]
    frame = spark.createDataFrame(rows, f"{ITEM_ID} string, {ITEM_INDEX} int")
    made: dict[str, Any] = {}
    for name, tasks, seed in (("one", 1, 0), ("seven", 7, 0), ("other", 7, 1)):
        made[name] = write_shuffled(frame.repartition(tasks), str(tmp_path / name), 500, 60, seed)
    assert made["one"] == made["seven"] != made["other"]
    assert files_of(tmp_path / "one") == files_of(tmp_path / "seven")
    assert sum(file.rows for file in made["one"]) == 500
    indexes = []
    for file in made["one"]:
        found = pq.ParquetFile(tmp_path / "one" / file.name)
        assert (found.metadata.num_row_groups, found.metadata.num_rows) == (1, file.rows)
        indexes += found.read()[ITEM_INDEX].to_pylist()
    assert sorted(indexes) == list(range(500))
    rises = sum(a < b for a, b in pairwise(indexes))
    assert abs(rises - 250) < 4 * (500 / 12) ** 0.5  # Wallis and Moore, 1941: of a random order


@pytest.mark.spark
def test_a_part_without_rows_has_a_file_without_rows(spark: SparkSession, tmp_path: Path) -> None:
    frame = spark.createDataFrame([("a", 1, 5)], "part string, number int, __order int")
    files = write_parts(frame, str(tmp_path / "parts"), "part", ["__order"], NAMES)
    assert [(file.name, file.rows) for file in files] == [
        ("first.parquet", 1), ("second.parquet", 0), ("third.parquet", 0)
    ]  # fmt: skip
    for file in files:
        assert file.sha256 == hashlib.sha256((tmp_path / "parts" / file.name).read_bytes()).hexdigest()
    found = {file.name: pq.read_table(tmp_path / "parts" / file.name) for file in files}
    assert found["first.parquet"].to_pydict() == {"part": ["a"], "number": [1]}
    assert found["second.parquet"].schema.equals(found["first.parquet"].schema)
    assert found["second.parquet"].num_rows == 0
