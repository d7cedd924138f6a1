"""The published item vectors: their norms, some of them, and which are neighbours of suspiciously many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dssm import published
from dssm.published import Published

NEIGHBOURS = 10  # the k of N_k
BLOCK = 1024  # items that are compared with all others at once


@dataclass(frozen=True)
class Norms:
    """Of all vectors of a version; `lowest`, `mean` and `highest` are of those that are finite."""

    rows: int
    not_finite: int
    zeros: int
    lowest: float
    mean: float
    highest: float


@dataclass(frozen=True)
class Hubness:
    """How often items are among the nearest neighbours of others.

    Attributes:
      counts: (items,), N_10 of each.
      nearest: (items, 10), each item's neighbours, in no order.
    """

    counts: np.ndarray
    nearest: np.ndarray

    @property
    def skewness(self) -> float:
        """Third standardised moment of N_10 (Radovanović et al., JMLR 2010): 0 where all items are equally often
        neighbours, above 1 where some are hubs.
        """
        deviations = self.counts - self.counts.mean()
        spread = np.sqrt((deviations**2).mean())
        return float((deviations**3).mean() / spread**3) if spread else 0.0

    @property
    def never(self) -> int:
        """Items that are nobody's neighbour."""
        return int((self.counts == 0).sum())


def hubness(vectors: np.ndarray) -> Hubness | None:
    """Finds each item's 10 nearest others by inner product; None where there are too few.

    Args:
      vectors: (items, dim), finite.
    """
    items = len(vectors)
    if items <= NEIGHBOURS:
        return None
    nearest = np.empty((items, NEIGHBOURS), np.int64)
    for start in range(0, items, BLOCK):
        scores = vectors[start : start + BLOCK] @ vectors.T
        scores[np.arange(len(scores)), start + np.arange(len(scores))] = -np.inf  # an item is not its own neighbour
        nearest[start : start + BLOCK] = np.argpartition(scores, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:]
    return Hubness(np.bincount(nearest.ravel(), minlength=items), nearest)


def agreement(nearest: np.ndarray, categories: np.ndarray) -> tuple[float, float]:
    """Returns how many of the nearest neighbours have the item's category, and how many would by chance.

    Args:
      nearest: (items, neighbours).
      categories: (items,), codes from 0.
    Returns: two shares.
    """
    same = float((categories[nearest] == categories[:, None]).mean())
    sizes, items = np.bincount(categories), len(categories)
    return same, float((sizes * (sizes - 1.0)).sum() / (items * (items - 1.0)))


def read_vectors(table: Published, ids: Sequence[str]) -> tuple[Norms, np.ndarray]:
    """Reads a version once.

    Args:
      ids: whose vectors are wanted, each once.
    Returns: the norms of all, and (ids, dim) float32: NaN where the table does not have the id.
    Raises: UserError where a file is damaged.
    """
    wanted = pa.array(ids, pa.string())
    found = np.full((len(ids), table.manifest.vector_dim), np.nan, np.float32)
    squares = []
    for names, vectors in published.batches(table):
        squares.append(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        places = pc.index_in(names, value_set=wanted)
        known = places.is_valid().to_numpy(zero_copy_only=False)
        found[pc.drop_null(places).to_numpy()] = vectors[known]
    return _norms(np.sqrt(np.concatenate([np.zeros(0), *squares]))), found


def _norms(norms: np.ndarray) -> Norms:
    finite = norms[np.isfinite(norms)]
    ends = (finite.min(), finite.mean(), finite.max()) if len(finite) else (np.nan,) * 3
    return Norms(len(norms), len(norms) - len(finite), int((finite == 0).sum()), *map(float, ends))


def popular_and_drawn(positives: np.ndarray, keys: np.ndarray, count: int) -> np.ndarray:
    """Chooses items to look at: half of them the most popular, the others by the hash of their ids.

    Args:
      positives: (items,), popularity.
      keys: (items,), hashes.
      count: how many, at most.
    Returns: their places, ascending.
    """
    if len(positives) <= count:
        return np.arange(len(positives))
    popular = np.argsort(-positives, kind="stable")[: count // 2]
    rest = np.setdiff1d(np.arange(len(positives)), popular, assume_unique=True)
    return np.sort(np.concatenate([popular, drawn(keys, count - len(popular), rest)]))


def drawn(keys: np.ndarray, count: int, places: np.ndarray | None = None) -> np.ndarray:
    """Returns the places of the smallest hashes, ascending: of all, or of those given."""
    places = np.arange(len(keys)) if places is None else places
    return np.sort(places[np.argsort(keys[places], kind="stable")[:count]])
