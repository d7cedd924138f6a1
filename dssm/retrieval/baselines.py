"""Rankings without a model, to compare with. Pure NumPy and SciPy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp

from dssm.retrieval.search import ITEMS_AT_ONCE, Scores

BLOCK_VALUES = 50_000_000  # dense similarities held at once: 200 MB
GRAM_VALUES = 5_000_000  # of XᵀX, sparse and dense, beside the whole: 100 MB
SWEPT_ROWS = 256  # at once, to invert a matrix: four blocks of 8 · 256 · items bytes beside it
ROWS_AT_ONCE = 64  # of EASE's weights


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


def item_cf_blocks(histories: sp.csr_matrix, similarity: sp.csr_matrix) -> Iterator[Scores]:
    """Yields each user's summed similarity of each item to the user's items, block by block of the items.

    Args:
      histories: (users, items), 1 where the user acted on the item.
      similarity: (items, items), of `item_similarity`.
    """
    scores = (histories @ similarity).tocsc()
    for first in range(0, scores.shape[1], ITEMS_AT_ONCE):
        yield first, scores[:, first : first + ITEMS_AT_ONCE].toarray().astype(np.float32, copy=False)


def ease(interactions: sp.csr_matrix, l2: float) -> np.ndarray:
    """Item-item weights of EASE^R (Steck, WWW 2019, eq. 8): a user's scores are x B, x its row of X.

    B minimises ‖X − X B‖² + λ ‖B‖² under a diagonal of 0, so that no item predicts itself:
    P = (XᵀX + λI)⁻¹, B = −P / diag(P), column j divided by P_jj. Its weakness: items² numbers, and items³ work.

    P is computed in float64 and in place, and B takes its memory: 8 · items² bytes in all.

    Args:
      interactions: X, (users, items), 1 where the user acted on the item.
      l2: λ > 0.
    Returns: B, (items, items), float32.
    Raises: ValueError where λ is so small that XᵀX + λI is singular as computed.
    """
    matrix = _gram(interactions, l2)
    _negate_and_invert(matrix)
    return _weights_in_place(matrix)


def _gram(interactions: sp.csr_matrix, l2: float) -> np.ndarray:
    """Returns XᵀX + λI, (items, items), float64."""
    items = interactions.shape[1]
    rows = interactions.astype(np.float32, copy=False)  # counts of users are exact up to 2²⁴
    columns = rows.tocsc()
    gram = np.empty((items, items))
    block = max(1, GRAM_VALUES // items)
    for start in range(0, items, block):
        gram[start : start + block] = (columns[:, start : start + block].T @ rows).toarray()
    gram[np.diag_indices(items)] += l2
    return gram


def _negate_and_invert(matrix: np.ndarray) -> None:
    """Makes −A⁻¹ of a symmetric positive definite A in its place, by the sweep operator on blocks of rows.

    To sweep the block K: A_ij −= A_iK A_KK⁻¹ A_Kj, then A_iK = A_iK A_KK⁻¹ and A_KK = −A_KK⁻¹ (Goodnight, 1979).
    As much work as LAPACK's dpotrf and dpotri, but matrix products alone: `dpotrf` of SciPy's OpenBLAS crashed
    on two threads at 16,300 rows, not at 12,000 (as in OpenBLAS issue 2821).

    Args:
      matrix: (n, n), float64; what is above the blocks on its diagonal is neither read nor written.
    """
    items = len(matrix)
    blocks = [(start, min(start + SWEPT_ROWS, items)) for start in range(0, items, SWEPT_ROWS)]
    for start, stop in blocks:
        square = np.tril(matrix[start:stop, start:stop])
        square += np.tril(square, -1).T
        try:
            np.linalg.cholesky(square)
            inverse = np.linalg.inv(square)
        except np.linalg.LinAlgError as error:
            raise ValueError(f"not positive definite at the rows {start}…{stop - 1}") from error
        column = np.vstack([matrix[start:stop, :start].T, square, matrix[stop:, start:stop]])
        swept = column @ inverse
        for first, last in blocks:
            matrix[first:last, :last] -= swept[first:last] @ column[:last].T
        matrix[start:stop, :start] = swept[:start].T
        matrix[start:stop, start:stop] = -inverse
        matrix[stop:, start:stop] = swept[stop:]


def _weights_in_place(negated: np.ndarray) -> np.ndarray:
    """Returns −P / diag(P) with a diagonal of 0, in the first half of the memory of −P.

    The weights of a block of rows lie over the first half of the rows up to it, and those are not read
    again: row i needs what is below and left of its diagonal, in the rows from i on.

    Args:
      negated: −P, (items, items), symmetric, float64; what is above its diagonal is not read.
    Returns: (items, items), float32.
    """
    items, diagonal = len(negated), negated.diagonal().copy()
    weights = negated.reshape(-1).view(np.float32)[: items * items].reshape(items, items)
    for start in range(0, items, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, items)
        square = np.tril(negated[start:stop, start:stop])
        square += np.tril(square, -1).T
        rows = np.hstack([negated[start:stop, :start], square, negated[stop:, start:stop].T])
        rows /= -diagonal
        rows[np.arange(stop - start), np.arange(start, stop)] = 0.0
        weights[start:stop] = rows
    return weights
