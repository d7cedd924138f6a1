"""What makes a row's value unreadable for a feature, by Spark's expressions."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm.errors import UserError, did_you_mean
from dssm.features import AnyFeature, DenseFeat, SparseFeat, TextFeat, VarLenSparseFeat, takes_list
from dssm.samples.sources import is_blank, is_finite, is_whole, quoted


def column_checks(frame: DataFrame, feature: AnyFeature) -> list[tuple[Column, str]]:
    """Returns what makes a row's value unreadable for a feature, each with its reason.

    Raises: UserError where no row of the column could be read rightly.
    """
    column, place = quoted(feature.source_column), f"'{feature.source_column}'"
    kind = frame.schema[feature.source_column].dataType
    if isinstance(kind, T.ArrayType) and not takes_list(feature):
        raise UserError(
            f"features.{feature.name}.column: {place} holds lists, a {feature.kind} takes one value a row; "
            "expected a VarLenSparseFeat, or a DenseFeat with pre_embed and a reduce_type"
        )
    is_number = isinstance(feature, DenseFeat) and feature.is_number
    if is_number or (isinstance(feature, SparseFeat) and feature.is_bucketised):
        plain = isinstance(kind, (T.NumericType, T.BooleanType))
        readable = is_finite(column) if plain else _is_number(column.cast("string"))
        return [(~is_blank(column) & ~readable, f"{place} is not a number")]
    if isinstance(feature, VarLenSparseFeat) and feature.weight_column is not None:
        if feature.weight_column not in frame.columns:
            raise UserError(
                f"features.{feature.name}.weight_column: no column is named '{feature.weight_column}'"
                + did_you_mean(feature.weight_column, frame.columns)
            )
        of_weights = frame.schema[feature.weight_column].dataType
        # Blank entries count here: an id and its weight stand at the same place.
        ids = _raw_entries(column, kind, feature.separator)
        weights = _raw_entries(quoted(feature.weight_column), of_weights, feature.separator)
        name = f"'{feature.weight_column}'"
        return [
            (F.size(ids) != F.size(weights), f"{place} and {name} differ in length"),
            (F.exists(weights, lambda weight: ~_is_number(weight)), f"{name} holds what is not a number"),
        ]
    if isinstance(feature, VarLenSparseFeat) and feature.weighted and not isinstance(feature, TextFeat):
        return [
            (
                F.exists(list_entries(column, kind, feature.separator), lambda entry: ~_is_weighted(entry)),
                f"{place} is not id:weight,id:weight",
            )
        ]
    return []


def with_whole_ids(frame: DataFrame, columns: Sequence[str]) -> DataFrame:
    """Returns the table with the floats of columns of ids, or of lists of them, as texts; see `_spelled`."""
    spelled = {}
    for column in dict.fromkeys(columns):
        kind = frame.schema[column].dataType
        if isinstance(kind, T.ArrayType) and _is_fraction(kind.elementType):
            spelled[column] = F.transform(quoted(column), functools.partial(_spelled, kind.elementType))
        elif _is_fraction(kind):
            spelled[column] = _spelled(kind, quoted(column))
    return frame.withColumns(spelled)


def _is_fraction(kind: T.DataType) -> bool:
    return isinstance(kind, T.FractionalType) and not is_whole(kind)


def _spelled(kind: T.DataType, number: Column) -> Column:
    """Returns a number as text, a whole one as an integer and NaN as null: pandas writes integers with nulls as floats.

    Spelled `7.0`, an id would not be the `7` of another table.
    """
    value = number.cast("double")
    is_integer = (value == F.floor(value)) & (F.abs(value) < F.lit(2.0**53))  # beyond, floats skip integers
    return F.when(
        ~F.isnan(value), F.when(is_integer, value.cast("bigint").cast("string")).otherwise(number.cast("string"))
    )


def holds_ids(feature: AnyFeature) -> bool:
    """Whether a feature's column holds ids, or lists of them."""
    if isinstance(feature, SparseFeat):
        return not feature.is_bucketised and feature.time is None
    return not feature.is_number if isinstance(feature, DenseFeat) else not isinstance(feature, TextFeat)


def _raw_entries(column: Column, kind: T.DataType, separator: str) -> Column:
    """Returns the entries of a list as texts, blank ones included; null is an empty list."""
    empty = F.array().cast("array<string>")
    if isinstance(kind, T.ArrayType):
        return F.coalesce(F.transform(column.cast("array<string>"), lambda e: F.coalesce(e, F.lit(""))), empty)
    return F.when(is_blank(column), empty).otherwise(F.split(column.cast("string"), f"\\Q{separator}\\E"))


def list_entries(column: Column, kind: T.DataType, separator: str) -> Column:
    """Returns the entries of a list as the encoder splits them: trimmed, without null and blank ones."""
    if isinstance(kind, T.ArrayType):
        entries = column.cast("array<string>")
    else:
        entries = F.split(column.cast("string"), f"\\Q{separator}\\E")
    trimmed = F.transform(entries, lambda entry: F.regexp_replace(entry, r"(?U)^\s+|\s+$", ""))
    return F.filter(trimmed, lambda entry: entry != "")


def _is_weighted(entry: Column) -> Column:
    return entry.rlike(r"\S\s*:[^:]*$") & _is_number(F.regexp_extract(entry, "[^:]*$", 0))


def _is_number(text: Column) -> Column:
    """Whether a text is a number that Arrow can read: Java also takes `1d`, `0x1p3` and `Infinity`."""
    number = r"^\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*$"
    return text.rlike(number) & is_finite(text)
