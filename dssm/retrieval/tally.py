"""What the rankings of many users add up to: metrics, coverage, recall by groups of items and users. Pure NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dssm.manifest import NO_ITEM
from dssm.metrics import ranking_metrics
from dssm.retrieval.search import contains

TENTHS = 10
METRICS = ("hitrate", "mrr", "ndcg", "precision", "recall")


def popularity_tenths(popularity: np.ndarray) -> np.ndarray:
    """Returns the tenth of the catalogue that each item belongs to, (items,): 0 the most popular … 9 the least.

    The tenths are of the ranks, with equally many items but for one; items of equal popularity by index, so
    that where most items have none the last tenths tell nothing from one another.
    """
    order = np.argsort(-popularity, kind="stable")
    tenths = np.empty(len(order), np.int64)
    tenths[order] = np.arange(len(order)) * TENTHS // len(order)
    return tenths


@dataclass(frozen=True)
class ItemGroups:
    """What the items are grouped by.

    Attributes:
      tenths: (items,), of `popularity_tenths`.
      cold: (items,) bool, whether the item has no training row.
    """

    tenths: np.ndarray
    cold: np.ndarray


@dataclass(frozen=True)
class UserGroups:
    """What the users of a block count for.

    Attributes:
      weights: (replicates, users), of `poisson_weights`.
      tenths: (users,), of activity: 0 the most active … 9.
    """

    weights: np.ndarray
    tenths: np.ndarray


@dataclass
class Tally:
    """Sums over the users that a ranker has ranked for.

    A statistic is a ratio of sums, and has a row for itself and one for each replicate of the bootstrap.

    Attributes:
      cutoffs: values of K.
      sums: (1 + replicates, quantities), quantities as of `_quantities`; row 0 counts each user once.
      covered: (items,) uint8, of how many cutoffs the item is in some user's top K: always the largest ones.
    """

    cutoffs: tuple[int, ...]
    sums: np.ndarray
    covered: np.ndarray

    @classmethod
    def empty(cls, cutoffs: Sequence[int], items: int, replicates: int = 0) -> Tally:
        width = sum(_quantities(cutoffs).values())
        return cls(tuple(cutoffs), np.zeros((1 + replicates, width)), np.zeros(items, np.uint8))

    @property
    def users(self) -> int:
        return int(self._sum("users")[0, 0])

    @property
    def relevant(self) -> np.ndarray:
        """(10,), the users' relevant items in each popularity tenth."""
        return self._sum("relevant_by_tenth")[0].astype(np.int64)

    @property
    def cold_relevant(self) -> int:
        return int(self._sum("relevant_cold")[0, 0])

    @property
    def users_by_activity(self) -> np.ndarray:
        """(10,), the users in each tenth of activity."""
        return self._sum("users_by_activity")[0].astype(np.int64)

    def count(self, best: np.ndarray, relevant: np.ndarray, users: UserGroups, items: ItemGroups) -> None:
        """Adds a block of users; those without a relevant item are not counted.

        Args:
          best: (users, places) item indexes, best first; NO_ITEM where there are no more.
          relevant: pairs of user and item.
          users: of the block.
          items: of the catalogue.
        """
        rows, wanted = np.divmod(relevant, len(items.tenths))
        counted, rows = np.unique(rows, return_inverse=True)
        if not len(counted):
            return
        best = best[counted, : max(self.cutoffs)]
        ranked = best != NO_ITEM
        hits = ranked & contains(
            rows * len(items.tenths) + wanted, np.arange(len(best))[:, None] * len(items.tenths) + best
        )
        values = {
            **_by_user(hits, np.bincount(rows), users.tenths[counted], self.cutoffs),
            **_by_item(best, hits, (rows, wanted), items, self.cutoffs),
        }
        columns = np.concatenate([values[name] for name in _quantities(self.cutoffs)], axis=1)
        self.sums[0] += columns.sum(axis=0)
        self.sums[1:] += users.weights[:, counted] @ columns
        for k in self.cutoffs:
            first = best[:, :k][ranked[:, :k]]
            self.covered[first] = np.maximum(self.covered[first], self._at_least(k))

    def merge(self, other: Tally) -> None:
        """Adds another tally of the same cutoffs, items and replicates, of other users."""
        self.sums += other.sums
        np.maximum(self.covered, other.covered, out=self.covered)

    def statistics(self) -> dict[str, np.ndarray]:
        """Returns the metrics' means over the users, (1 + replicates,) each; NaN without users."""
        users = self._sum("users")
        names = sorted(f"{metric}@{k}" for metric in METRICS for k in self.cutoffs)
        return {name: _ratio(self._sum(name), users)[:, 0] for name in names}

    def coverage(self) -> dict[str, float]:
        """Returns coverage@K: the share of the items in some user's top K. It has no interval.

        A resample holds two users of three, so that its coverage is always the lower one.
        """
        return {f"coverage@{k}": float((self.covered >= self._at_least(k)).mean()) for k in self.cutoffs}

    def metrics(self) -> dict[str, float | None]:
        """Returns the means over the users, and coverage@K; None without users."""
        if not self.users:
            return dict.fromkeys(sorted([*self.statistics(), *self.coverage()]))
        means = {name: float(values[0]) for name, values in self.statistics().items()}
        return dict(sorted({**means, **self.coverage()}.items()))

    def tenths(self) -> dict[str, np.ndarray]:
        """Returns `recall@K` of each popularity tenth's relevant items, all users' together: (1 + replicates, 10)."""
        relevant = self._sum("relevant_by_tenth")
        return {f"recall@{k}": _ratio(self._sum(f"found_by_tenth@{k}"), relevant) for k in self.cutoffs}

    def recall_by_tenth(self) -> dict[str, list[float | None]]:
        """Returns `recall@K` of each popularity tenth; None where it has no relevant item."""
        return {name: [None if np.isnan(v) else float(v) for v in values[0]] for name, values in self.tenths().items()}

    def cold(self) -> dict[str, np.ndarray]:
        """Returns `recall@K` of the relevant cold items, all users' together: (1 + replicates,)."""
        relevant = self._sum("relevant_cold")
        return {f"recall@{k}": _ratio(self._sum(f"found_cold@{k}"), relevant)[:, 0] for k in self.cutoffs}

    def activity(self) -> dict[str, np.ndarray]:
        """Returns the mean `recall@K` of the users in each tenth of activity: (1 + replicates, 10)."""
        users = self._sum("users_by_activity")
        return {f"recall@{k}": _ratio(self._sum(f"recall_by_activity@{k}"), users) for k in self.cutoffs}

    def _at_least(self, cutoff: int) -> np.uint8:
        return np.uint8(sum(k >= cutoff for k in self.cutoffs))

    def sums_of(self, names: Sequence[str]) -> np.ndarray:
        """Returns quantities of width 1: (1 + replicates, names)."""
        return np.concatenate([self._sum(name) for name in names], axis=1)

    def _sum(self, name: str) -> np.ndarray:
        start = 0
        for quantity, width in _quantities(self.cutoffs).items():
            if quantity == name:
                return self.sums[:, start : start + width]
            start += width
        raise KeyError(name)


