"""How the work is parted, and what is said where a part is too large."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from dssm.errors import UserError
from dssm.manifest import USER_ID, SourceCounts
from dssm.samples.timeline import Clock

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def too_many(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    Clock.over(2**22, np.array([0, 4_102_444_800_000]))
    yield from batches


def damaged(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    raise OverflowError("another")


def run_before_a_shuffle(spark: SparkSession, run: Any) -> None:
    """Runs it in a task as the user pass is run."""
    rows = spark.range(2).mapInArrow(run, "id long").repartition(2, "id")
    rows.mapInArrow(lambda batches: batches, "id long").collect()


@pytest.mark.spark
def test_too_many_users_of_a_task_are_explained(spark: SparkSession) -> None:
    from dssm.samples.sample_files import overflow_explained

    with pytest.raises(UserError) as caught, overflow_explained():
        run_before_a_shuffle(spark, too_many)
    assert str(caught.value) == (
        "samples.rows_per_task: 4,194,304 users in one task over times of 4,102,444,800,001 ms; "
        "expected at most 2,248,262 users; set it lower"
    )


@pytest.mark.spark
def test_other_failures_of_a_task_stay_as_they_are(spark: SparkSession) -> None:
    from dssm.samples.sample_files import overflow_explained

    with pytest.raises(Exception, match="OverflowError: another") as caught, overflow_explained():
        run_before_a_shuffle(spark, damaged)
    assert not isinstance(caught.value, UserError)


@pytest.mark.spark
def test_published_users_are_rows_that_a_task_orders() -> None:
    from dssm.samples.build import ordered_rows
    from dssm.samples.published import ModelVectors, PublishedVectors

    frame: Any = None
    users = {
        "hard": ModelVectors(frame, frame, width=2, rows=7),
        "harder": ModelVectors(frame, frame, width=2, rows=20),
    }
    counts = [SourceCounts(place="log", rows_read=100), SourceCounts(place="posts", rows_read=3)]
    assert ordered_rows(counts, PublishedVectors({}, users, ())) == 130


def test_only_users_with_an_event_are_ordered() -> None:
    """A profile and a model may know many more users than the log has."""
    from dssm.samples.pass_columns import EVENT, KIND
    from dssm.samples.task_rows import of_users_with_events

    table = pa.table({USER_ID: ["u", "x", "u", "v", "y", "v"], KIND: [0, 0, EVENT, EVENT, 1, 1]})
    assert of_users_with_events(table).to_pylist() == [table.to_pylist()[place] for place in (0, 2, 3, 5)]
    assert of_users_with_events(table.filter(pa.compute.not_equal(table[KIND], EVENT))).num_rows == 0
