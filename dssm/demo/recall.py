"""The best reachable recall, and that of popularity."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dssm.demo.feed import Floats, Ints, pieces

CUTOFF = 50  # K of the recall that is printed


def best_reachable_recall(
    client_values: npt.NDArray[Any], post_values: npt.NDArray[Any], client: Ints, post: Ints, k: int = CUTOFF
) -> float | None:
    """Returns the recall@k of ranking all posts by the inner product with the client.

    The mean, over clients with a click, of the share of their distinct clicked posts among the first
    k; clicked earlier or not. Best on average: over a few clients chance may favour another ranking.

    Args:
      client_values: (clients, T); post_values: (posts, T).
      client, post: (clicks,), rows of the two.
    Returns: the recall, or None without a click.
    """
    k = min(k, len(post_values))
    users, user = np.unique(client, return_inverse=True)
    order = np.argsort(user, kind="stable")
    user, post = user[order], post[order]
    recalls: list[Floats] = []
    for start, stop in pieces(len(users), max(1, (1 << 24) // len(post_values))):
        low, high = np.searchsorted(user, [start, stop])
        clicked = np.zeros((stop - start, len(post_values)), dtype=bool)
        clicked[user[low:high] - start, post[low:high]] = True
        scores = client_values[users[start:stop]] @ post_values.T
        first = np.argpartition(scores, -k, axis=1)[:, -k:]
        recalls.append(np.take_along_axis(clicked, first, axis=1).sum(axis=1) / clicked.sum(axis=1))
    return float(np.concatenate(recalls).mean()) if recalls else None


def popularity_recall(counts: Ints, client: Ints, post: Ints, k: int = CUTOFF) -> float | None:
    """Returns the recall@k of showing everyone the k posts with the highest count, (posts,)."""
    pairs = np.unique(np.stack([client, post]), axis=1)
    if pairs.size == 0:
        return None
    in_first = np.isin(pairs[1], np.argsort(-counts, kind="stable")[:k])
    _, user = np.unique(pairs[0], return_inverse=True)
    return float((np.bincount(user, weights=in_first) / np.bincount(user)).mean())
