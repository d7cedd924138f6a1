"""How far a distribution moved between two dates. Pure NumPy.

The population stability index over buckets that the earlier date defines: Σ (p − q) ln(p/q), with q and p a
bucket's shares before and after. The usual reading: below 0.1 stable, up to 0.25 moderate, above large. Ids are
put into buckets of about a tenth of the entries each, by how frequent they were; numbers into tenths.
Its weakness: what moves within one bucket is not seen, and so neither what moves among the rare ids, which
share one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import chdtri

from dssm.report.decoding import interval, percent
from dssm.report.figures import Bins, Drift, TokenCounts

ENOUGH = 20  # entries that an id needs for a bucket; below, which ids come first is chance, and they fall back
TENTHS = np.arange(1, 10) / 10
LABEL_DIGITS = 4
SPREAD = 50  # points that stand for a bucket of numbers


def stability_index(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Returns each bucket's part of the index, (buckets,), each at least 0.

    Half a row is added to each bucket, so that an empty one does not make the index infinite.

    Args:
      before, after: (buckets,), counts.
    """
    q, p = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (before, after))
    return (p - q) * np.log(p / q)


def chance_level(before: float, after: float, buckets: int) -> float:
    """Returns what the index exceeds in one of twenty cases if nothing moved and all rows are independent.

    It is then about (1/n + 1/m) times a χ² of (buckets − 1) degrees of freedom (Yurdakul, 2018).
    """
    if buckets < 2 or not before or not after:
        return 0.0
    return float((1 / before + 1 / after) * chdtri(buckets - 1, 0.05))


def compared(
    feature: str, measure: str, part: str, labels: Sequence[str], before: np.ndarray, after: np.ndarray
) -> Drift:
    """Returns the index of one distribution, with the bucket that moved most.

    Args:
      labels: (buckets,), a name of each.
      before, after: (buckets,), counts.
    """
    if not before.sum() or not after.sum():
        return Drift(feature=feature, measure=measure, part=part, psi=0.0, chance=0.0, moved="no rows")
    used = np.flatnonzero((before > 0) | (after > 0))
    parts = stability_index(before[used], after[used])
    worst = int(used[parts.argmax()])
    was, now = before[worst] / before.sum(), after[worst] / after.sum()
    return Drift(
        feature=feature,
        measure=measure,
        part=part,
        psi=float(parts.sum()),
        chance=chance_level(float(before.sum()), float(after.sum()), len(used)),
        moved=f"{labels[worst]}: {percent(was)} → {percent(now)}",
    )


# Ids ---------------------------------------------------------------------------------------------------


def frequency_buckets(counts: np.ndarray) -> np.ndarray:
    """Returns each id's bucket, (ids,) ascending: ids of about a tenth of all entries share one.

    Args:
      counts: (ids,), descending.
    """
    middle = np.cumsum(counts) - counts / 2
    return np.minimum((10 * middle / max(counts.sum(), 1)).astype(np.int64), 9)


def id_drift(feature: str, part: str, before: TokenCounts, after: np.ndarray, total: int, unknown: int) -> Drift:
    """Compares ids by their words: a vocabulary may number them anew each day. Rare and new ids share a bucket.

    Args:
      before: of the earlier date.
      after: (tokens,), how often each of those tokens stands in the later date's column.
      total: entries of that column. unknown: those of unknown ids.
    """
    counts = np.array(before.counts, np.int64)
    counts = counts[counts >= ENOUGH]
    after = after[: len(counts)]
    _, bucket = np.unique(frequency_buckets(counts), return_inverse=True)
    size = int(bucket.max(initial=-1)) + 1
    labels = [_group_label([before.tokens[place] for place in np.flatnonzero(bucket == k)]) for k in range(size)]
    rest = total - unknown - int(after.sum())
    return compared(
        feature,
        "ids",
        part,
        [*labels, "rarer or new ids", "unknown"],
        np.array([*np.bincount(bucket, counts, size), before.total - before.unknown - counts.sum(), before.unknown]),
        np.array([*np.bincount(bucket, after, size), rest, unknown]),
    )


def _group_label(tokens: Sequence[str]) -> str:
    return tokens[0] if len(tokens) == 1 else f"{tokens[0]}, {tokens[1]}" + (", …" if len(tokens) > 2 else "")


# Numbers -----------------------------------------------------------------------------------------------


def tenth_edges(values: np.ndarray, weights: np.ndarray) -> list[float]:
    """Returns edges of bins of about a tenth of the weight each; fewer where single values weigh more.

    Args:
      values: (n,), in any order; weights: (n,).
    """
    if weights.sum() == 0:
        return []
    distinct, inverse = np.unique(values, return_inverse=True)
    below = np.cumsum(np.bincount(inverse, weights, len(distinct)))
    below = np.concatenate([[0.0], below])[:-1]
    places = np.searchsorted(below, TENTHS * weights.sum() * (1 - 1e-9))
    return np.unique(distinct[places[places < len(distinct)]]).tolist()


def counted(values: np.ndarray, weights: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Returns the weight between the edges, (edges + 1,): bin k holds the values with k edges at or below them."""
    return np.bincount(np.searchsorted(np.asarray(edges), values, side="right"), weights, len(edges) + 1)


def tenths(values: np.ndarray, weights: np.ndarray) -> Bins:
    """Returns bins of about a tenth of the weight each, for later dates to be compared with."""
    edges = tenth_edges(values, weights)
    return Bins(edges=edges, counts=counted(values, weights, edges).tolist())


def number_drift(feature: str, measure: str, part: str, before: Bins, values: np.ndarray, weights: np.ndarray) -> Drift:
    """Compares numbers by the earlier date's bins.

    Args:
      values: (n,), of the later date; weights: (n,).
    """
    labels = [interval(place, before.edges, LABEL_DIGITS) for place in range(len(before.counts))]
    return compared(feature, measure, part, labels, np.array(before.counts), counted(values, weights, before.edges))


def spread(counts: np.ndarray, boundaries: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns values and weights that stand for the counts of a number's buckets, each spread evenly over its own.

    Boundaries at quantiles move every day, and with them what an id means: two days can be compared only as
    numbers. The open buckets at the ends count as being as wide as the ones beside them.

    Args:
      counts: (boundaries + 1,). boundaries: ascending.
    Returns: values and weights, both (n,).
    """
    if not boundaries:
        return np.zeros(1), counts.astype(np.float64)
    first = boundaries[1] - boundaries[0] if len(boundaries) > 1 else 1.0
    last = boundaries[-1] - boundaries[-2] if len(boundaries) > 1 else 1.0
    edges = np.array([boundaries[0] - first, *boundaries, boundaries[-1] + last])
    inside = (np.arange(SPREAD) + 0.5) / SPREAD
    values = edges[:-1, None] + np.diff(edges)[:, None] * inside
    return values.reshape(-1), np.repeat(counts / SPREAD, SPREAD)


def bucket_tenths(counts: np.ndarray, boundaries: Sequence[float]) -> Bins:
    """Returns bins of whole buckets, of about a tenth of the rows each."""
    edges = tenth_edges(np.array([-np.inf, *boundaries]), counts)
    return Bins(edges=edges, counts=counted(*spread(counts, boundaries), edges).tolist())
