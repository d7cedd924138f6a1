"""How many of the exact best items a search finds. Pure NumPy and Arrow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dssm.retrieval.queries import draw
from dssm.retrieval.search import best_items, product_blocks
from dssm.retrieval.sinks import Batches

SAME_NORM = 1e-3  # of the largest: vectors whose norms differ by less have one
ROUNDING = 1e-5  # of the best score: two sums of the same products differ by less
QUERIES_AT_ONCE = 1000  # whose items' vectors are gathered: 51 MB for 100 items of 128 numbers


@dataclass(frozen=True)
class Exact:
    """What one pass over all items tells.

    Attributes:
      scores: (queries, K) the best, −inf where there are fewer items.
      seconds: of the products and the selection, reading apart.
      norm: of every vector; None where they differ.
      sample: (drawn, dim) vectors.
    """

    scores: np.ndarray
    seconds: float
    norm: float | None
    sample: np.ndarray


def exact_search(batches: Batches, rows: int, queries: np.ndarray, count: int, sample: int, seed: int) -> Exact:
    """Searches all items for each query, as blocked matrix products. Memory: queries × (K + a block), and the sample.

    Args:
      batches: of ids and vectors.
      rows: of all batches.
      queries: (queries, dim) float32.
      count: K.
      sample: vectors to draw beside.
      seed: of the draw.
    """
    places, drawn = draw(rows, sample, seed), [np.empty((0, queries.shape[1]), np.float32)]
    norms, reading = [np.inf, -np.inf], 0.0

    def numbered() -> Iterator[tuple[int, np.ndarray]]:
        nonlocal reading
        first, began = 0, time.perf_counter()
        for _, matrix in batches:
            lengths = np.linalg.norm(matrix, axis=1)
            norms[:] = min(norms[0], lengths.min(initial=np.inf)), max(norms[1], lengths.max(initial=-np.inf))
            drawn.append(matrix[places[(places >= first) & (places < first + len(matrix))] - first])
            reading += time.perf_counter() - began
            yield first, matrix
            first, began = first + len(matrix), time.perf_counter()

    began = time.perf_counter()
    best, _ = best_items(product_blocks(queries, numbered()), len(queries), rows, count)
    seconds = time.perf_counter() - began - reading
    same = norms[1] - norms[0] <= SAME_NORM * norms[1]
    return Exact(best.scores, seconds, float(sum(norms) / 2) if same else None, np.concatenate(drawn))


def true_scores(batches: Batches, queries: np.ndarray, found: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the inner products of queries with the items that searches found, whatever the searches said of them.

    Args:
      batches: of ids and vectors, of all items.
      queries: (queries, dim) float32.
      found: of each search, (queries, K) ids, None where there is none.
    Returns: of each search (queries, K) float32; −inf for None, for an id that is no item, and for an id that stands
      in the row before.
    """
    known = pc.unique(pa.concat_arrays([pa.array([], pa.string()), *(_texts(ids) for ids in found)])).drop_null()
    vectors = np.zeros((len(known) + 1, queries.shape[1]), np.float32)
    is_item = np.zeros(len(vectors), bool)
    for ids, matrix in batches:
        places = pc.index_in(ids, value_set=known)
        inside = places.is_valid().to_numpy(zero_copy_only=False)
        at = places.drop_null().to_numpy()
        vectors[at], is_item[at] = matrix[inside], True
    return [_scores_of(queries, ids, known, vectors, is_item) for ids in found]


def _texts(ids: np.ndarray) -> pa.Array:
    return pa.array(ids.ravel(), pa.string())


def _scores_of(
    queries: np.ndarray, ids: np.ndarray, known: pa.Array, vectors: np.ndarray, is_item: np.ndarray
) -> np.ndarray:
    places = pc.fill_null(pc.index_in(_texts(ids), value_set=known), len(known)).to_numpy().reshape(ids.shape)
    scores = np.empty(ids.shape, np.float32)
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        scores[part] = np.einsum("qd,qkd->qk", queries[part], vectors[places[part]])
    return np.where(is_item[places] & is_first(places), scores, -np.inf).astype(np.float32)


def is_first(rows: np.ndarray) -> np.ndarray:
    """Returns whether each value is the first of its kind in its row, of the same shape.

    >>> is_first(np.array([[3, 5, 3, 3]])).tolist()
    [[True, True, False, False]]
    """
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    first = np.ones(rows.shape, bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    found = np.empty(rows.shape, bool)
    np.put_along_axis(found, order, first, axis=1)
    return found


def recall_at(exact: np.ndarray, found: np.ndarray, cutoff: int) -> float:
    """Returns the share of the K best items that searches found, the mean over queries.

    An item counts if its score is not below the K-th best one: of items that score the same, any is right.

    Args:
      exact: (queries, at least K) the best scores, descending; −inf where there are fewer items.
      found: (queries, K) scores of what was found, as of `true_scores`.
      cutoff: K; of fewer items all are wanted.
    """
    wanted = min(cutoff, int(np.isfinite(exact[0]).sum()))
    slack = ROUNDING * np.abs(exact[:, :1])
    right = found[:, :wanted] >= exact[:, wanted - 1 : wanted] - slack
    return float(right.sum() / (len(exact) * wanted))


def below(recall: Mapping[int, float], least: Mapping[int, float]) -> list[str]:
    """Says of which K the recall is below the least one."""
    return [
        f"recall@{cutoff} is {recall[cutoff]:.4f}, less than {bar:g}"
        for cutoff, bar in sorted(least.items())
        if recall[cutoff] < bar
    ]
