"""Metrics of scores and of rankings. Pure NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BINARY_METRICS = ("log_loss", "accuracy", "precision", "recall")


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
    if not len(labels):
        return dict.fromkeys(BINARY_METRICS, float("nan"))
    # log(1 + eˢ) − y s: exact where p rounds to 0 or 1.
    log_loss = float(np.mean(np.logaddexp(0, log_odds) - labels * log_odds))
    predicted = log_odds >= np.log(threshold) - np.log1p(-threshold)
    hits, found, wanted = int((predicted & positive).sum()), int(predicted.sum()), int(positive.sum())
    return {
        "log_loss": log_loss,
        "accuracy": float(np.mean(predicted == positive)),
        "precision": hits / found if found else float("nan"),
        "recall": hits / wanted if wanted else float("nan"),
    }


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
