"""Slices: rows as binaries on their way from task to task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.samples import exchange
from dssm.samples.exchange import SLICE, Batches, filled, gathered, joined, scattered, spark_hash, task_keys

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

KEYS = st.lists(st.lists(st.integers(0, 5), max_size=20), max_size=6)


def batches(keys: list[list[int]]) -> list[pa.RecordBatch]:
    """Returns batches with a null, a text and a binary a row, each row another."""
    made, start = [], 0
    for part in keys:
        numbers = range(start, start + len(part))
        start += len(part)
        columns = {
            "key": pa.array(part, pa.int32()),
            "number": pa.array([None if n % 3 == 0 else n for n in numbers], pa.int64()),
            "text": pa.array([f"é{n}" for n in numbers], pa.string()),
            "words": pa.array([bytes(n % 5) for n in numbers], pa.binary()),
        }
        made.append(pa.RecordBatch.from_pydict(columns))
    return made


def as_is(given: Batches) -> Iterator[pa.RecordBatch]:
    yield from given


@given(keys=KEYS, size=st.sampled_from([1, 300, 2**20]))
def test_rows_come_out_of_slices_as_they_went_in(keys: list[list[int]], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "SLICED_BYTES", size)
        sent = list(scattered(as_is, "key")(batches(keys)))
    assert all(batch.schema.names == ["key", SLICE] for batch in sent)
    for batch in sent:
        assert batch["key"].to_pylist() == sorted(set(batch["key"].to_pylist()))
        for key, data in zip(batch["key"].to_pylist(), batch[SLICE].to_pylist(), strict=True):
            assert set(pa.ipc.open_stream(data).read_all()["key"].to_pylist()) == {key}
    found = [row for batch in gathered(as_is)(sent) for row in batch.to_pylist()]
    expected = [row for batch in batches(keys) for row in batch.to_pylist()]
    for key in range(6):
        assert [row for row in found if row["key"] == key] == [row for row in expected if row["key"] == key]
    assert len(found) == len(expected)


def test_a_slice_holds_its_own_rows_only() -> None:
    (sent,) = scattered(as_is, "key")(batches([[0] * 1000 + [1]]))
    assert [len(data) > 10_000 for data in sent[SLICE].to_pylist()] == [True, False]


@given(keys=KEYS, size=st.integers(1, 2000))
def test_batches_are_joined_up_to_a_size(keys: list[list[int]], size: int) -> None:
    tables = list(joined(batches(keys), size))
    assert sum(table.num_rows for table in tables) == sum(map(len, keys))
    assert all(sum(batch.nbytes for batch in table.to_batches()) >= size for table in tables[:-1])
    assert all(table.num_rows for table in tables)


def test_rows_of_other_columns_are_slices_of_their_own() -> None:
    first, second = batches([[3, 1], [1]])
    (of_first, of_second) = scattered(as_is, "key")([first, second.select(["key", "text"])])
    assert (of_first["key"].to_pylist(), of_second["key"].to_pylist()) == ([1, 3], [1])
    assert [batch.schema.names for batch in gathered(as_is)([of_second])] == [["key", "text"]]


def test_columns_that_rows_lack_are_null() -> None:
    first, second = batches([[3, 1], [1]])
    run = filled(as_is, [("text", pa.string()), ("more", pa.int64()), ("key", pa.int32())])
    found = [row for batch in run([first, second.select(["key"])]) for row in batch.to_pylist()]
    assert found == [
        {"text": "é0", "more": None, "key": 3},
        {"text": "é1", "more": None, "key": 1},
        {"text": None, "more": None, "key": 1},
    ]


# Spark's hash -----------------------------------------------------------------------------------------------


@given(tasks=st.integers(1, 300))
def test_each_task_has_a_key_of_its_own(tasks: int) -> None:
    places = spark_hash(np.array(task_keys(tasks), np.int32)).astype(np.int64) % tasks
    assert places.tolist() == list(range(tasks))


@pytest.mark.spark
def test_numbers_are_hashed_as_spark_does(spark: SparkSession) -> None:
    numbers = [0, 1, 2, 1000, 2**31 - 1, -1, -(2**31)]
    frame = spark.createDataFrame([(number,) for number in numbers], "number int")
    expected = [row[0] for row in frame.selectExpr("hash(number)").collect()]
    assert spark_hash(np.array(numbers, np.int32)).tolist() == expected
