"""Point-in-time histories: what a user acted on strictly before each event. Pure Arrow and NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dssm.manifest import EVENT_TIME, ITEM_ID, USER_ID


def flag_column(history: str) -> str:
    """Name of the boolean column that marks the rows which enter a history."""
    return f"__in_{history}"


EMIT = "__emit"


def with_histories(batches: Iterable[pa.RecordBatch], lengths: Mapping[str, int]) -> Iterator[pa.RecordBatch]:
    """Adds to each emitted event the items that its user acted on before it, newest first.

    One pass with bounded state, linear in the rows: per batch, only the current user's newest
    entries are carried on.

    Args:
      batches: rows sorted by USER_ID, then EVENT_TIME; with ITEM_ID, a boolean `__emit` (the row
        is wanted in the output) and, for each history, a boolean column named by `flag_column`.
        A user's rows are all in this iterator.
      lengths: the number of items to keep, for each history.
    Yields: the emitted rows without the boolean columns, and a list<string> column a history.
      Events with the same timestamp never see each other. Equal times keep the input's order.
    """
    carry: pa.Table | None = None
    for batch in batches:
        if batch.num_rows == 0:
            continue
        rows = pa.Table.from_batches([batch])
        carried = 0 if carry is None else carry.num_rows
        if carry is not None:
            rows = pa.concat_tables([carry, rows])
        rows = rows.combine_chunks()
        user_start, group_start = _run_starts(rows)
        emitted = np.flatnonzero(_numpy(rows[EMIT]) & (np.arange(rows.num_rows) >= carried))
        out = rows.drop([EMIT, *map(flag_column, lengths)]).take(pa.array(emitted))
        keep = np.zeros(rows.num_rows, dtype=bool)
        for name, last in lengths.items():
            entries = np.flatnonzero(_numpy(rows[flag_column(name)]))
            lists = _newest_before(entries, user_start[emitted], group_start[emitted], last)
            out = out.append_column(name, _take_lists(rows[ITEM_ID], *lists))
            keep[_still_needed(entries, user_start[-1], group_start[-1], last)] = True
        carry = rows.filter(pa.array(keep))
        yield from out.combine_chunks().to_batches()


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy()


def _run_starts(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for each row, the first row of its user and the first row of its (user, time)."""
    users = pc.dictionary_encode(rows[USER_ID].combine_chunks()).indices.to_numpy()
    times = _numpy(rows[EVENT_TIME])
    place = np.arange(rows.num_rows)
    new_user = np.concatenate([[True], users[1:] != users[:-1]])
    new_group = new_user | np.concatenate([[True], times[1:] != times[:-1]])
    return np.maximum.accumulate(np.where(new_user, place, 0)), np.maximum.accumulate(np.where(new_group, place, 0))


def _newest_before(
    entries: np.ndarray, user_start: np.ndarray, group_start: np.ndarray, last: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns list offsets (rows + 1) and the row numbers of each list's entries, newest first."""
    end = np.searchsorted(entries, group_start)
    begin = np.maximum(end - last, np.searchsorted(entries, user_start))
    counts = end - begin
    offsets = np.concatenate([[0], np.cumsum(counts)])
    newest_first = np.repeat(end - 1 + offsets[:-1], counts) - np.arange(offsets[-1])
    return offsets, entries[newest_first]


def _take_lists(items: pa.ChunkedArray, offsets: np.ndarray, places: np.ndarray) -> pa.ListArray:
    values = items.combine_chunks().take(pa.array(places))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def _still_needed(entries: np.ndarray, user_start: int, group_start: int, last: int) -> np.ndarray:
    """Returns the entries of the last user that later rows may need: `last` before the last timestamp, all at it."""
    begin = max(np.searchsorted(entries, group_start) - last, np.searchsorted(entries, user_start))
    return entries[begin:]
