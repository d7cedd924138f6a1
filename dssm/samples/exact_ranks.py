"""Items by rank of their inner product with a query, exact to the last bit. Pure NumPy."""

from __future__ import annotations

import numpy as np

from dssm.manifest import NO_ITEM

SCORES_AT_ONCE = 16_000_000  # of queries and items, about 20 bytes each, and thrice that where all are equal


def top_ranks(
    queries: np.ndarray, vectors: np.ndarray, ranks: tuple[int, int], with_vector: np.ndarray | None = None
) -> np.ndarray:
    """Returns the items from rank a to rank b of each query, by inner product; ties by item index.

    The vectors are rounded to as many bits as make every inner product exact in float64 (23 of the largest
    entry's at 64 to 128 numbers, about what float32 has), because a ranking must not depend on the order in
    which a matrix product adds, which changes with the number of queries beside it.

    Args:
      queries: (q, d) float32, finite.
      vectors: (items, d) float32, finite.
      ranks: a and b, from 1, both included.
      with_vector: (items,) bool, the items that are ranked; default: all.
    Returns: (q, b − a + 1) int32 in order of rank, with −1 behind the last item.
    """
    first, last = ranks[0] - 1, ranks[1]
    index = np.arange(len(vectors)) if with_vector is None else np.flatnonzero(with_vector)
    ranked = np.full((len(queries), last - first), NO_ITEM, dtype=np.int32)
    last = min(last, len(index))
    if last <= first:
        return ranked
    items = _whole_numbers(vectors[index], axis=None).T
    for begin in range(0, len(queries), rows := max(1, SCORES_AT_ONCE // len(index))):
        scores = _whole_numbers(queries[begin : begin + rows], axis=1) @ items
        least = np.partition(scores, len(index) - last, axis=1)[:, [len(index) - last]]
        row, item = np.nonzero(scores >= least)  # the first `last` of each row, and what ties with the last of them
        order = np.lexsort((item, -scores[row, item], row))
        row_begin = np.searchsorted(row, np.arange(len(scores)))
        wanted = row_begin[:, None] + np.arange(first, last)
        ranked[begin : begin + rows, : last - first] = index[item[order[wanted]]]
    return ranked


def _whole_numbers(vectors: np.ndarray, axis: int | None) -> np.ndarray:
    """Scales vectors by a power of two, one in all or one a vector, and rounds them to float64 whole numbers.

    Sums of d products of two such numbers stay below 2⁵³.
    """
    if not np.isfinite(vectors).all():
        raise ValueError("vectors: expected finite numbers")
    bits = (53 - int(np.ceil(np.log2(max(vectors.shape[1], 1))))) // 2
    largest = np.abs(vectors).max(axis=axis, keepdims=True, initial=0.0)
    return np.rint(np.ldexp(vectors.astype(np.float64), bits - np.frexp(largest)[1]))
