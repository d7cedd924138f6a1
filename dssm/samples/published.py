"""Published vectors as hard negatives read them: which version's files, and their numbers whatever their dtype is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm import published, storage
from dssm.errors import UserError
from dssm.samples.sources import quoted


def current_data(name: str, folder: str, day: str) -> str:
    """Returns the files' folder of a published table's current version: of a date, or the newest before a day.

    A folder of Parquet files is returned as it is, and so is one on a file system that Spark alone knows.

    Args: name: the setting of the folder.
    Raises: UserError where no version of the table, or of its date, is current.
    """
    try:
        below = [] if "*" in folder else storage.folder_names(folder)
    except (ImportError, ValueError):  # fsspec has no such scheme
        return folder
    if any(entry.startswith(published.VERSION_FOLDER) for entry in below):
        location, _, date = folder.rstrip("/").rpartition(f"/{published.DATE_FOLDER}")
    else:
        dates = published.dates(folder) if any(entry.startswith(published.DATE_FOLDER) for entry in below) else []
        if not dates:
            return folder
        location, date = folder, max((d for d in dates if d < day), default="")
        if not date:
            raise UserError(f"{name}: {folder} has no version of a date before {day}; publish one first")
    current = published.current(location, date)
    if current is None:
        raise UserError(f"{name}: {folder} holds versions of which none is current; publish one again, or roll back")
    return current.data


def decoded_vectors(frame: DataFrame, key: str, values: str) -> DataFrame:
    """Returns stored vectors as (id: string, values: array<float>); see `dssm.published` for how they are stored.

    Args:
      key: column of the id.
      values: column of lists of numbers, which a column `scale` beside lists of int8 multiplies, or of binaries.
    """
    column, kind = quoted(values), frame.schema[values].dataType
    vector_id = quoted(key).cast("string").alias("id")
    if isinstance(kind, T.BinaryType):
        return frame.select(vector_id, column.alias("values")).mapInArrow(_halves, "id string, values array<float>")
    scale = f"{published.SCALE}{values.removeprefix(published.VECTOR)}"
    if isinstance(kind, T.ArrayType) and isinstance(kind.elementType, T.ByteType) and scale in frame.columns:
        column = F.transform(column, lambda number: number * quoted(scale))
    return frame.select(vector_id, column.cast("array<float>").alias("values"))


def _halves(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Binaries of little-endian float16 → lists of float32; null where the bytes are odd."""
    for batch in batches:
        given = batch.column(1)
        odd = pc.fill_null(pc.equal(pc.bit_wise_and(pc.binary_length(given), 1), 1), True)
        stored = pc.if_else(odd, pa.scalar(b"", given.type), given)
        _, offsets, data = stored.buffers()
        bounds = np.frombuffer(offsets, np.int32)[stored.offset : stored.offset + len(stored) + 1]
        size = int(bounds[-1] - bounds[0])
        halves = np.frombuffer(data, "<f2", size // 2, int(bounds[0])) if size else np.empty(0, np.float16)
        places = pa.array((bounds - bounds[0]) // 2, pa.int32())
        lists = pa.ListArray.from_arrays(places, pa.array(halves.astype(np.float32)), mask=odd)
        yield pa.RecordBatch.from_arrays([batch.column(0), lists], names=["id", "values"])
