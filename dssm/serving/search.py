"""Exact answers from vectors that stream past: the best of all rows for one query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dssm.retrieval.search import best_items, product_blocks
from dssm.retrieval.sinks import Batches, Hits, Opened, ids_at


@dataclass(frozen=True)
class Best:
    """The best rows first: their ids, and scores (n,) float32.

    Attributes: probabilities: (n,) by the scorer, whose order this is then; None where it was not asked.
    """

    ids: list[str]
    scores: np.ndarray
    probabilities: np.ndarray | None = None


def best_of(batches: Batches, query: np.ndarray, count: int, without: Sequence[str] = (), cosine: bool = False) -> Best:
    """Returns the rows with the largest inner products with a query. Memory: a batch, and all ids.

    Args:
      batches: of ids and vectors.
      query: (dim,) float32.
      count: how many at most.
      without: ids that are left out.
      cosine: divide by both norms.
    """
    left_out, all_ids = pa.array(without, pa.string()), [pa.array([], pa.string())]

    def scored() -> Iterator[tuple[int, np.ndarray]]:
        first = 0
        for ids, matrix in batches:
            all_ids.append(ids)
            scores = (cosines(matrix, query) if cosine else matrix @ query)[None]
            scores[0, pc.is_in(ids, value_set=left_out).to_numpy(zero_copy_only=False)] = -np.inf
            yield first, scores
            first += len(ids)

    best, _ = best_items(scored(), 1, np.iinfo(np.int32).max, count)
    found = best.items[0] >= 0
    ids = pa.concat_arrays(all_ids).take(pa.array(best.items[0][found]))
    return Best(ids.to_pylist(), best.scores[0][found])


def vectors_of(batches: Batches, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the vectors of ids, (dim,) float32 each; of those alone that are among the rows."""
    names, found = pa.array(wanted, pa.string()), dict[str, np.ndarray]()
    for ids, matrix in batches:
        places = np.flatnonzero(pc.is_in(ids, value_set=names).to_numpy(zero_copy_only=False))
        found |= zip(ids.take(pa.array(places)).to_pylist(), matrix[places], strict=True)
        if len(found) == len(names):
            break
    return found


def cosines(matrix: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Returns the cosine of each row to a query, (rows,); 0 where one of the two is all zeros.

    Args: matrix: (rows, dim) float32; query: (dim,) float32.
    """
    norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix))
    found: np.ndarray = matrix @ unit(query) / np.maximum(norms, np.finfo(np.float32).tiny)
    return found


def unit(vector: np.ndarray) -> np.ndarray:
    """Returns a vector, (dim,) float32, divided by its norm."""
    found: np.ndarray = vector / max(float(np.linalg.norm(vector)), np.finfo(np.float32).tiny)
    return found


class ExactIndex(Opened):
    """All vectors in memory, compared one and all."""

    def __init__(self, ids: pa.Array, matrix: np.ndarray) -> None:
        self.ids, self.matrix = ids, matrix

    @property
    def count(self) -> int:
        return len(self.matrix)

    def places(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        blocks = product_blocks(queries, [(0, self.matrix)])
        best, _ = best_items(blocks, len(queries), len(self.matrix), count)
        return best.items, best.scores

    def search(self, queries: np.ndarray, count: int) -> Hits:
        places, scores = self.places(queries, count)
        return Hits(ids_at(self.ids, places), scores)

    def vector(self, place: int) -> np.ndarray:
        vector: np.ndarray = self.matrix[place]
        return vector

    def vectors(self, start: int, end: int) -> np.ndarray:
        return self.matrix[start:end]
