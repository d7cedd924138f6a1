"""Writing of datasets from Spark's tasks: by PyArrow, so that the same rows give the same bytes.

Spark's own Parquet writer lists a column's encodings in an order that differs from one JVM to the next.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from dssm import storage
from dssm.manifest import EVENT_TIME, ITEM_ID, LABEL, SOURCE, USER_ID, WEIGHT, FileSpec
from dssm.samples.exchange import Batches

# What tells a row from all others, where it has the column. Not the item's index, which moves with each new item before
# it: rows that stay as they are keep their file, and their vectors where those are scored incrementally.
IDENTITY = (USER_ID, ITEM_ID, EVENT_TIME, SOURCE, LABEL, WEIGHT)
COMPRESSION = "snappy"
ROW_GROUP_BYTES = 64 * 2**20  # about what a task holds of a file that may have several row groups
UNFINISHED = ".tmp"
PART_STEP = 2**50


def write_parts(
    frame: DataFrame,
    folder: str,
    part: str,
    order: Sequence[str] | Sequence[Column],
    names: Mapping[Any, str],
    row_group_rows: int = 2**20,
    change: Callable[[Batches], Batches] = iter,
    part_number: Column | None = None,
    most_tasks: int | None = None,
) -> list[FileSpec]:
    """Writes one Parquet file for each value of the column `part`, sorted within.

    Args:
      frame: the rows; columns whose name starts with two underscores are not written.
      folder: where the files go.
      part: column of few values.
      order: columns, ascending, that order a file's rows completely; with `part_number`, the first is below 2^50 and
        at least 0.
      names: each value's file name; a value without rows gets a file without rows.
      row_group_rows: rows of a row group, which a task holds in memory.
      change: what a task does with its rows, which are sorted by `part` and `order`, before they are written.
      part_number: tells the parts apart as `part` does, below 2^13. Spark's sort first compares eight bytes of the
        first column, and whole rows where those are equal, as they are where a task's rows are of one part.
      most_tasks: where the files are small: for one of few rows a task's start takes longer than its rows. None: a task
        a file.
    Returns: the files, in the order of `names`.
    """
    storage.make_folder(folder)
    columns = [column for column in frame.columns if not column.startswith("__")]
    # A row group has as many rows as are asked for, whatever the batches were: the bytes must not depend on them.
    writer = PartWriter(folder, tuple(columns), {str(k): name for k, name in names.items()}, row_group_rows)
    tasks = min(len(names), most_tasks or len(names))
    parted = frame.withColumn("__part", F.col(part).cast("string")).repartition(tasks, part)
    by = [part, *order]
    if part_number is not None:
        by = [part_number.cast("long") * PART_STEP + by[1], *by[2:]]
    # Expressions as columns: Spark's sort computes one again each time that it compares two rows.
    keys = [column if isinstance(column, str) else f"__key_{number}" for number, column in enumerate(by)]
    made = {key: column for key, column in zip(keys, by, strict=True) if not isinstance(column, str)}
    rows = parted.withColumns(made).sortWithinPartitions(*keys).select("__part", *columns)
    written = rows.mapInArrow(
        lambda batches: writer.run(change(batches)), "name string, rows bigint, sha256 string"
    ).collect()
    remove_unfinished(folder)
    files = {row["name"]: FileSpec(**row.asDict()) for row in written}
    for name in names.values():
        if name not in files:
            with new_file(f"{folder}/{name}", to_arrow_schema(frame.select(columns).schema)) as empty:
                pass
            files[name] = FileSpec(name=name, rows=0, sha256=empty.sha256)
    return [files[name] for name in names.values()]


def write_one(frame: DataFrame, path: str, order: Sequence[str], row_group_rows: int = 2**20) -> None:
    """Writes all rows as one file, sorted; see `write_parts`."""
    folder, _, name = path.rpartition("/")
    write_parts(frame.withColumn("__one", F.lit(0)), folder, "__one", order, {0: name}, row_group_rows)


@dataclass(frozen=True)
class PartWriter:
    """Writes a task's rows, which are sorted by `__part`."""

    folder: str
    columns: tuple[str, ...]
    names: Mapping[str, str]
    row_group_rows: int

    def run(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        current: str | None = None
        file: new_file | None = None
        held: list[pa.RecordBatch] = []
        counts: dict[str, int] = {}
        sums: dict[str, str] = {}
        try:
            for batch in batches:
                for value in pc.unique(batch.column(0)).to_pylist():
                    if value != current:
                        if file is not None:
                            self._flush(file, held, everything=True)
                            sums[self.names[str(current)]] = file.commit()
                        current, held = value, []
                        name = self.names[value]
                        counts[name] = 0
                        file = new_file(
                            f"{self.folder}/{name}", pa.schema([batch.schema.field(c) for c in self.columns])
                        )
                    rows = batch.filter(pc.equal(batch.column(0), value)).select(list(self.columns))
                    counts[self.names[value]] += rows.num_rows
                    held.append(rows)
                    assert file is not None
                    self._flush(file, held, everything=False)
            if file is not None:
                self._flush(file, held, everything=True)
                sums[self.names[str(current)]] = file.commit()
        finally:
            if file is not None:
                file.discard()
        made = [pa.array(counts.keys(), pa.string()), pa.array(counts.values(), pa.int64())]
        made.append(pa.array([sums[name] for name in counts], pa.string()))
        yield pa.RecordBatch.from_arrays(made, names=["name", "rows", "sha256"])

    def _flush(self, file: new_file, held: list[pa.RecordBatch], everything: bool) -> None:
        """Writes whole row groups of what is held, and with `everything` the rest."""
        size = self.row_group_rows
        waiting = sum(batch.num_rows for batch in held)
        if waiting == 0 or (waiting < size and not everything):
            return
        table = pa.Table.from_batches(held)
        whole = table.num_rows if everything else table.num_rows - table.num_rows % size
        for start in range(0, whole, size):
            file.write(table.slice(start, min(size, whole - start)))
        held[:] = table.slice(whole).to_batches()


class _Summing:
    """A file that sums up what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class new_file:  # noqa: N801  (used as a function that is a context)
    """A Parquet file that has its name when it is whole: a task may run twice at a time, or be killed."""

    def __init__(self, path: str, schema: pa.Schema, dictionary: Sequence[str] = ()) -> None:
        folder, _, name = path.rpartition("/")
        self._path, self._temporary = path, f"{folder}/.{name}.{uuid.uuid4().hex}{UNFINISHED}"
        system, place = storage.filesystem(self._temporary)
        self._file = _Summing(system.open(place, "wb"))
        kinds = list(dictionary) or False
        self._writer = pq.ParquetWriter(self._file, schema, compression=COMPRESSION, use_dictionary=kinds)
        self._open = True

    def __enter__(self) -> new_file:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.commit()
        self.discard()

    def write(self, rows: pa.Table) -> None:
        """Writes a row group."""
        self._writer.write_table(rows, row_group_size=max(rows.num_rows, 1))

    @property
    def sha256(self) -> str:
        """Of the file, once it is committed."""
        return self._file.digest.hexdigest()

    def commit(self) -> str:
        """Gives the file its name. Returns: its SHA-256."""
        self._close()
        storage.rename(self._temporary, self._path)
        return self.sha256

    def discard(self) -> None:
        """Removes the file unless it was committed."""
        if self._open:
            self._close()
            storage.remove(self._temporary)

    def _close(self) -> None:
        self._open = False
        self._writer.close()
        self._file.close()


def remove_unfinished(folder: str) -> None:
    """Removes what tasks left that were killed before their file was whole."""
    for name in storage.file_names(folder, UNFINISHED):
        storage.remove(f"{folder}/{name}")


def stable_files(rows: int, rows_per_file: int) -> int:
    """Returns how many files rows that are scored go to: the smallest power of two with no more rows a file.

    A row's file is its hash modulo the count. As a dataset grows, the count changes at a doubling alone, and a row's
    new file then tells its old one: rows that stay as they are are found, and need not be scored again. Of a count that
    is no power of two, one file more sends nearly all rows elsewhere.

    >>> [stable_files(rows, 100) for rows in (0, 100, 101, 200, 201, 400)]
    [1, 1, 2, 2, 4, 4]
    """
    return 2 ** max(0, -(-rows // rows_per_file) - 1).bit_length()


def write_shuffled(frame: DataFrame, folder: str, rows: int, rows_per_file: int, seed: int) -> list[FileSpec]:
    """Writes rows in an order drawn by the seed over the whole dataset, one row group a file.

    The place of a row is a hash of the seed and the row's identity (`IDENTITY`), so the same rows give
    the same files whatever the partitions were.

    Args:
      frame: the rows, with those columns of IDENTITY that they have.
      folder: where the files go.
      rows: about how many there are.
      rows_per_file: rows of a file at most, but for chance; see `stable_files`.
      seed: of the order.
    """
    files = stable_files(rows, rows_per_file)
    identity = [column for column in IDENTITY if column in frame.columns]
    drawn = frame.withColumn("__order", F.xxhash64(F.lit(seed), *identity))
    drawn = drawn.withColumn("__file", F.expr(f"cast(pmod(xxhash64(__order), {files}) as int)"))
    names = {number: f"part-{number:05d}.parquet" for number in range(files)}
    one_row_group = 2**31 - 1
    return write_parts(drawn, folder, "__file", ["__order", *identity], names, one_row_group)
