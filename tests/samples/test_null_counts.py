"""How many rows of a table have nothing in a feature's column."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dssm.features import DenseFeat, SparseFeat, VarLenSparseFeat
from dssm.manifest import NullCounts

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark


def test_what_is_null(spark: SparkSession) -> None:
    from dssm.samples.null_counts import count_nulls

    rows = [("a", 1.5, ["x"]), (" ", None, []), (None, 0.0, None), ("b", 2.0, ["y"])]
    frame = spark.createDataFrame(rows, "city string, age double, tags array<string>")
    features = (
        SparseFeat(side="user", name="city"),
        SparseFeat(side="user", name="town", column="city", hash_buckets=3),
        DenseFeat(side="user", name="age"),
        VarLenSparseFeat(side="user", name="tags"),
    )
    assert count_nulls(frame, features) == {
        "city": NullCounts(rows=4, nulls=2),
        "town": NullCounts(rows=4, nulls=2),
        "age": NullCounts(rows=4, nulls=1),
        "tags": NullCounts(rows=4, nulls=2),
    }
    assert count_nulls(frame, ()) == {}
