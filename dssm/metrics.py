"""Metrics of scores and of rankings. Pure NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BINARY_METRICS = ("log_loss", "accuracy", "precision", "recall")
SCORE_BITS = 20  # of a float32: sign, exponent, 11 of the fraction; 16 MiB of counts


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Args:
      labels: (n,), positive where above 0.
      scores: (n,).
    Returns: in 0…1; NaN where one of the classes is empty or a score is none.
    """
    positive = labels > 0
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives or np.isnan(scores).any():
        return float("nan")
    # Mean ranks by NumPy: of SciPy they need scipy.stats, 0.7 s of the start of every rank and job.
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank_sum = float((counts.cumsum() - (counts - 1) / 2)[place[positive]].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


class ScoreCounts:
    """Scores counted by the first SCORE_BITS of their float32: an AUC in memory that does not grow with the rows.

    Counts of several processes add up to those of one, whatever part of the rows each has seen. Scores that agree in
    sign, exponent and the first 11 bits of the fraction, which is within 0.05 %, count as ties; see `auc_error`.

    Attributes: counts: (2, 2 ** SCORE_BITS) int64, of negatives and of positives, from the least score to the largest.
    """

    def __init__(self) -> None:
        self.counts = np.zeros((2, 1 << SCORE_BITS), np.int64)

    def add(self, positive: np.ndarray, scores: np.ndarray) -> None:
        """Counts rows. Args: positive: (n,) bool; scores: (n,)."""
        bits = (scores.astype(np.float32) + np.float32(0)).view(np.uint32)  # + 0: there is one zero, not two
        flipped = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))  # in the order of the numbers
        places, counts = np.unique(
            flipped >> (32 - SCORE_BITS) | positive.astype(np.uint32) << SCORE_BITS, return_counts=True
        )
        self.counts.ravel()[places] += counts

    def auc_error(self) -> float:
        """Returns what `auc` is off by at most, for scores that count as ties and are none."""
        negatives, positives = self.counts
        pairs = int(positives.sum()) * int(negatives.sum())
        return float((positives * negatives.astype(np.float64)).sum() / pairs / 2) if pairs else 0.0

    def auc(self) -> float:
        """Returns the chance that a positive scores above a negative; NaN where one of them has no row."""
        negatives, positives = self.counts
        pairs = int(positives.sum()) * int(negatives.sum())
        below = negatives.cumsum() - negatives
        used = np.flatnonzero(positives)
        return float((positives[used] * (below[used] + negatives[used] / 2)).sum() / pairs) if pairs else float("nan")


def binary_sums(labels: np.ndarray, log_odds: np.ndarray, positive: np.ndarray, threshold: float) -> np.ndarray:
    """Returns what `metrics_of_sums` is made of: sums over rows, which add up over parts of the rows.

    Args: as of `binary_metrics`.
    Returns: (6,) float64: rows, their log loss, rows predicted as they are, hits, rows predicted positive, positives.
    """
    # log(1 + eˢ) − y s: exact where p rounds to 0 or 1.
    losses = np.logaddexp(0, log_odds) - labels * log_odds
    predicted = log_odds >= np.log(threshold) - np.log1p(-threshold)
    kept = (losses, predicted == positive, predicted & positive, predicted, positive)
    return np.array([len(labels), *(values.sum(dtype=np.float64) for values in kept)])


def metrics_of_sums(sums: np.ndarray) -> dict[str, float]:
    """Returns the metrics that `binary_metrics` does. Args: sums: (6,), of `binary_sums`."""
    rows, losses, agreeing, hits, found, wanted = sums.tolist()
    parts = ((losses, rows), (agreeing, rows), (hits, found), (hits, wanted))
    shares = [part / whole if whole else float("nan") for part, whole in parts]
    return dict(zip(BINARY_METRICS, shares, strict=True))


def binary_metrics(
    labels: np.ndarray, log_odds: np.ndarray, positive: np.ndarray, threshold: float
) -> dict[str, float]:
    """Metrics of predicted chances, p = sigmoid(log-odds).

    Args:
      labels: (n,) in 0…1.
      log_odds: (n,).
      positive: (n,) bool, which labels count as positive.
      threshold: a row with p ≥ threshold is predicted to be positive.
    Returns: `log_loss`, the mean of −y log p − (1 − y) log(1 − p) in nats; `accuracy`, `precision`, `recall`. NaN
      where nothing is divided by nothing.
    """
    return metrics_of_sums(binary_sums(labels, log_odds, positive, threshold))


def ranking_metrics(hits: np.ndarray, relevant: np.ndarray, cutoffs: Sequence[int]) -> dict[str, np.ndarray]:
    """Metrics of each user's ranking.

    recall@k = hits in the first k / relevant items; precision@k = hits in the first k / k;
    hitrate@k = 1 if there is a hit in the first k; mrr@k = 1 / place of the first hit, 0 without one in the
    first k; ndcg@k = DCG / best DCG with gain 1 and discount 1 / log2(place + 1) (Järvelin & Kekäläinen, 2002).

    Args:
      hits: (users, places), whether the item at each place is relevant; places ≥ max(cutoffs)
        or the whole catalogue.
      relevant: (users,), number of relevant items of each user, at least 1.
      cutoffs: values of k.
    Returns: `metric@k` → (users,).
    """
    hits = hits.astype(np.float64)
    discounts = 1.0 / np.log2(np.arange(hits.shape[1]) + 2.0)
    reciprocal = 1.0 / (hits.argmax(axis=1) + 1.0)
    metrics = {}
    for k in cutoffs:
        found = hits[:, :k].sum(axis=1)
        best = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(k) + 2.0))])
        metrics[f"recall@{k}"] = found / relevant
        metrics[f"precision@{k}"] = found / k
        metrics[f"hitrate@{k}"] = (found > 0).astype(np.float64)
        metrics[f"mrr@{k}"] = np.where(found > 0, reciprocal, 0.0)
        metrics[f"ndcg@{k}"] = (hits[:, :k] @ discounts[:k]) / best[np.minimum(relevant, k).astype(int)]
    return metrics
