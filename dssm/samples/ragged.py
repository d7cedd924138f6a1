"""Ragged arrays: lists of different lengths, laid end to end. Pure Arrow and NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from dssm.features import PADDING_ID

MAX_ENTRIES = 4_000_000  # entries laid out at once where each stands for a list: about 100 bytes each


@dataclass(frozen=True)
class Lists:
    """Lists laid end to end: list i holds values[offsets[i]:offsets[i + 1]].

    `offsets` (n + 1,) go from 0 to len(values); `values` are tokens (Arrow) or numbers (NumPy).
    """

    offsets: np.ndarray
    values: np.ndarray | pa.Array

    @property
    def counts(self) -> np.ndarray:
        return np.diff(self.offsets)

    def row_of_value(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.offsets) - 1), self.counts)

    def take(self, offsets: np.ndarray, places: np.ndarray) -> Lists:
        """Returns lists with these offsets of the values at these places."""
        return Lists(offsets, self.values.take(places))

    def where(self, kept: np.ndarray) -> Lists:
        """Returns the lists without the values for which `kept` (len(values),) is false."""
        if kept.all():
            return self
        return self.take(offsets_of(kept)[self.offsets], np.flatnonzero(kept))

    def first(self, maxlen: int) -> Lists:
        """Returns the first entries of each list, at most `maxlen`."""
        if self.counts.max(initial=0) <= maxlen:
            return self
        return self.take(*entries_kept(self.offsets, maxlen))

    def rows(self, start: int, stop: int) -> Lists:
        bounds = self.offsets[start : stop + 1]
        return Lists(bounds - bounds[0], self.values[bounds[0] : bounds[-1]])

    def padded(self, width: int) -> np.ndarray:
        """Returns lists of at most `width` numbers as (n, width), padded at the end."""
        matrix = np.full((len(self.offsets) - 1, width), PADDING_ID, self.values.dtype)
        matrix[np.arange(width) < self.counts[:, None]] = self.values
        return matrix


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """Returns where ranges of these lengths start when laid end to end, and where the last one ends, (n + 1,)."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns start, start + 1, … of each range, `counts` numbers each, end to end."""
    laid = offsets_of(counts)
    return np.repeat(starts - laid[:-1], counts) + np.arange(laid[-1])


def entries_kept(
    offsets: np.ndarray,
    maxlen: int,
    keep: Literal["first", "last", "heaviest"] = "first",
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses the entries that stay of each list.

    Args:
      offsets: of the lists.
      maxlen: entries that stay at most.
      keep: the first, the last, or those of the largest weights, equal ones by place. What stays keeps its order.
      weights: of each entry, for heaviest.
    Returns: the new offsets, and the places of the entries that stay.
    """
    counts = np.minimum(np.diff(offsets), maxlen)
    if keep == "heaviest":
        assert weights is not None
        rows = np.repeat(np.arange(len(counts)), np.diff(offsets))
        heaviest_first = np.lexsort((-weights, rows))
        return offsets_of(counts), np.sort(heaviest_first[ranges(offsets[:-1], counts)])
    starts = offsets[:-1] if keep == "first" else offsets[1:] - counts
    return offsets_of(counts), ranges(starts, counts)


def nested(outer: Lists, inner: Lists) -> Iterator[tuple[slice, Lists]]:
    """Puts the inner lists, end to end, in the place of their indexes.

    Yields: blocks of consecutive rows of `outer` and their lists. A block has at most MAX_ENTRIES entries, or one row.
    """
    reached = offsets_of(inner.counts.take(outer.values))[outer.offsets]
    start, rows = 0, len(outer.counts)
    while start < rows:
        fitting = int(np.searchsorted(reached, reached[start] + MAX_ENTRIES, side="right")) - 1
        stop = max(fitting, start + 1)
        block = outer.rows(start, stop)
        entries = ranges(inner.offsets[:-1].take(block.values), inner.counts.take(block.values))
        yield slice(start, stop), inner.take(reached[start : stop + 1] - reached[start], entries)
        start = stop
