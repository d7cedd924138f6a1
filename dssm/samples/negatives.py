"""Negatives drawn for the positives of the training window. Pure NumPy.

Each kind draws from its candidates (`dssm.samples.candidates`), by weight, what the user did not click and what was
there at the event's time (`dssm.samples.rejection`).

Nothing depends on which rows stand beside a row: the n-th draw of a row is a hash of the seed, the negatives'
name, the row's hash, n and the attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dssm.samples.candidates import ItemLists, ItemSampler, item_weights
from dssm.samples.rejection import Stream, draw_allowed
from dssm.sections import Negatives

DRAWS_AT_ONCE = 131_072  # of one kind; what they need stays near the processor's cache


class Clicked:
    """The items that each user clicked in the training window, also before what the catalogue says of their upload.

    Args:
      users: (clicks,) integers from 0, below 2⁶³ / catalogue_size.
      items: (clicks,) item indexes; −1, an item out of the catalogue, is left out.
      catalogue_size: number of items.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, catalogue_size: int) -> None:
        self._size = max(catalogue_size, 1)
        if len(users) and not 0 <= users.min() <= users.max() < np.iinfo(np.int64).max // self._size:
            raise ValueError("users: expected codes from 0, not hashes")
        known = items >= 0
        keys = np.unique(users[known].astype(np.int64) * self._size + items[known])
        self._keys = np.append(keys, np.iinfo(np.int64).max)

    def contains(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Returns whether each user clicked each item, of the broadcast shape; −1 is never clicked."""
        keys = users.astype(np.int64) * self._size + items
        return (self._keys[np.searchsorted(self._keys, keys)] == keys) & (items >= 0)


@dataclass(frozen=True)
class PositiveRows:
    """The positives that negatives are drawn for.

    users: (n,) int64, the code that `Clicked` knows the user by.
    items: (n,) int32, index of the positive; −1: it is out of the catalogue.
    times_ms: (n,) int64, Unix milliseconds of the event.
    row_hash: (n,) 64-bit integers, a hash of what identifies the row.
    lists: by name of the negatives: the unclicked impressions (`ItemLists.windows`) of each UnclickedNegatives,
      without those of items that the user clicked; the rankings (`ItemLists.rankings`) of each HardNegatives.
    """

    users: np.ndarray
    items: np.ndarray
    times_ms: np.ndarray
    row_hash: np.ndarray
    lists: Mapping[str, ItemLists]

    def __len__(self) -> int:
        return len(self.users)

    def part(self, begin: int, end: int) -> PositiveRows:
        return PositiveRows(
            self.users[begin:end],
            self.items[begin:end],
            self.times_ms[begin:end],
            self.row_hash[begin:end],
            {name: lists.rows(begin, end) for name, lists in self.lists.items()},
        )


@dataclass(frozen=True)
class CatalogueForSampling:
    """What negatives are drawn from; built once, and the same for all partitions.

    upload_ms: (items,) int64, Unix milliseconds from which the item exists; very small: always.
    groups: (items,) by name of the negatives that have a group, from 0; −1: none.
    samplers: by name of the negatives that are drawn from the catalogue.
    """

    upload_ms: np.ndarray
    groups: Mapping[str, np.ndarray]
    samplers: Mapping[str, ItemSampler]

    @classmethod
    def build(
        cls,
        kinds: Mapping[str, Negatives],
        popularity: np.ndarray,
        upload_ms: np.ndarray,
        groups: Mapping[str, np.ndarray],
    ) -> CatalogueForSampling:
        """Builds the samplers.

        Args:
          popularity: (items,), positives of each item in the training window.
        """
        samplers = {
            name: ItemSampler(item_weights(kind, popularity), upload_ms, None if kind.group is None else groups[name])
            for name, kind in kinds.items()
            if not kind.from_lists
        }
        return cls(upload_ms, groups, samplers)


def sample_negatives(
    kinds: Mapping[str, Negatives], rows: PositiveRows, catalogue: CatalogueForSampling, clicked: Clicked, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the negatives of every kind for a partition's positives; linear in the rows.

    No negative is an item that the user clicked, or one uploaded after the event. A row gets the same
    negatives in every partition and order.

    Args:
      kinds: the settings' negatives by name; `count` of each are drawn.
      clicked: every positive of these rows' users in the training window.
    Returns: items (n, K) int32, kind after kind, −1 where nothing is allowed; and (n, K) float32, the chance of
      each to be drawn, as in `draw_allowed`.
    """
    counts = [kind.count for kind in kinds.values()]
    items = np.empty((len(rows), sum(counts)), dtype=np.int32)
    probability = np.empty((len(rows), sum(counts)), dtype=np.float32)
    rows_at_once = max(1, DRAWS_AT_ONCE // max(counts, default=1))
    for begin in range(0, len(rows), rows_at_once):
        chunk = slice(begin, begin + rows_at_once)
        part = rows.part(chunk.start, chunk.stop)
        column = 0
        for name, kind in kinds.items():
            columns = slice(column, column := column + kind.count)
            items[chunk, columns], probability[chunk, columns] = _negatives_of(
                name, kind, part, catalogue, clicked, seed
            )
    return items, probability


def _negatives_of(
    name: str, kind: Negatives, rows: PositiveRows, catalogue: CatalogueForSampling, clicked: Clicked, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    def excluded(row: np.ndarray, items: np.ndarray) -> np.ndarray:
        later = catalogue.upload_ms[items] > rows.times_ms[row]
        return later | (items < 0) | clicked.contains(rows.users[row], items)

    stream = Stream(seed, name, rows.row_hash)
    if kind.from_lists:
        lists = rows.lists[name]
        return draw_allowed(lists, lists.begin, lists.end, excluded, stream, kind.count)
    sampler, groups = catalogue.samplers[name], None
    if kind.group is not None:
        groups = np.where(rows.items >= 0, catalogue.groups[name][rows.items], -1)
    begin, end = sampler.ranges(rows.times_ms, groups)
    return draw_allowed(sampler, begin, end, excluded, stream, kind.count)
