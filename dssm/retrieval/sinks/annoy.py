"""Annoy: trees of random projections in a file that is built on disk and mapped by its readers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from annoy import AnnoyIndex

from dssm.retrieval.sinks import Hits, Opened, Place, Vectors, ids_at
from dssm.retrieval.sinks.folders import Description, FolderSink, with_ids_written
from dssm.sections.indexing import Annoy

FILE = "index.annoy"
SEED = 7  # of the projections
READABLE = 0o644  # Annoy makes its file for the owner alone


def build(settings: Annoy, place: Place) -> AnnoySink:
    return AnnoySink(settings, place)


class AnnoySink(FolderSink):
    """Memory while it builds: pages of the file, which the system may write back."""

    def __init__(self, settings: Annoy, place: Place) -> None:
        super().__init__(place)
        self.settings = settings

    def write(self, folder: str, vectors: Vectors) -> None:
        index = AnnoyIndex(vectors.dim, self._metric(vectors.norm))
        index.set_seed(SEED)
        index.on_disk_build(f"{folder}/{FILE}")
        place = 0
        for matrix in with_ids_written(folder, vectors):
            for vector in matrix.tolist():  # Annoy takes one at a time
                index.add_item(place, vector)
                place += 1
        index.build(self.settings.trees)
        index.unload()
        Path(f"{folder}/{FILE}").chmod(READABLE)

    def read(self, folder: str, description: Description, ids: pa.Array) -> AnnoyOpened:
        metric = self._metric(description.norm)
        index = AnnoyIndex(description.dim, metric)
        index.load(f"{folder}/{FILE}")
        norm = None if metric == "dot" else description.norm or 1.0
        return AnnoyOpened(index, ids, norm, self.settings.search_k or -1)

    def _metric(self, norm: float | None) -> Literal["angular", "dot"]:
        if self.settings.metric == "auto":
            return "dot" if norm is None else "angular"
        return self.settings.metric


class AnnoyOpened(Opened):
    """Threads may search at the same time.

    Attributes:
      norm: of every vector of an angular index, 1 where they differ: cosines times it and the query's own are the
        scores. None: the index is of inner products.
    """

    def __init__(self, index: AnnoyIndex, ids: pa.Array, norm: float | None, search_k: int) -> None:
        self.index, self.ids, self.norm, self.search_k = index, ids, norm, search_k

    @property
    def count(self) -> int:
        return min(self.index.get_n_items(), len(self.ids))

    def search(self, queries: np.ndarray, count: int) -> Hits:
        places = np.full((len(queries), count), -1, np.int64)
        scores = np.full((len(queries), count), -np.inf, np.float32)
        for row, query in enumerate(queries.tolist()):
            found, distances = self.index.get_nns_by_vector(query, count, self.search_k, include_distances=True)
            places[row, : len(found)], scores[row, : len(found)] = found, distances
        if self.norm is not None:
            norms = self.norm * np.linalg.norm(queries, axis=1, keepdims=True)
            scores = np.where(places < 0, -np.inf, norms * (1 - np.square(scores) / 2)).astype(np.float32)
        return Hits(ids_at(self.ids, places), scores)
