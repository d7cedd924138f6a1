"""What negatives are drawn from: for each row one contiguous range of a flat array of items. Pure NumPy.

The array is the catalogue in order of group and upload, so that what existed at the event's time is a prefix
(`ItemSampler`); or the lists of items that belong to the rows, such as unclicked impressions and rankings
(`ItemLists`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from dssm.sections import (
    GroupNegatives,
    Negatives,
    PopularityNegatives,
    SuppressedNegatives,
    UniformNegatives,
)


class Candidates(Protocol):
    """A flat array of items, of which each row has the range [begin, end)."""

    @property
    def items(self) -> np.ndarray:
        """Returns the flat array, int32."""

    def places(self, begin: np.ndarray, end: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Returns a place of each range, drawn by weight. All (m,); no range is empty."""

    def weights(self, places: np.ndarray) -> np.ndarray:
        """Returns the weights at the places, float64 above 0."""

    def probability(self, begin: np.ndarray, end: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Returns the chance of the item at each place to be drawn from its range, float64 in (0, 1]."""


class ItemSampler:
    """Draws from what the catalogue held at a time, or from one group of it.

    The items lie in order of group, upload and index. Their running sum of weights inverts to a place in
    any range of them; a table that divides the sum into equal buckets finds the place in about two steps
    (the indexed search of Chen and Asau, AIIE Transactions 1974), where bisection needs log₂(items).

    Groups share the running sum, so that weights of grouped items should differ by less than about 10¹⁰.

    Args:
      weights: (items,), at least 0; an item of weight 0 is never drawn.
      upload_ms: (items,) int64, Unix milliseconds from which the item exists; very small: always.
      groups: (items,), each item's group from 0, −1 where it has none; without them all items are one group.
    """

    def __init__(self, weights: np.ndarray, upload_ms: np.ndarray, groups: np.ndarray | None = None) -> None:
        weights = np.asarray(weights, dtype=np.float64)
        if not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError("weights: expected finite numbers, at least 0")
        group = np.zeros(len(weights), np.int64) if groups is None else groups.astype(np.int64)
        drawn = np.flatnonzero((weights > 0) & (group >= 0))
        order = drawn[np.lexsort((upload_ms[drawn], group[drawn]))]
        self.items = order.astype(np.int32)
        self._weights = weights[order]
        self._sums = np.concatenate([[0.0], np.cumsum(self._weights), [np.inf]])
        # An item is in a row's range where its group is the row's and its upload's rank is below the number of
        # different uploads up to the row's time: one ascending key for both.
        self._uploads = np.unique(upload_ms[order])
        self._keys = group[order] * (len(self._uploads) + 1) + np.searchsorted(self._uploads, upload_ms[order])
        buckets = 2 * len(order)
        self._buckets_per_weight = buckets / self._sums[-2] if len(order) else 0.0
        self._first_place = np.searchsorted(self._bucket(self._sums[1:-1]), np.arange(buckets + 1)).astype(np.int32)

    def _bucket(self, sums: np.ndarray) -> np.ndarray:
        # Rounding may put a sum into the bucket beside its own, but never out of order, so that a place found
        # from its bucket's first place upwards is exact.
        return (sums * self._buckets_per_weight).astype(np.intp)

    def ranges(self, times_ms: np.ndarray, groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns the begin and end of what can be drawn at each time.

        Args:
          times_ms: (n,) int64, Unix milliseconds; an item is there from its upload on, that time included.
          groups: (n,), each row's group; −1 has no items.
        Returns: (n,), (n,).
        """
        uploads = np.searchsorted(self._uploads, times_ms, side="right")
        group = np.int64(0) if groups is None else groups.astype(np.int64)
        first = np.broadcast_to(group * (len(self._uploads) + 1), uploads.shape)
        return np.searchsorted(self._keys, first), np.searchsorted(self._keys, first + uploads)

    def places(self, begin: np.ndarray, end: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        low = self._sums[begin]
        wanted = low + uniform * (self._sums[end] - low)
        place = self._first_place[self._bucket(wanted)]
        upper = self._sums[1:]
        behind = np.flatnonzero(upper[place] <= wanted)
        for _ in range(2):
            place[behind] += 1
            behind = behind[upper[place[behind]] <= wanted[behind]]
        # Many steps behind only where a bucket holds many items of little weight.
        place[behind] = np.searchsorted(upper, wanted[behind], side="right")
        return np.minimum(place, end - 1)  # `wanted` may have been rounded up to the range's end

    def weights(self, places: np.ndarray) -> np.ndarray:
        return self._weights[places]

    def probability(self, begin: np.ndarray, end: np.ndarray, places: np.ndarray) -> np.ndarray:
        return self._weights[places] / (self._sums[end] - self._sums[begin])


@dataclass(frozen=True)
class ItemLists:
    """Lists of items that belong to the rows; each entry is equally likely.

    items: (entries,) int32. Lists may overlap: newest impressions are windows of the users' impressions.
    begin, end: (n,) int64, each row's list.
    """

    items: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    sorted_entries: np.ndarray | None = None

    @classmethod
    def windows(cls, items: np.ndarray, begin: np.ndarray, end: np.ndarray) -> ItemLists:
        """Lists in which an item may stand several times, and is then so many times as likely."""
        return cls(items, begin, end, np.sort(items.astype(np.int64) * (len(items) + 1) + np.arange(len(items))))

    @classmethod
    def rankings(cls, ranked: np.ndarray, row: np.ndarray) -> ItemLists:
        """Lists from rankings.

        Args:
          ranked: (queries, ranks), different items in each line; behind the last only −1.
          row: (n,), the line of each row; −1: it has none.
        """
        lengths = np.append((ranked >= 0).sum(axis=1), 0)
        begin = np.maximum(row, 0).astype(np.int64) * ranked.shape[1]
        return cls(ranked.reshape(-1), begin, begin + lengths[row])

    def rows(self, begin: int, end: int) -> ItemLists:
        return replace(self, begin=self.begin[begin:end], end=self.end[begin:end])

    def places(self, begin: np.ndarray, end: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        # Below `end` for every uniform below 1: with 53 bits the product cannot be rounded up to the size.
        return begin + (uniform * (end - begin)).astype(np.int64)

    def weights(self, places: np.ndarray) -> np.ndarray:
        return np.ones(len(places))

    def probability(self, begin: np.ndarray, end: np.ndarray, places: np.ndarray) -> np.ndarray:
        if self.sorted_entries is None:
            return 1.0 / (end - begin)
        item = self.items[places].astype(np.int64) * (len(self.items) + 1)
        times = np.searchsorted(self.sorted_entries, item + end) - np.searchsorted(self.sorted_entries, item + begin)
        return times / (end - begin)


# Weights ---------------------------------------------------------------------------------------------


def word2vec_keep(share: np.ndarray, threshold: float) -> np.ndarray:
    """Returns the chance of an item to be kept: min(1, √(t/f) + t/f), as in word2vec's published code.

    Args:
      share: f, any shape, each item's share of the positives; at 0 the chance is 1.
      threshold: t, above 0.
    """
    share = np.asarray(share, dtype=np.float64)
    ratio = threshold / np.maximum(share, threshold)  # at most 1, where the formula is above 1 anyway
    return np.minimum(1.0, np.sqrt(ratio) + ratio)


def item_weights(kind: Negatives, popularity: np.ndarray) -> np.ndarray:
    """Returns how likely each item is to be drawn, up to a factor.

    Args:
      kind: negatives drawn from the catalogue.
      popularity: (items,), positives of each item in the training window.
    Returns: (items,) float64.
    """
    counts = np.asarray(popularity, dtype=np.float64)
    if isinstance(kind, (UniformNegatives, GroupNegatives)):
        return np.ones(len(counts))
    if isinstance(kind, PopularityNegatives):
        return np.power(counts, kind.exponent, out=np.zeros(len(counts)), where=counts > 0)
    if isinstance(kind, SuppressedNegatives):
        share = counts / max(counts.sum(), 1.0)
        return share * word2vec_keep(share, kind.threshold)
    raise ValueError(f"{kind.kind}: these negatives are drawn from lists of the rows, not from the catalogue")
