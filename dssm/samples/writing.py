"""Writing of datasets: globally shuffled files of one row group each, in an order that only the seed decides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dssm import storage
from dssm.manifest import EVENT_TIME, ITEM_ID, ITEM_INDEX, LABEL, SOURCE, USER_ID, WEIGHT, FileSpec

# One row group a file: Spark closes a row group at this size, far above that of a file.
ROW_GROUP_BYTES = 2**30

IDENTITY = (USER_ID, ITEM_ID, ITEM_INDEX, EVENT_TIME, SOURCE, LABEL, WEIGHT)


def write_parts(
    frame: DataFrame,
    folder: str,
    part: str,
    order: Sequence[str],
    names: Mapping[Any, str],
    row_group_bytes: int = 64 * 2**20,
) -> None:
    """Writes one Parquet file for each value of the column `part`, sorted within.

    Args:
      frame: the rows; columns whose name starts with two underscores are not written.
      folder: where the files go; it must not exist.
      part: column of few values.
      order: columns that order a file's rows completely.
      names: each value's file name; a value without rows gets a file without rows.
      row_group_bytes: what the writer holds in memory before it closes a row group.
    """
    parted = frame.repartition(len(names), part).sortWithinPartitions(part, *order)
    written = parted.drop(*[column for column in frame.columns if column.startswith("__") and column != part])
    writer = written.write.option("parquet.block.size", row_group_bytes)
    writer.partitionBy(part).parquet(folder)
    for value, name in names.items():
        made = f"{folder}/{part}={value}"
        if not storage.exists(made):
            written.drop(part).limit(0).coalesce(1).write.parquet(made)
        (file,) = storage.file_names(made, ".parquet")
        storage.rename(f"{made}/{file}", f"{folder}/{name}")
        storage.remove(made)
    for leftover in ("_SUCCESS", "._SUCCESS.crc"):
        storage.remove(f"{folder}/{leftover}")


def write_shuffled(frame: DataFrame, folder: str, rows: int, rows_per_file: int, seed: int) -> list[FileSpec]:
    """Writes rows in an order drawn by the seed over the whole dataset.

    The place of a row is a hash of the seed and the row's identity (`IDENTITY`), so the same rows give
    the same files whatever the partitions were.

    Args:
      frame: the rows, with those columns of IDENTITY that they have.
      folder: where the files go; it must not exist.
      rows: about how many there are.
      rows_per_file: rows of a file; files differ by chance.
      seed: of the order.
    """
    files = max(1, math.ceil(rows / rows_per_file))
    identity = [column for column in IDENTITY if column in frame.columns]
    drawn = frame.withColumn("__order", F.xxhash64(F.lit(seed), *identity))
    drawn = drawn.withColumn("__file", F.expr(f"cast(pmod(xxhash64(__order), {files}) as int)"))
    names = {number: f"part-{number:05d}.parquet" for number in range(files)}
    write_parts(drawn, folder, "__file", ["__order", *identity], names, ROW_GROUP_BYTES)
    return [FileSpec(name=name, rows=_rows(f"{folder}/{name}")) for name in names.values()]


def _rows(path: str) -> int:
    system, place = storage.filesystem(path)
    with system.open(place, "rb") as file:
        footer = pq.ParquetFile(file).metadata
    if footer.num_row_groups > 1:
        raise RuntimeError(f"{path}: {footer.num_row_groups} row groups, expected one; lower samples.rows_per_file")
    return int(footer.num_rows)
