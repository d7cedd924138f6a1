"""Exact search: each user's best items of the whole catalogue, from scores that come in blocks. Pure NumPy.

Users and items meet as pairs: whole numbers `row · items + item`, ascending, so that to look one up is a binary search.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from dssm.manifest import NO_ITEM

# Scored at once. Of 1,024 to 16,384, with 128 to 2,048 users, the product of 512 users and 8,192 items was among
# the fastest, within 3 %; their scores take 16 MB.
ITEMS_AT_ONCE = 8192

# A score and an item make one 64-bit key, the better the smaller; this one stands where there is no item.
_EMPTY = np.uint64(0xFF800000_FFFFFFFF)
_SIGN, _REST, _HALF = np.uint32(0x80000000), np.uint32(0x7FFFFFFF), np.uint64(32)

Scores = tuple[int, np.ndarray]
"""Index of the first item, and the scores of it and of those that follow: (users, items of the block) float32."""


@dataclass(frozen=True)
class Ranked:
    """Best items first, equal scores by item index.

    Attributes:
      items: (users, count) int64; NO_ITEM where there are no more.
      scores: (users, count) float32; −inf there.
    """

    items: np.ndarray
    scores: np.ndarray


def pairs(lists: sp.csr_matrix) -> np.ndarray:
    """Returns the pairs of a matrix (users, items): (entries,) int64, ascending, each once."""
    rows = np.repeat(np.arange(lists.shape[0]), np.diff(lists.indptr))
    return np.unique(rows * lists.shape[1] + lists.indices)


def contains(sorted_pairs: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns whether each of `wanted`, of any shape, is among the pairs."""
    if not len(sorted_pairs):
        return np.zeros(wanted.shape, bool)
    places = np.minimum(np.searchsorted(sorted_pairs, wanted), len(sorted_pairs) - 1)
    found: np.ndarray = sorted_pairs[places] == wanted
    return found


def product_blocks(users: np.ndarray, items: Iterable[tuple[int, np.ndarray]]) -> Iterator[Scores]:
    """Yields inner products. A block is overwritten by the next.

    Args:
      users: (users, dim) float32.
      items: index of the first item, and vectors (items of the part, dim) float32, which may be mapped from a file.
    """
    memory = np.empty(len(users) * ITEMS_AT_ONCE, np.float32)
    for first, vectors in items:
        for start in range(0, len(vectors), ITEMS_AT_ONCE):
            part = vectors[start : start + ITEMS_AT_ONCE]
            scores = memory[: len(users) * len(part)].reshape(len(users), len(part))
            yield first + start, np.dot(users, part.T, out=scores)


def best_items(
    blocks: Iterable[Scores], users: int, items: int, count: int, seen: np.ndarray | None = None
) -> tuple[Ranked, Ranked]:
    """Returns the best items of each user, and the best of those not seen, from one pass over the scores.

    Args:
      blocks: in the order of the items. −inf and NaN are never ranked.
      users: rows of the blocks.
      items: of the catalogue.
      count: K.
      seen: pairs.
    """
    search = _Search(users, items, count, np.zeros(0, np.int64) if seen is None else seen)
    for first, scores in blocks:
        search.add(first, scores)
    return search.ranked()


class _Search:
    """A running threshold a user, the K-th best score so far: most blocks cost one comparison.

    What is above the threshold is held back and merged into the best when there is enough of it. The threshold is
    that of the items not seen, which is never the higher one.
    """

    def __init__(self, users: int, items: int, count: int, seen: np.ndarray) -> None:
        self._users, self._items, self._count, self._seen = users, items, min(count, items), seen
        self._best = np.full((users, self._count), _EMPTY)
        self._best_unseen = self._best
        self._least = self._least_unseen = np.full((users, 1), -np.inf, np.float32)
        self._rows = np.min_scalar_type(max(users - 1, 0))  # 16 bits, as a rule: these are sorted by radix
        self._above = np.empty(0, bool)
        self._held: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._pending = self._added = 0

    def add(self, first: int, scores: np.ndarray) -> None:
        """Adds a block of items that come after those added before."""
        scores, start = scores.astype(np.float32, copy=False), 0
        while start < scores.shape[1]:
            # At most as many items as there were: then few of them are above the threshold, which follows.
            piece = scores[:, start : start + max(self._added, 2 * self._count)]
            self._hold(first + start, piece)
            if 2 * self._pending >= self._users * self._count:
                self._merge()
            start += piece.shape[1]
            self._added += piece.shape[1]

    def _hold(self, first: int, scores: np.ndarray) -> None:
        if self._above.size < scores.size:
            self._above = np.empty(scores.size, bool)
        above = self._above[: scores.size].reshape(scores.shape)
        np.greater(scores, self._least_unseen, out=above)
        places = np.flatnonzero(above)
        if not len(places):
            return
        rows, columns = np.divmod(places, scores.shape[1])
        items, values = columns + first, scores[rows, columns]
        is_seen = contains(self._seen, rows * self._items + items)
        useful = ~is_seen | (values > self._least[rows, 0])
        keys = _keys(values[useful], items[useful])
        self._held.append((rows[useful].astype(self._rows), keys, is_seen[useful]))
        self._pending += len(keys)

    def _merge(self) -> None:
        if not self._held:
            return
        rows, keys, is_seen = (np.concatenate(parts) for parts in zip(*self._held, strict=True))
        order = np.argsort(rows, kind="stable")
        counts = np.bincount(rows, minlength=self._users)
        places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows, keys, is_seen = rows[order], keys[order], is_seen[order]
        found = np.full((self._users, counts.max()), _EMPTY)
        found[rows, places] = keys
        best = self._with(self._best, found)
        if len(self._seen):
            found[rows[is_seen], places[is_seen]] = _EMPTY
            self._best_unseen = self._with(self._best_unseen, found)
        else:
            self._best_unseen = best
        self._best = best
        self._least, self._least_unseen = (_scores(keys[:, -1:]) for keys in (best, self._best_unseen))
        self._held, self._pending = [], 0

    def _with(self, best: np.ndarray, found: np.ndarray) -> np.ndarray:
        joined = np.concatenate([best, found], axis=1)
        joined.sort(axis=1)
        return joined[:, : self._count].copy()

    def ranked(self) -> tuple[Ranked, Ranked]:
        self._merge()
        return _ranked(self._best), _ranked(self._best_unseen)


def _ranked(keys: np.ndarray) -> Ranked:
    items = keys.astype(np.uint32).astype(np.int64)  # the lower half
    items[keys == _EMPTY] = NO_ITEM
    return Ranked(items, _scores(keys))


def _keys(scores: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Returns keys that ascend where scores descend, and with the item where these are equal: (n,) uint64."""
    bits = (scores + np.float32(0)).view(np.uint32)  # −0 + 0 is 0
    falling = np.where(bits & _SIGN, bits, bits ^ _REST)
    keys: np.ndarray = (falling.astype(np.uint64) << _HALF) | items.astype(np.uint64)
    return keys


def _scores(keys: np.ndarray) -> np.ndarray:
    """Returns the scores of keys, float32 of the same shape."""
    falling = (keys >> _HALF).astype(np.uint32)
    return np.where(falling & _SIGN, falling, falling ^ _REST).view(np.float32)
