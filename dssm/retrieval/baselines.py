"""Rankings without a model, to compare with. Pure NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

BLOCK_VALUES = 50_000_000  # dense similarities held at once: 200 MB


def item_similarity(interactions: sp.csr_matrix, neighbours: int) -> sp.csr_matrix:
    """Item-item cosine similarity of the users they share (ItemCF; Sarwar et al., WWW 2001).

    sim(i, j) = |users of i and j| / √(|users of i| · |users of j|), for i ≠ j. Its weakness: two items
    that few users have look alike by chance.

    Args:
      interactions: (users, items), 1 where the user acted on the item.
      neighbours: similarities kept for each target item: its largest. Ties at the boundary are kept.
    Returns: (items, items), column j holding the neighbours of item j.
    """
    items = interactions.shape[1]
    binary = interactions.astype(bool).astype(np.float32).tocsc()
    norms = np.sqrt(np.maximum(np.asarray(binary.sum(axis=0)).ravel(), 1.0)).astype(np.float32)
    columns = []
    block = max(1, BLOCK_VALUES // max(items, 1))
    for start in range(0, items, block):
        shared = (binary.T @ binary[:, start : start + block]).toarray()
        similarity = shared / norms[:, None] / norms[None, start : start + block]
        similarity[np.arange(start, start + similarity.shape[1]), np.arange(similarity.shape[1])] = 0.0
        if neighbours < items:
            least = np.partition(similarity, -neighbours, axis=0)[-neighbours]
            similarity[similarity < least[None, :]] = 0.0
        columns.append(sp.csr_matrix(similarity))
    return sp.hstack(columns, format="csr")


def item_cf_scores(histories: sp.csr_matrix, similarity: sp.csr_matrix) -> np.ndarray:
    """Returns each user's summed similarity of each item to the user's items: (users, items)."""
    return np.asarray((histories @ similarity).todense(), dtype=np.float32)
