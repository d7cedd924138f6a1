"""Pretrained vectors: read, and kept as files of a build."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm import storage
from dssm.config import Settings
from dssm.errors import UserError
from dssm.samples.sources import (
    CORRUPT,
    NOT_UTF8,
    Quarantine,
    damage_explained,
    first_reason,
    is_finite,
    is_no_id,
    is_not_utf8,
    malformed,
    need_columns,
    need_ids,
    quoted,
)
from dssm.samples.tables import check_unique
from dssm.samples.writing import ROW_GROUP_BYTES, write_one
from dssm.sections import VectorTable
from dssm.spark import explained, matches


def read_vectors(
    spark: SparkSession, settings: Settings, name: str, table: VectorTable, quarantine: Quarantine
) -> DataFrame:
    """Reads pretrained vectors. Grain: one row an id, as (id, values: array<float> of the stated width)."""
    key = f"vectors.{name}"
    path = storage.absolute(settings.expand(table.path)[0])
    if not matches(spark, f"{key}.path", path):
        raise UserError(f"{key}.path: nothing found at {path}; expected {table.format} files")
    with explained(f"{key}.path"), damage_explained(key, path):
        if table.format == "parquet":
            frame = spark.read.parquet(path)
            need_columns(key, frame, {"key": table.key, "values": table.values})
            need_ids(key, frame, {"key": table.key})
            need_vectors(key, frame, table.values)
        else:
            types = {table.key: "string", table.values: "array<float>", CORRUPT: "string"}
            schema = ", ".join(f"`{column}` {kind}" for column, kind in types.items())
            frame = spark.read.schema(schema).option("columnNameOfCorruptRecord", CORRUPT).json(path)
    values = quoted(table.values)
    reason = first_reason(
        (malformed(frame), "malformed row"),
        (is_no_id(frame, table.key), f"no id in '{table.key}'"),
        (is_not_utf8(frame, table.key), f"id in '{table.key}' {NOT_UTF8}"),
        (values.isNull() | (F.size(values) != table.width), f"'{table.values}' is not {table.width} numbers"),
        (
            F.exists(values, lambda value: ~is_finite(value)),
            f"'{table.values}' holds null, NaN or infinity",
        ),
    )
    readable, repeated = quarantine.split(key, frame, reason, path, key=[quoted(table.key).cast("string")])
    if repeated:
        check_unique(key, table.key, readable)
    return readable.select(quoted(table.key).cast("string").alias("id"), values.cast("array<float>").alias("values"))


def need_vectors(name: str, frame: DataFrame, column: str) -> None:
    kind = frame.schema[column].dataType
    if not isinstance(kind, T.ArrayType) or not isinstance(kind.elementType, T.NumericType):
        raise UserError(f"{name}.values: '{column}' holds {kind.simpleString()}; expected lists of numbers")


def write_vectors(vectors: DataFrame, path: str, width: int) -> None:
    """Writes (id, values) as one file, by id."""
    rows = max(1, ROW_GROUP_BYTES // (4 * width))
    write_one(vectors, path, ["id"], rows)
