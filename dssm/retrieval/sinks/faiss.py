"""faiss: flat, lists, graph or codes, in one file; its readers hold it in memory."""

from __future__ import annotations

import faiss
import numpy as np
import pyarrow as pa

from dssm.errors import UserError
from dssm.retrieval.sinks import Hits, Opened, Place, Vectors, default_lists, default_probes, ids_at
from dssm.retrieval.sinks.folders import Description, FolderSink, with_ids_written
from dssm.sections.indexing import Faiss, FaissFlat, FaissHnsw, FaissIndex, FaissIvf, FaissPq

FILE = "index.faiss"
FEWEST_PER_CENTRE = 1  # below which faiss would warn of each training


def build(settings: Faiss, place: Place) -> FaissSink:
    return FaissSink(settings, place)


class FaissSink(FolderSink):
    """Memory while it builds: the index itself, and the training vectors."""

    def __init__(self, settings: Faiss, place: Place) -> None:
        super().__init__(place)
        self.settings = settings

    def write(self, folder: str, vectors: Vectors) -> None:
        index = empty_index(self.settings.index, vectors, self.setting)
        if not index.is_trained:
            index.train(vectors.sample)
        for matrix in with_ids_written(folder, vectors):
            index.add(matrix)
        faiss.write_index(index, f"{folder}/{FILE}")

    def read(self, folder: str, description: Description, ids: pa.Array) -> FaissOpened:
        return read_index(folder, ids)


class FaissOpened(Opened):
    """Threads may search at the same time."""

    def __init__(self, index: faiss.Index, ids: pa.Array) -> None:
        self.index, self.ids = index, ids
        if isinstance(index, faiss.IndexIVF):
            index.make_direct_map()  # without it `vector` can't find an item in its list

    @property
    def count(self) -> int:
        return min(int(self.index.ntotal), len(self.ids))

    def search(self, queries: np.ndarray, count: int) -> Hits:
        places, scores = self.places(queries, count)
        return Hits(ids_at(self.ids, places), scores)

    def places(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns where the best items stand among the ids, −1 behind the last, and their scores."""
        scores, places = self.index.search(np.ascontiguousarray(queries, np.float32), min(count, len(self.ids)))
        return places, np.where(places < 0, -np.inf, scores).astype(np.float32)

    def vector(self, place: int) -> np.ndarray:
        """Returns an item's vector, (dim,) float32, as near as the index has it."""
        return np.asarray(self.index.reconstruct(place), np.float32)

    def vectors(self, start: int, end: int) -> np.ndarray:
        """Returns the vectors of the items from one place to before another, likewise: (end − start, dim) float32."""
        if isinstance(
            self.index, faiss.IndexIVF
        ):  # of lists `reconstruct_n` reads all ids, however few it is asked for
            return np.asarray(self.index.reconstruct_batch(np.arange(start, end)), np.float32)
        return np.asarray(self.index.reconstruct_n(start, end - start), np.float32)


def read_index(folder: str, ids: pa.Array) -> FaissOpened:
    """Reads the index in a local folder."""
    return FaissOpened(faiss.read_index(f"{folder}/{FILE}"), ids)


def in_memory(settings: FaissIndex, ids: pa.Array, matrix: np.ndarray) -> FaissOpened:
    """Indexes vectors, (rows, dim) float32, that are all at hand."""
    vectors = Vectors(len(matrix), matrix.shape[1], lambda: iter([(ids, matrix)]), matrix)
    index = empty_index(settings, vectors, "index")
    if not index.is_trained:
        index.train(matrix)
    index.add(matrix)
    return FaissOpened(index, ids)


def empty_index(settings: FaissIndex, vectors: Vectors, setting: str) -> faiss.Index:
    """Returns an index of inner products, to be trained where it is not.

    Raises: UserError where there are too few vectors for its centres, or its parts do not divide a vector.
    """
    if isinstance(settings, FaissFlat):
        return faiss.IndexFlatIP(vectors.dim)
    if isinstance(settings, FaissHnsw):
        graph = faiss.IndexHNSWFlat(vectors.dim, settings.links, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction, graph.hnsw.efSearch = settings.ef_construction, settings.ef_search
        return graph
    if isinstance(settings, FaissIvf):
        return _lists(settings, vectors, setting)
    assert isinstance(settings, FaissPq)
    return _codes(settings, vectors, setting)


def _lists(settings: FaissIvf, vectors: Vectors, setting: str) -> faiss.Index:
    dim, known = vectors.dim, len(vectors.sample)
    lists = settings.lists or default_lists(vectors.rows, known)
    _enough(f"{setting}.index.lists:", lists, known)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = min(settings.probes or default_probes(lists), lists)
    index.cp.min_points_per_centroid = FEWEST_PER_CENTRE
    return index


def _codes(settings: FaissPq, vectors: Vectors, setting: str) -> faiss.Index:
    dim = vectors.dim
    segments = settings.segments_of(dim)
    if dim % segments:
        fitting = ", ".join(str(n) for n in range(1, dim + 1) if dim % n == 0)
        raise UserError(f"{setting}.index.segments: {segments} do not divide vectors of {dim}; expected {fitting}")
    _enough(f"{setting}.index.bits: {settings.bits} bits, so", 2**settings.bits, len(vectors.sample))
    index = faiss.IndexPQ(dim, segments, settings.bits, faiss.METRIC_INNER_PRODUCT)
    index.pq.cp.min_points_per_centroid = FEWEST_PER_CENTRE
    return index


def _enough(what: str, centres: int, known: int) -> None:
    if known < centres:
        raise UserError(f"{what} {centres:,} centres for {known:,} training vectors; expected at most as many")
