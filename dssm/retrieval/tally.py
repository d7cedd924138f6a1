"""What the rankings of many users add up to: metrics, coverage and recall by popularity. Pure NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dssm.metrics import ranking_metrics
from dssm.retrieval.search import top_items

TENTHS = 10


def popularity_tenths(popularity: np.ndarray) -> np.ndarray:
    """Returns the tenth of the catalogue that each item belongs to, (items,): 0 the most popular … 9 the least.

    The tenths are of the ranks, with equally many items but for one; items of equal popularity by index, so
    that where most items have none the last tenths tell nothing from one another.
    """
    order = np.argsort(-popularity, kind="stable")
    tenths = np.empty(len(order), np.int64)
    tenths[order] = np.arange(len(order)) * TENTHS // len(order)
    return tenths


@dataclass
class Tally:
    """Sums over the users that a ranker has ranked for.

    Attributes:
      cutoffs: values of K.
      users: those counted.
      sums: `metric@K` → sum over the users.
      covered: (cutoffs, items), whether the item is in some user's top K.
      relevant: (10,), the users' relevant items in each popularity tenth.
      found: (cutoffs, 10), those of them in the top K.
    """

    cutoffs: tuple[int, ...]
    users: int
    sums: dict[str, float]
    covered: np.ndarray
    relevant: np.ndarray
    found: np.ndarray

    @classmethod
    def empty(cls, cutoffs: Sequence[int], items: int) -> Tally:
        return cls(
            cutoffs=tuple(cutoffs),
            users=0,
            sums=dict.fromkeys(sorted(ranking_metrics(np.zeros((1, max(cutoffs))), np.ones(1), cutoffs)), 0.0),
            covered=np.zeros((len(cutoffs), items), bool),
            relevant=np.zeros(TENTHS, np.int64),
            found=np.zeros((len(cutoffs), TENTHS), np.int64),
        )

    def add(self, scores: np.ndarray, wanted: np.ndarray, tenths: np.ndarray) -> None:
        """Adds users; those without a relevant item are not counted.

        Args:
          scores: (users, items); −inf for an item that is not to be ranked.
          wanted: (users, items), whether the item is relevant.
          tenths: (items,), as of `popularity_tenths`.
        """
        counted = wanted.any(axis=1)
        if not counted.any():
            return
        if not counted.all():
            scores, wanted = scores[counted], wanted[counted]
        best = top_items(scores, max(self.cutoffs))
        hits = np.take_along_axis(wanted, best, axis=1)
        ranked = np.take_along_axis(scores, best, axis=1) > -np.inf
        self.users += len(wanted)
        for name, values in ranking_metrics(hits, wanted.sum(axis=1), self.cutoffs).items():
            self.sums[name] += float(values.sum())
        for place, k in enumerate(self.cutoffs):
            first = best[:, :k]
            self.covered[place, first[ranked[:, :k]]] = True
            self.found[place] += np.bincount(tenths[first[hits[:, :k]]], minlength=TENTHS)
        self.relevant += np.bincount(tenths[np.nonzero(wanted)[1]], minlength=TENTHS)

    def merge(self, other: Tally) -> None:
        """Adds another tally of the same cutoffs and items, of other users."""
        self.users += other.users
        self.sums = {name: value + other.sums[name] for name, value in self.sums.items()}
        self.covered |= other.covered
        self.relevant += other.relevant
        self.found += other.found

    def metrics(self) -> dict[str, float | None]:
        """Returns the means over the users, and coverage@K: the share of the items in some user's top K."""
        means = {name: value / self.users if self.users else None for name, value in self.sums.items()}
        covered = {
            f"coverage@{k}": float(self.covered[place].mean()) if self.users else None
            for place, k in enumerate(self.cutoffs)
        }
        return dict(sorted({**means, **covered}.items()))

    def recall_by_tenth(self) -> dict[str, list[float | None]]:
        """Returns `recall@K` of each tenth's relevant items, all users' together; None where there are none."""
        return {
            f"recall@{k}": [
                hit / of if of else None for hit, of in zip(found.tolist(), self.relevant.tolist(), strict=True)
            ]
            for k, found in zip(self.cutoffs, self.found, strict=True)
        }
