"""Exact search over the whole catalogue, in blocks."""

from __future__ import annotations

import numpy as np


def top_items(scores: np.ndarray, count: int) -> np.ndarray:
    """Returns each row's best items, best first; equal scores by item index.

    Args:
      scores: (users, items); −inf never comes before a finite score.
      count: how many; at most the number of items.
    Returns: (users, count) item indexes.
    """
    users, items = scores.shape
    count = min(count, items)
    if count < items:
        # The place of the count-th score: whatever is above it is in; of its equals, the lowest indexes.
        least = np.partition(scores, items - count, axis=1)[:, items - count][:, None]
        above, equal = scores > least, scores == least
        wanted = count - above.sum(axis=1, keepdims=True)
        chosen = above | (equal & (np.cumsum(equal, axis=1) <= wanted))
        best = np.nonzero(chosen)[1].reshape(users, count)
    else:
        best = np.tile(np.arange(items), (users, 1))
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)
