"""How many rows of profiles and catalogue have nothing in the columns that features read."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm.config import Settings
from dssm.features import AnyFeature
from dssm.manifest import NullCounts
from dssm.samples.inputs import InputTables
from dssm.samples.raw_columns import provided_features, raw_item_features
from dssm.samples.sources import is_blank, quoted


def null_counts(settings: Settings, tables: InputTables) -> dict[str, NullCounts]:
    """Counts by feature, in one pass over each table: once they are encoded, null and unknown ids are one.

    Features of histories, of counters, of the time and of the user's own id are never null, and left out.
    """
    found = count_nulls(tables.catalogue, raw_item_features(settings))
    for name, profile in tables.profiles.items():
        found |= count_nulls(profile, provided_features(settings, tables.providers, f"profiles.{name}"))
    return {name: found[name] for name in settings.features if name in found}


def count_nulls(frame: DataFrame, features: Sequence[AnyFeature]) -> dict[str, NullCounts]:
    """Counts the rows whose column of a feature is null or blank, or an empty list."""
    if not features:
        return {}
    columns = {f.source_column: _is_null(frame, f.source_column) for f in features}
    counts = [F.count(F.when(is_null, 1)).alias(f"{number}") for number, is_null in enumerate(columns.values())]
    totals = frame.agg(F.count("*").alias("rows"), *counts).first()
    assert totals is not None  # an aggregate over no rows is a row
    nulls = {column: totals[f"{number}"] for number, column in enumerate(columns)}
    return {f.name: NullCounts(rows=totals["rows"], nulls=nulls[f.source_column]) for f in features}


def _is_null(frame: DataFrame, column: str) -> Column:
    if isinstance(frame.schema[column].dataType, T.ArrayType):
        return quoted(column).isNull() | (F.size(quoted(column)) == 0)
    return is_blank(quoted(column))
