"""Rows between Spark's tasks as a few large values instead of many small ones. Pure Arrow and NumPy.

Spark moves, sorts and hands to Python a row at a time, about a microsecond per row and hand-over. A slice is the rows
of some batches that go to one place, as one binary in Arrow's stream format: of millions of rows Spark then sees
some thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa

SLICE = "__slice"
SCATTER_BYTES = 16 * 2**20  # of rows that are cut into slices at once

Batches = Iterable[pa.RecordBatch]


def scattered(run: Callable[[Batches], Batches], key: str) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Returns a function that runs another and yields its rows as slices: (`key`, SLICE).

    Args:
      key: an int32 column without nulls: rows of the same value go into the same slices.
    """

    def scatter(batches: Batches) -> Iterator[pa.RecordBatch]:
        for table in joined(run(batches), SCATTER_BYTES):
            yield slices(table, key)

    return scatter


def gathered(run: Callable[[Batches], Batches]) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Returns a function that runs another on the rows of the slices that it is given."""

    def gather(batches: Batches) -> Iterator[pa.RecordBatch]:
        yield from run(rows(batches))

    return gather


def slices(table: pa.Table, key: str) -> pa.RecordBatch:
    """Returns a table as slices, one row a value of `key`, ascending: (`key`, SLICE)."""
    keys = table[key].to_numpy()
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=keys[order[:1]] - 1))
    sorted_rows = table.take(pa.array(order)).combine_chunks()
    ends = np.append(starts[1:], len(keys))
    binaries = [as_binary(sorted_rows.slice(start, end - start)) for start, end in zip(starts, ends, strict=True)]
    values = pa.array(keys[order[starts]], pa.int32())
    return pa.RecordBatch.from_arrays([values, pa.array(binaries, pa.binary())], names=[key, SLICE])


def rows(batches: Batches) -> Iterator[pa.RecordBatch]:
    """Yields the rows of slices."""
    for batch in batches:
        for value in batch.column(batch.schema.get_field_index(SLICE)):
            yield from pa.ipc.open_stream(value.as_buffer())


def as_binary(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def joined(batches: Batches, size: int) -> Iterator[pa.Table]:
    """Yields consecutive batches together, of at least `size` bytes but for the last."""
    held: list[pa.RecordBatch] = []
    waiting = 0
    for batch in batches:
        if batch.num_rows == 0:
            continue
        held.append(batch)
        waiting += batch.nbytes
        if waiting >= size:
            yield pa.Table.from_batches(held)
            held, waiting = [], 0
    if held:
        yield pa.Table.from_batches(held)
