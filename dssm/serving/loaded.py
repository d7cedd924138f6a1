"""All that one published version needs to answer, in memory. It never changes: a new version is another of these."""

from __future__ import annotations

import datetime as dt
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel

from dssm import published, storage
from dssm.errors import UserError
from dssm.manifest import ITEM_ID, ITEM_INDEX, SEEN, USER_ID
from dssm.model.manifest import ModelManifest, read_model_manifest
from dssm.paths import RunPaths
from dssm.published import Published
from dssm.report.dataset import Run, open_run
from dssm.retrieval.index import read_report
from dssm.retrieval.queries import Users
from dssm.retrieval.sinks.faiss import in_memory, read_index
from dssm.retrieval.sinks.folders import DESCRIPTION, IDS, read_description
from dssm.sections.indexing import FaissHnsw
from dssm.serving.catalogue import titles
from dssm.serving.lookup import Lookup, places_in
from dssm.serving.recommend import check_table
from dssm.serving.requests import request_model
from dssm.serving.search import ExactIndex
from dssm.serving.tower import UserTower

IndexKind = Literal["exact", "faiss"]
AGAIN = 10  # times as many items are looked at, where cosines and inner products rank differently


class ItemIndex(Protocol):
    """Items by inner product."""

    ids: pa.Array

    def places(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns where the best items stand among the ids, −1 behind the last, and their scores."""

    def vector(self, place: int) -> np.ndarray:
        """Returns an item's vector."""


@dataclass(frozen=True)
class SeenItems:
    """What users have an event with before the test window: `items` from `starts[u]` to `starts[u + 1]`."""

    users: Lookup
    starts: np.ndarray
    items: np.ndarray

    def of(self, user: str) -> np.ndarray:
        """Returns places of items; none for a user that is not known."""
        row = self.users.place(user)
        return self.items[:0] if row is None else self.items[self.starts[row] : self.starts[row + 1]]


@dataclass(frozen=True)
class Found:
    """Items, best first: places among the ids, and scores."""

    places: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Loaded:
    """One version.

    Attributes:
      manifest: of the published item vectors.
      tower: takes raw features.
      indexes: by objective; None: of the combined vectors.
      users: ids with vectors, and `user_vectors` (users, dim) float32 by objective.
      titles: (items,), None where the samples have none.
      request: model of the body of POST /recommend.
      at: when it was loaded.
    """

    manifest: published.PublishedManifest
    norm: float | None
    tower: UserTower
    indexes: Mapping[str | None, ItemIndex]
    items: Lookup
    users: Lookup
    user_vectors: Mapping[str | None, np.ndarray]
    seen: SeenItems
    titles: pa.Array | None
    request: type[BaseModel]
    index_says: str
    at: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    @property
    def objectives(self) -> list[str]:
        return [name for name in self.indexes if name is not None]

    @property
    def facts(self) -> dict[str, str]:
        """What is loaded, for people and for monitoring."""
        made = self.manifest
        return {
            "date": made.date,
            "version": made.version,
            "model_version": made.model_version,
            "index": self.index_says,
        }

    def user_vector(self, user: str, objective: str | None) -> np.ndarray | None:
        """Returns the vector of a user of the samples, (dim,); None for another."""
        row = self.users.place(user)
        return None if row is None else self.user_vectors[objective][row]

    def top(self, vector: np.ndarray, count: int, objective: str | None, without: np.ndarray) -> Found:
        """Returns the items with the largest inner products with a vector, those at `without` left out."""
        asked = min(count + len(without), len(self.items))
        places, scores = self.indexes[objective].places(vector[None], asked)
        kept = (places[0] >= 0) & ~np.isin(places[0], without)
        return Found(places[0][kept][:count], scores[0][kept][:count])

    def similar(self, place: int, count: int, objective: str | None) -> Found:
        """Returns the items with the largest cosines to one, itself left out."""
        index = self.indexes[objective]
        vector = _unit(index.vector(place))
        if self.norm is not None and objective is None:
            found = self.top(vector, count, objective, np.array([place]))
            return Found(found.places, found.scores / np.float32(self.norm))
        found = self.top(vector, AGAIN * count, objective, np.array([place]))
        cosines = np.array([_unit(index.vector(near)) @ vector for near in found.places.tolist()], np.float32)
        order = np.argsort(-cosines, kind="stable")[:count]
        return Found(found.places[order], cosines[order])

    def told(self, found: Found) -> list[dict[str, Any]]:
        """Returns items as an answer has them."""
        rows = zip(found.places.tolist(), found.scores.tolist(), strict=True)
        named = [{"item": self.items[place], "score": score} for place, score in rows]
        if self.titles is not None:
            for row, place in zip(named, found.places.tolist(), strict=True):
                row["title"] = self.titles[place].as_py()
        return named


def load(items: Published, pipeline: str, kind: IndexKind) -> Loaded:
    """Loads a published version with the model and the samples of its date.

    Args:
      items: the published item vectors.
      pipeline: folder of the runs' dates.
      kind: faiss takes the index that index_items made of this version, and makes one where there is none.
    Raises: UserError where run and version do not belong together.
    """
    paths = RunPaths(posixpath.join(pipeline, items.manifest.date))
    model, run = read_model_manifest(paths.model), open_run(paths)
    check_table(items, model, paths)
    objectives: list[str | None] = [None, *(model.objectives if len(model.objectives) > 1 else ())]
    indexes = {objective: _index(items, paths, objective, kind) for objective in objectives}
    ids = indexes[None][0].ids
    if any(not index.ids.equals(ids) for index, _ in indexes.values()):
        raise UserError(f"{items.folder}: the objectives' indexes are of different items; run index_items again")
    users, vectors = _users(paths, model, objectives)
    tower = UserTower(paths, model)
    tower.vector({})  # the first call makes TensorFlow's plan, which takes most of a second
    return Loaded(
        manifest=items.manifest, norm=model.vector_norm, tower=tower,
        indexes={objective: index for objective, (index, _) in indexes.items()}, items=Lookup(ids),
        users=Lookup(users), user_vectors=vectors, seen=_seen(run, ids), titles=titles(run, ids),
        request=request_model(tower.signature, [name for name in objectives if name is not None]),
        index_says=indexes[None][1],
    )  # fmt: skip


def _index(items: Published, paths: RunPaths, objective: str | None, kind: IndexKind) -> tuple[ItemIndex, str]:
    """Returns an index, and says what it is."""
    if kind == "faiss" and (folder := _made(items, paths, objective)) is not None:
        with storage.local_copy(folder) as local:
            ids = pq.read_table(f"{local}/{IDS}")["id"].combine_chunks()
            return read_index(local, ids), folder
    ids, matrix = published.load(items, objective)
    if kind == "faiss":
        return in_memory(FaissHnsw(), ids, matrix), "faiss hnsw, made at the start"
    return ExactIndex(ids, matrix), "exact"


def _made(items: Published, paths: RunPaths, objective: str | None) -> str | None:
    """Returns the folder of a faiss index that index_items switched to, of these vectors; None where there is none."""
    report = read_report(paths.folder)
    for sink in report.sinks if report is not None else ():
        wanted = sink.kind == "faiss" and sink.switched and sink.objective == objective
        if not wanted or not storage.exists(f"{sink.place}/{DESCRIPTION}"):
            continue
        described = read_description(f"{sink.place}/{DESCRIPTION}")
        if described.facts.get("table_version") == items.manifest.version and described.rows == items.manifest.rows:
            return sink.place
    return None


def _users(
    paths: RunPaths, model: ModelManifest, objectives: Iterable[str | None]
) -> tuple[pa.Array, dict[str | None, np.ndarray]]:
    """Returns the users' ids, and their vectors by objective, (users, dim) float32 each."""
    ids, vectors = pa.array([], pa.string()), {}
    for objective in objectives:
        parts = list(Users(paths, model, objective).batches())
        ids = pa.concat_arrays([pa.array([], pa.string()), *(part for part, _ in parts)])
        vectors[objective] = np.concatenate([matrix for _, matrix in parts] or [np.empty((0, 0), np.float32)])
    return ids, vectors


def _seen(run: Run, ids: pa.Array) -> SeenItems:
    """Reads what users have seen, as places among the published ids."""
    catalogue = pa.Table.from_batches(list(run.part("items").batches([ITEM_INDEX, ITEM_ID])))
    place_of = np.full(len(catalogue), -1, np.int32)  # of an item index
    place_of[catalogue[ITEM_INDEX].to_numpy()] = places_in(ids, catalogue[ITEM_ID].combine_chunks())
    users, counts, items = [pa.array([], pa.string())], [np.zeros(1, np.int64)], [np.zeros(0, np.int32)]
    for batch in run.part("interactions").batches([USER_ID, SEEN]):
        users.append(batch.column(0))
        counts.append(pc.fill_null(pc.list_value_length(batch.column(1)), 0).to_numpy().astype(np.int64))
        items.append(place_of[batch.column(1).flatten().to_numpy()])
    return SeenItems(Lookup(pa.concat_arrays(users)), np.cumsum(np.concatenate(counts)), np.concatenate(items))


def _unit(vector: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vector / max(float(np.linalg.norm(vector)), np.finfo(np.float32).tiny)
    return unit
