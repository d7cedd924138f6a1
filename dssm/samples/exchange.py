"""Rows between Spark's tasks as a few large values instead of many small ones. Pure Arrow and NumPy.

Spark moves, sorts and hands over to Python a row at a time, at about a microsecond each. A slice is the rows of some
batches that go to one place, as one binary in Arrow's stream format, packed by LZ4: of millions of rows Spark sees
some thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

SLICE = "__slice"
SLICED_BYTES = 16 * 2**20  # of rows that are cut into slices at once
# Half as many bytes go through the JVM, which copies each of them some ten times.
PACKED = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)

Batches = Iterable[pa.RecordBatch]


def scattered(run: Callable[[Batches], Batches], key: str) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Returns a function that runs another and yields its rows as slices: (`key`, SLICE).

    Args:
      key: an int32 column without nulls; rows of the same value go into the same slices.
    """

    def scatter(batches: Batches) -> Iterator[pa.RecordBatch]:
        for table in joined(run(batches), SLICED_BYTES):
            yield as_batch(key, slices(table, table[key].to_numpy()))

    return scatter


def gathered(run: Callable[[Batches], Batches]) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Returns a function that runs another on the rows of the slices that it is given."""

    def gather(batches: Batches) -> Iterator[pa.RecordBatch]:
        yield from run(rows(batches))

    return gather


def filled(
    run: Callable[[Batches], Batches], fields: Sequence[tuple[str, pa.DataType]]
) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Returns a function that runs another and yields its rows with all of the fields; null where they have none."""

    def fill(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in run(batches):
            has = set(batch.schema.names)
            columns = [batch[name] if name in has else pa.nulls(batch.num_rows, kind) for name, kind in fields]
            yield pa.RecordBatch.from_arrays(columns, names=[name for name, _ in fields])

    return fill


def slices(table: pa.Table, keys: np.ndarray) -> Iterator[tuple[int, pa.Table]]:
    """Yields each key, (rows,) integers, ascending, and its rows in their order."""
    if table.num_rows == 0:
        return
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    ordered = table.take(pa.array(order)).combine_chunks()
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(keys)], strict=True):
        yield int(keys[start]), ordered.slice(start, end - start)


def as_batch(key: str, sliced: Iterable[tuple[int, pa.Table]]) -> pa.RecordBatch:
    """Returns keys and tables as rows of (`key`, SLICE)."""
    keys, ends, sink = [], [0], pa.BufferOutputStream()
    for number, table in sliced:
        with pa.ipc.new_stream(sink, table.schema, options=PACKED) as stream:
            stream.write_table(table)
        keys.append(number)
        ends.append(sink.tell())
    offsets = pa.py_buffer(np.array(ends, np.int32))
    data = pa.BinaryArray.from_buffers(pa.binary(), len(keys), [None, offsets, sink.getvalue()])
    return pa.RecordBatch.from_arrays([pa.array(keys, pa.int32()), data], names=[key, SLICE])


def rows(batches: Batches) -> Iterator[pa.RecordBatch]:
    """Yields the rows of slices."""
    for batch in batches:
        for data in batch.column(batch.schema.get_field_index(SLICE)):
            yield from pa.ipc.open_stream(data.as_buffer())


def joined(batches: Batches, size: int) -> Iterator[pa.Table]:
    """Yields consecutive batches of the same columns together, of at least `size` bytes but for the last."""
    held: list[pa.RecordBatch] = []
    waiting = 0
    for batch in batches:
        if batch.num_rows == 0:
            continue
        if held and (waiting >= size or batch.schema != held[0].schema):
            yield pa.Table.from_batches(held)
            held, waiting = [], 0
        held.append(batch)
        waiting += batch.nbytes
    if held:
        yield pa.Table.from_batches(held)


def task_keys(tasks: int) -> list[int]:
    """Returns a number for each task that Spark's partitioning by hash sends there: as many rows to each."""
    numbers = np.arange(64 * tasks, dtype=np.int32)
    places, first = np.unique(spark_hash(numbers).astype(np.int64) % tasks, return_index=True)
    keys = dict(zip(places.tolist(), first.tolist(), strict=True))
    return [keys.get(task, task) for task in range(tasks)]


def spark_hash(numbers: np.ndarray) -> np.ndarray:
    """Returns Spark's `hash` of (n,) int32: MurmurHash3 of 32 bits (Appleby) with the seed 42; int32."""
    with np.errstate(over="ignore"):
        mix = _rotated(numbers.astype(np.uint32) * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)
        state = _rotated(mix ^ np.uint32(42), 13) * np.uint32(5) + np.uint32(0xE6546B64)
        state ^= np.uint32(4)  # bytes of a number
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            state = (state ^ (state >> np.uint32(shift))) * np.uint32(factor)
    return (state ^ (state >> np.uint32(16))).view(np.int32)


def _rotated(words: np.ndarray, bits: int) -> np.ndarray:
    return (words << np.uint32(bits)) | (words >> np.uint32(32 - bits))
