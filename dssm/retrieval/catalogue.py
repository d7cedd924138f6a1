"""The catalogue as the executors rank it: vectors of the item tower in the order of the item indexes, in files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dssm.errors import UserError
from dssm.manifest import ITEM_INDEX, ITEM_KEY, ITEM_ROWS, ColumnSpec, Manifest, check_columns
from dssm.model.manifest import ModelManifest
from dssm.paths import RunPaths
from dssm.retrieval.arrays import part_name, write_array
from dssm.retrieval.rankers import COLD_ITEMS, ITEM_KEYS, VECTORS
from dssm.samples.splitmix import mixed
from dssm.scoring.vectors import VECTOR, with_vectors

ITEMS_PER_FILE = 131_072  # what a task holds at once: 67 MB of 128 numbers each
WRITTEN = "first long, rows long, is_whole boolean, cold long, broken long, digest long"


@dataclass(frozen=True)
class Catalogue:
    """What was written: items, those without a training row that weighs, and a digest of all ids in their order."""

    items: int
    cold: int
    digest: int


def write_catalogue(
    spark: SparkSession,
    paths: RunPaths,
    manifest: Manifest,
    model: ModelManifest,
    folder: str,
    items_per_file: int = ITEMS_PER_FILE,
) -> Catalogue:
    """Writes the vectors, and beside them the hashes of the ids and which items have no training row.

    Neither the driver nor a task ever holds more than a file's rows.

    Args:
      manifest: of the dataset `items`.
      folder: of the arrays; every executor sees it.
    Raises: UserError where the item indexes have gaps, or a vector holds what is no number.
    """
    dataset, long = paths.part("items"), ColumnSpec(dtype="int64")
    check_columns(manifest, {ITEM_KEY: long, ITEM_ROWS: long}, dataset)
    vectors = with_vectors(
        spark, dataset, manifest, f"{paths.model}/item_tower", model.model_version, model.item_columns,
        [ITEM_INDEX, ITEM_KEY, ITEM_ROWS],
    )  # fmt: skip
    files = max(1, math.ceil(manifest.rows / items_per_file))
    by_file = vectors.repartition(files, F.floor(F.col(ITEM_INDEX) / items_per_file)).sortWithinPartitions(ITEM_INDEX)
    found = by_file.mapInArrow(_writer(folder, items_per_file), WRITTEN).collect()
    found.sort(key=lambda row: row["first"])
    ends = np.cumsum([0, *(row["rows"] for row in found)])
    if not all(row["is_whole"] and row["first"] == end for row, end in zip(found, ends, strict=False)):
        raise UserError(f"{dataset}: the item indexes are not 0…{manifest.rows - 1}; run build_samples again")
    broken = sum(row["broken"] for row in found)
    if broken:
        raise UserError(
            f"{paths.model}: the item tower gives {broken:,} of {manifest.rows:,} items vectors that are not all "
            "finite numbers; run train again, with a lower train.learning_rate or with train.clip"
        )
    return Catalogue(int(ends[-1]), sum(row["cold"] for row in found), sum(row["digest"] for row in found) % 2**64)


def _writer(folder: str, items_per_file: int) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for rows in whole_files(batches, items_per_file):
            yield pa.RecordBatch.from_pylist([_write_file(folder, rows)])

    return run


def whole_files(batches: Iterable[pa.RecordBatch], items_per_file: int) -> Iterator[pa.Table]:
    """Yields the rows of each file as they become whole; the batches are in the order of the item indexes."""
    held: list[pa.RecordBatch] = []
    current = None
    for batch in batches:
        files = batch.column(batch.schema.get_field_index(ITEM_INDEX)).to_numpy() // items_per_file
        for file in np.unique(files):
            if held and file != current:
                yield pa.Table.from_batches(held)
                held = []
            current = file
            start, stop = np.searchsorted(files, [file, file + 1])
            held.append(batch.slice(start, stop - start))
    if held:
        yield pa.Table.from_batches(held)


def _write_file(folder: str, rows: pa.Table) -> dict[str, int | bool]:
    """Writes one file's rows. Returns: a row of WRITTEN."""
    table = rows.combine_chunks()
    indexes, keys, trained = (table[name].to_numpy() for name in (ITEM_INDEX, ITEM_KEY, ITEM_ROWS))
    first = int(indexes[0])
    vectors = table[VECTOR].chunk(0).flatten().to_numpy().reshape(len(table), -1)
    write_array(folder, part_name(VECTORS, first), vectors)
    write_array(folder, part_name(COLD_ITEMS, first), trained == 0)
    write_array(folder, part_name(ITEM_KEYS, first), keys)
    hashes = mixed(mixed(keys.astype(np.uint64)) ^ indexes.astype(np.uint64))
    return {
        "first": first,
        "rows": len(table),
        "is_whole": bool((indexes == np.arange(first, first + len(table))).all()),
        "cold": int((trained == 0).sum()),
        "broken": int((~np.isfinite(vectors).all(axis=1)).sum()),
        "digest": int(hashes.sum(dtype=np.uint64).view(np.int64)),
    }
