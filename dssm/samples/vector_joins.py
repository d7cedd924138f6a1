"""How many rows of profiles and catalogue find a pretrained vector."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm.config import Settings
from dssm.features import DenseFeat, takes_list
from dssm.manifest import JoinCounts, SourceCounts
from dssm.samples.column_checks import list_entries
from dssm.samples.inputs import InputTables
from dssm.samples.raw_columns import HISTORY, USER
from dssm.samples.sources import ID, quoted
from dssm.samples.tables import VALID_FROM


def count_vectors(
    settings: Settings, tables: InputTables, counts: Mapping[str, SourceCounts], vectors: Mapping[str, DataFrame]
) -> list[JoinCounts]:
    """Counts, for each column that features look vectors up by, the rows of its table with one; of a list, with any.

    What stands in a history are the catalogue's ids. The user's own id, which is the column of no table, is left out.

    Args: vectors: by name, with a column `id`.
    """
    joins: dict[str, JoinCounts] = {}
    for feature in settings.features.values():
        if not isinstance(feature, DenseFeat) or feature.pre_embed is None:
            continue
        table, column = "catalogue", feature.source_column
        if feature.side == "user":
            table = tables.providers[column]
        if table == USER:
            continue
        if table == HISTORY or (table == "catalogue" and column == settings.catalogue.key):
            table, place, frame = "catalogue", "catalogue", tables.catalogue
            ids = F.col(ID)
        else:
            place = f"{table}.{column}"
            frame = tables.catalogue if table == "catalogue" else tables.profiles[table.removeprefix("profiles.")]
            ids = _ids(frame, feature)
        name = f"{place} ⋈ vectors.{feature.pre_embed}"
        if name not in joins:
            matched = _rows_with(frame, ids, vectors[feature.pre_embed])
            joins[name] = JoinCounts(name=name, rows=counts[table].used["read"], matched=matched)
    return list(joins.values())


def _ids(frame: DataFrame, feature: DenseFeat) -> Column:
    column = quoted(feature.source_column)
    if takes_list(feature):
        return list_entries(column, frame.schema[feature.source_column].dataType, feature.separator)
    return column.cast("string")


def _rows_with(frame: DataFrame, ids: Column, vectors: DataFrame) -> int:
    """Returns the number of rows whose id, or one of whose list, is among the vectors'."""
    of_rows = frame.select(*(name for name in (ID, VALID_FROM) if name in frame.columns), ids.alias("id"))
    if not isinstance(of_rows.schema["id"].dataType, T.ArrayType):
        return of_rows.join(vectors.select("id"), "id", "left_semi").count()
    each = of_rows.withColumn("id", F.explode("id"))
    return each.join(vectors.select("id"), "id", "left_semi").drop("id").distinct().count()
