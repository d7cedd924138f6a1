"""Counts over many batches in bounded memory. Pure NumPy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

HASHES_KEPT = 1 << 20  # 8 MB


class DistinctCount:
    """Number of different 64-bit hashes: exact up to `kept`, beyond that an estimate by the k smallest.

    Its relative error is about 1/√kept (Bar-Yossef et al., RANDOM 2002): 0.1 % of a million. The keys must be
    hashes, spread evenly over all 64 bits.
    """

    def __init__(self, kept: int = HASHES_KEPT) -> None:
        self._kept = kept
        self._smallest = np.zeros(0, np.uint64)
        self._is_full = False

    def add(self, keys: np.ndarray) -> None:
        """Takes keys (n,) int64."""
        found = np.union1d(self._smallest, keys.astype(np.int64).view(np.uint64))
        self._is_full |= len(found) > self._kept
        self._smallest = found[: self._kept]

    @property
    def is_exact(self) -> bool:
        return not self._is_full

    @property
    def count(self) -> int:
        if self.is_exact:
            return len(self._smallest)
        return round((self._kept - 1) / ((float(self._smallest[-1]) + 1) / 2.0**64))


class IdCounts:
    """How often each id stands in a column: `counts` (size,), 8 bytes an id."""

    def __init__(self, size: int) -> None:
        self.counts = np.zeros(size, np.int64)

    def add(self, ids: np.ndarray) -> None:
        """Takes ids of any shape.

        Raises: ValueError at an id that the size leaves no room for.
        """
        flat = ids.reshape(-1)
        if len(flat) == 0:
            return
        if flat.min() < 0 or flat.max() >= len(self.counts):
            raise ValueError(f"ids {flat.min()} to {flat.max()}, expected 0 to {len(self.counts) - 1}")
        if len(self.counts) <= 4 * len(flat):
            self.counts += np.bincount(flat, minlength=len(self.counts))
        else:  # a large vocabulary: touch only the ids that are there
            found, times = np.unique(flat, return_counts=True)
            self.counts[found] += times


class Moments:
    """Count, mean, deviation and extremes of a stream of numbers (Chan et al., 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0
        self.minimum, self.maximum = np.inf, -np.inf

    def add(self, values: np.ndarray) -> None:
        """Takes finite values (n,)."""
        if len(values) == 0:
            return
        values = values.astype(np.float64)
        mean = float(values.mean())
        total, apart = self.count + len(values), mean - self.mean
        self._squares += float(((values - mean) ** 2).sum()) + apart**2 * self.count * len(values) / total
        self.mean += apart * len(values) / total
        self.count = total
        self.minimum, self.maximum = min(self.minimum, float(values.min())), max(self.maximum, float(values.max()))

    @property
    def deviation(self) -> float:
        """Of the population: divided by the count."""
        return float(np.sqrt(self._squares / self.count)) if self.count else 0.0


class RowSample:
    """A uniform sample of rows, without replacement: all rows up to `size`, then so many of them at random."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._random = np.random.default_rng(seed)
        self._keys = np.zeros(0)
        self.values: dict[str, np.ndarray] = {}

    def add(self, values: Mapping[str, np.ndarray]) -> None:
        """Takes the same columns each time, each (n,) of one n."""
        if not values:
            return
        rows = len(next(iter(values.values())))
        drawn = self._random.random(rows)
        if len(self._keys) == self._size:
            chosen = np.flatnonzero(drawn < self._keys.max())
            drawn, values = drawn[chosen], {name: column[chosen] for name, column in values.items()}
        keys = np.concatenate([self._keys, drawn])
        kept = np.argsort(keys, kind="stable")[: self._size] if len(keys) > self._size else slice(None)
        self._keys = keys[kept]
        self.values = {
            name: np.concatenate([self.values.get(name, column[:0]), column])[kept] for name, column in values.items()
        }