def _quantities(cutoffs: Sequence[int]) -> dict[str, int]:
    """Returns the name and the width of each quantity that is summed over the users, in their order."""
    by_cutoff = {**dict.fromkeys(METRICS, 1), "found_by_tenth": TENTHS, "found_cold": 1, "recall_by_activity": TENTHS}
    return {
        "users": 1,
        "users_by_activity": TENTHS,
        "relevant_by_tenth": TENTHS,
        "relevant_cold": 1,
        **{f"{name}@{k}": width for name, width in by_cutoff.items() for k in cutoffs},
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _by_user(
    hits: np.ndarray, relevant: np.ndarray, tenths: np.ndarray, cutoffs: Sequence[int]
) -> dict[str, np.ndarray]:
    """Returns the quantities of a user's ranking as a whole, (users, width) each."""
    of_tenth = np.eye(TENTHS)[tenths]
    metrics = {name: values[:, None] for name, values in ranking_metrics(hits, relevant, cutoffs).items()}
    return {
        "users": np.ones((len(hits), 1)),
        "users_by_activity": of_tenth,
        **metrics,
        **{f"recall_by_activity@{k}": metrics[f"recall@{k}"] * of_tenth for k in cutoffs},
    }


def _by_item(
    best: np.ndarray,
    hits: np.ndarray,
    relevant: tuple[np.ndarray, np.ndarray],
    items: ItemGroups,
    cutoffs: Sequence[int],
) -> dict[str, np.ndarray]:
    """Returns each user's relevant items by group, and those found, (users, width) each.

    Args:
      best, hits: (users, places).
      relevant: rows and items of the pairs.
    """
    users = len(best)

    def tenths(rows: np.ndarray, which: np.ndarray) -> np.ndarray:
        return np.bincount(rows * TENTHS + items.tenths[which], minlength=users * TENTHS).reshape(users, TENTHS)

    def cold(rows: np.ndarray, which: np.ndarray) -> np.ndarray:
        return np.bincount(rows[items.cold[which]], minlength=users)[:, None]

    found = {"relevant_by_tenth": tenths(*relevant), "relevant_cold": cold(*relevant)}
    rows, places = np.nonzero(hits)
    for k in cutoffs:
        inside = rows[places < k]
        which = best[inside, places[places < k]]
        found[f"found_by_tenth@{k}"] = tenths(inside, which)
        found[f"found_cold@{k}"] = cold(inside, which)
    return found
