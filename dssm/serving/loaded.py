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
from dssm.console import warn_once
from dssm.errors import UserError
from dssm.manifest import ITEM_ID, ITEM_INDEX, SEEN, USER_ID
from dssm.model.kept import model_of
from dssm.model.manifest import ModelManifest, read_model_manifest
from dssm.paths import RunPaths
from dssm.published import Published
from dssm.report.dataset import Run, open_run
from dssm.retrieval.index import read_report
from dssm.retrieval.queries import Users
from dssm.retrieval.search import ITEMS_AT_ONCE, best_items
from dssm.retrieval.sinks.faiss import in_memory, read_index
from dssm.retrieval.sinks.folders import DESCRIPTION, IDS, read_description
from dssm.samples.lookup_tables import places_in
from dssm.sections.indexing import FaissFlat
from dssm.serving.catalogue import titles
from dssm.serving.lookup import Lookup
from dssm.serving.requests import request_model
from dssm.serving.rescoring import Rescorer, rescorer_of
from dssm.serving.search import ExactIndex, cosines, unit
from dssm.serving.tower import UserTower

IndexKind = Literal["exact", "faiss"]
MADE_HERE: dict[IndexKind, str] = {"exact": "exact", "faiss": "faiss flat, made at the start"}


class ItemIndex(Protocol):
    """Items by inner product."""

    ids: pa.Array

    def places(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns where the best items stand among the ids, −1 behind the last, and their scores."""

    def vector(self, place: int) -> np.ndarray:
        """Returns an item's vector, as near as the index has it."""

    def vectors(self, start: int, end: int) -> np.ndarray:
        """Returns the vectors of the items from one place to before another, likewise: (end − start, dim) float32."""


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
    """Items, best first: places among the ids, and scores.

    Attributes: probabilities: by the scorer, whose order this is then; None where it was not asked.
    """

    places: np.ndarray
    scores: np.ndarray
    probabilities: np.ndarray | None = None


@dataclass(frozen=True)
class Loaded:
    """One version.

    Attributes:
      manifest: of the published item vectors.
      norm: of every combined vector; None where they differ.
      tower: takes raw features.
      rescorer: None where the model has no scorer.
      indexes: by objective; None: of the combined vectors.
      items: ids, in the order of all indexes.
      users: ids of the users with vectors.
      user_vectors: (users, dim) float32, by objective.
      seen: what users have an event with.
      titles: (items,), None where the samples have none.
      request: model of the body of POST /recommend.
      index_says: which index it is.
      at: when it was loaded.
    """

    manifest: published.PublishedManifest
    norm: float | None
    tower: UserTower
    rescorer: Rescorer | None
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

    def top(self, vector: np.ndarray, count: int, objective: str | None, without: np.ndarray) -> Found:
        """Returns the items with the largest inner products with a vector, those at `without` left out."""
        asked = min(count + len(without), len(self.items))
        places, scores = self.indexes[objective].places(vector[None], asked)
        kept = (places[0] >= 0) & ~np.isin(places[0], without)
        return Found(places[0][kept][:count], scores[0][kept][:count])

    def rescored(self, rescorer: Rescorer, user: np.ndarray, found: Found, count: int) -> Found:
        """Returns the most probable of some items by the scorer. Args: user: its vector of `rescorer.objective`."""
        index = self.indexes[rescorer.objective]
        vectors = [index.vector(place) for place in found.places.tolist()]
        order, probabilities = rescorer.ranked(user, vectors, count)
        return Found(found.places[order], found.scores[order], probabilities)

    def similar(self, place: int, count: int, objective: str | None) -> Found:
        """Returns the items with the largest cosines to one, itself left out.

        Indexes rank by inner products: where norms differ, all vectors are compared, as near as the index has them.
        """
        index, itself = self.indexes[objective], np.array([place])
        vector = index.vector(place)
        if self.norm is not None and objective is None:
            found = self.top(unit(vector), count, objective, itself)
            return Found(found.places, found.scores / np.float32(self.norm))
        rows = len(self.items)
        parts = ((start, min(start + ITEMS_AT_ONCE, rows)) for start in range(0, rows, ITEMS_AT_ONCE))
        scores = ((start, cosines(index.vectors(start, end), vector)[None]) for start, end in parts)
        _, best = best_items(scores, 1, rows, count, seen=itself)
        kept = best.items[0] >= 0
        return Found(best.items[0][kept], best.scores[0][kept])

    def told(self, found: Found) -> list[dict[str, Any]]:
        """Returns items as an answer has them."""
        rows = zip(found.places.tolist(), found.scores.tolist(), strict=True)
        named = [{"item": self.items[place], "score": score} for place, score in rows]
        if found.probabilities is not None:
            for row, probability in zip(named, found.probabilities.tolist(), strict=True):
                row["probability"] = probability
        if self.titles is not None:
            for row, place in zip(named, found.places.tolist(), strict=True):
                row["title"] = self.titles[place].as_py()
        return named


@dataclass(frozen=True)
class Target:
    """What is to be loaded: a published version, and where index_items has put its vectors since, by objective."""

    items: Published
    made: tuple[tuple[str | None, str], ...] = ()

    def index_of(self, objective: str | None) -> str | None:
        """Returns the folder of an objective's index; of several the first of the settings."""
        return next((folder for name, folder in self.made if name == objective), None)


def find_target(location: str, pipeline: str, kind: IndexKind, date: str | None = None) -> Target | None:
    """Returns what readers of the table should take now; None where nothing is published.

    Args:
      location: of the item table.
      pipeline: folder of the runs' dates.
      kind: faiss takes the indexes that index_items switched to last, where they are of this version.
      date: None: the newest.
    """
    items = published.current(location, date)
    if items is None:
        return None
    report = read_report(posixpath.join(pipeline, items.manifest.date)) if kind == "faiss" else None
    sinks = [sink for sink in report.answering if sink.kind == "faiss"] if report is not None else []
    return Target(items, tuple((sink.objective, sink.place) for sink in sinks if _holds(sink.place, items)))


def _holds(folder: str, items: Published) -> bool:
    """Whether an index is there, whole and of a published version."""
    if not storage.exists(f"{folder}/{DESCRIPTION}"):
        return False
    try:
        described = read_description(folder)
    except UserError as error:
        warn_once(f"  {error}; until then the service makes its own")
        return False
    return described.facts.get("table_version") == items.manifest.version and described.rows == items.manifest.rows


def load(target: Target, pipeline: str, kind: IndexKind) -> Loaded:
    """Loads a published version with its model and the samples of its date.

    Args:
      target: of `find_target`.
      pipeline: folder of the runs' dates.
      kind: of an index that is made here, where there is none: all vectors in memory, compared by NumPy or by faiss.
    Raises: UserError where run and version do not belong together.
    """
    made = target.items.manifest
    run = RunPaths(posixpath.join(pipeline, made.date))
    paths = model_of(run, made)
    loaded = _loaded(target, paths, kind)
    if model_of(run, made) != paths:  # train has put another in its place, maybe before all of it was read
        return load(target, pipeline, kind)
    return loaded


def _loaded(target: Target, paths: RunPaths, kind: IndexKind) -> Loaded:
    items = target.items
    model, run = read_model_manifest(paths.model), open_run(paths)
    objectives: list[str | None] = [None, *(model.objectives if len(model.objectives) > 1 else ())]
    indexes = {objective: _index(target, objective, kind) for objective in objectives}
    ids = indexes[None].ids
    if any(not index.ids.equals(ids) for index in indexes.values()):
        raise UserError(f"{items.folder}: the objectives' indexes are of different items; run index_items again")
    users, vectors = _users(paths, model, objectives)
    tower = UserTower(paths, model)
    tower.vector({})  # the first call makes TensorFlow's plan, which takes most of a second
    return Loaded(
        manifest=items.manifest, norm=model.vector_norm, tower=tower, rescorer=rescorer_of(paths, model),
        indexes=indexes, items=Lookup(ids), users=Lookup(users), user_vectors=vectors, seen=_seen(run, ids),
        titles=titles(run, ids), index_says=target.index_of(None) or MADE_HERE[kind],
        request=request_model(tower.signature, [name for name in objectives if name is not None]),
    )  # fmt: skip


def _index(target: Target, objective: str | None, kind: IndexKind) -> ItemIndex:
    folder = target.index_of(objective)
    if folder is not None:
        with storage.local_copy(folder) as local:
            return read_index(local, pq.read_table(f"{local}/{IDS}")["id"].combine_chunks())
    ids, matrix = published.load(target.items, objective)
    return in_memory(FaissFlat(), ids, matrix) if kind == "faiss" else ExactIndex(ids, matrix)


def _users(
    paths: RunPaths, model: ModelManifest, objectives: Iterable[str | None]
) -> tuple[pa.Array, dict[str | None, np.ndarray]]:
    """Returns the users' ids, and their vectors by objective, (users, dim) float32 each."""
    ids, vectors = pa.array([], pa.string()), {}
    users = Users(paths, model)  # once: of a table that is published in between the objectives would be of two versions
    for objective in objectives:
        parts = list(users.of(objective).batches())
        ids = pa.concat_arrays([pa.array([], pa.string()), *(part for part, _ in parts)])
        vectors[objective] = np.concatenate([matrix for _, matrix in parts] or [np.empty((0, 0), np.float32)])
    return ids, vectors


def _seen(run: Run, ids: pa.Array) -> SeenItems:
    """Reads what users have seen, as places among the published ids."""
    catalogue = pa.Table.from_batches(list(run.part("items").batches([ITEM_INDEX, ITEM_ID])))
    place_of = np.full(len(catalogue), -1, np.int32)  # of an item index
    place_of[catalogue[ITEM_INDEX].to_numpy()] = places_in(catalogue[ITEM_ID].combine_chunks(), ids)
    users, counts, items = [pa.array([], pa.string())], [np.zeros(1, np.int64)], [np.zeros(0, np.int32)]
    for batch in run.part("interactions").batches([USER_ID, SEEN]):
        users.append(batch.column(0))
        counts.append(pc.fill_null(pc.list_value_length(batch.column(1)), 0).to_numpy().astype(np.int64))
        items.append(place_of[batch.column(1).flatten().to_numpy()])
    return SeenItems(Lookup(pa.concat_arrays(users)), np.cumsum(np.concatenate(counts)), np.concatenate(items))
