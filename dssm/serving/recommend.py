"""recommend: top items for a user, the audience of an item, similar items; from the vectors that are published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa

from dssm import published
from dssm.errors import UserError
from dssm.model.export import LoadedTower
from dssm.model.kept import model_of
from dssm.model.manifest import ModelManifest, read_model_manifest
from dssm.model.outputs import output_name
from dssm.packing import unpack
from dssm.paths import RunPaths
from dssm.published import Published
from dssm.report.dataset import Run, open_run
from dssm.report.show import decode
from dssm.retrieval.queries import Users
from dssm.retrieval.sinks import Batches
from dssm.scoring.vectors import check_model_fits
from dssm.serving.catalogue import item_names
from dssm.serving.lookup import Lookup
from dssm.serving.people import NO_HISTORY, History, histories_of, row_of
from dssm.serving.rescoring import Rescorer, rescorer_of
from dssm.serving.search import Best, best_of, vectors_of
from dssm.serving.tower import FeaturesError, UserTower, check_objective, read_request

ENTRIES = 10  # of a list among the features

UserVector = Callable[[str | None], np.ndarray]  # of an objective; None: the combined one


@dataclass(frozen=True)
class Answer:
    """Top items for someone.

    Attributes:
      asked: who, for people.
      remark: what is to be said of the answer.
      best: items, best first.
      names: of the items and of the history's.
      history: what the user acted on.
      features: what the tower saw, in words.
    """

    asked: str
    remark: str
    best: Best
    names: Mapping[str, str]
    history: History = NO_HISTORY
    features: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recommender:
    """A run, the item vectors published for its date, and their model.

    Attributes:
      objective: whose vectors retrieve; None: the combined ones.
      rescore: how many items the scorer orders; None: similarity alone does.
    """

    run: Run
    model: ModelManifest
    items: Published
    objective: str | None = None
    rescore: int | None = None

    @property
    def vectors(self) -> Batches:
        return published.batches(self.items, self.objective)

    @cached_property
    def _raw_tower(self) -> UserTower:
        return UserTower(self.run.paths, self.model)

    @cached_property
    def _tower(self) -> LoadedTower:
        return LoadedTower(f"{self.run.paths.model}/user_tower")

    @cached_property
    def _rescorer(self) -> Rescorer:
        found = rescorer_of(self.run.paths, self.model)
        if found is None:
            raise UserError(
                f"--rescore: {self.run.paths.model} has no scorer; expected a model trained with the setting "
                "model.scorer, or no --rescore"
            )
        return found

    # Items for a user ----------------------------------------------------------------------------------

    def for_user(self, user: str, count: int, seen: bool = False) -> Answer:
        """Returns top items for a user of the samples; for another the tower's cold answer."""
        (history,), found = histories_of(self.run, [user]), row_of(self.run, user)
        remark, features = "", {}
        if found is None:
            vector: UserVector = partial(self._raw_tower.vector, {})
            remark = "not a user of the samples: a cold answer, what the tower gives where nothing is known"
            if history.items:
                remark = "no encoded features: a cold answer, what the tower gives where nothing is known"
        else:
            part, row = found
            vector = partial(self._vector_of_row, part, row)
            features = decode(self.run, part, row, ENTRIES)[0].features["user"]
            if part == "train":
                remark = (
                    "not in samples/users: features as of its newest training sample; the service answers as for a "
                    "user of whom nothing is known (samples.users: all changes that)"
                )
        return self._answer(f"user {user}", remark, vector, count, history, seen, features)

    def for_request(self, path: str, count: int) -> Answer:
        """Returns top items for the raw features in a file."""
        inputs = self._raw_tower.signature
        features = read_request(path, inputs)
        told = {name: _told(features.get(name)) for name in inputs.inputs}
        vector = partial(self._raw_tower.vector, features)
        try:
            return self._answer(f"request {path}", "", vector, count, NO_HISTORY, True, told)
        except FeaturesError as error:
            raise UserError(f"--request {path}: {error}") from error

    def _answer(
        self, asked: str, remark: str, vector: UserVector, count: int, history: History, seen: bool,
        features: Mapping[str, str],
    ) -> Answer:  # fmt: skip
        best = self._best(vector, count, () if seen else history.items)
        names = item_names(self.run, {*best.ids, *history.items[:count]})
        return Answer(asked, remark, best, names, history, features)

    def _best(self, vector: UserVector, count: int, without: Sequence[str]) -> Best:
        if self.rescore is None:
            return best_of(self.vectors, vector(self.objective), count, without)
        rescorer = self._rescorer
        best = best_of(self.vectors, vector(self.objective), self.rescore, without)
        vectors = vectors_of(published.batches(self.items, rescorer.objective), best.ids)
        order, probabilities = rescorer.ranked(
            vector(rescorer.objective), [vectors[item] for item in best.ids], count
        )  # fmt: skip
        return Best([best.ids[place] for place in order], best.scores[order], probabilities)

    def _vector_of_row(self, part: str, row: pa.Table, objective: str | None) -> np.ndarray:
        manifest = self.run.part(part).manifest
        check_model_fits(self.model, manifest, self.model.user_columns, self.run.paths.part(part))
        columns = {n: unpack(row[n].combine_chunks(), spec) for n, spec in self.model.user_columns.items()}
        vector: np.ndarray = self._tower.all_vectors(columns)[output_name(objective)][0]
        return vector

    # Users for an item, items like an item ---------------------------------------------------------------

    def audience(self, item: str, count: int) -> tuple[Best, str, list[History]]:
        """Returns the top users for an item, where their vectors are from, and their histories."""
        users = Users(self.run.paths, self.model, self.objective)
        best = best_of(users.batches(), self._vector_of_item(item), count)
        return best, users.source, histories_of(self.run, best.ids)

    def similar(self, item: str, count: int) -> Best:
        """Returns the items with the largest cosines to an item."""
        return best_of(self.vectors, self._vector_of_item(item), count, [item], cosine=True)

    def _vector_of_item(self, item: str) -> np.ndarray:
        vector = vectors_of(self.vectors, [item]).get(item)
        if vector is None:
            ids = pa.concat_arrays([ids for ids, _ in self.vectors])
            raise UserError(f"item {item}: not among the {len(ids):,} items published{Lookup(ids).hint(item)}")
        return vector


def open_recommender(paths: RunPaths, objective: str | None = None, rescore: int | None = None) -> Recommender:
    """Opens a run whose item vectors are published. Args: objective, rescore: as of `Recommender`.

    Raises: UserError where they are not, or their model is gone, or has no such objective.
    """
    date = open_run(paths).manifest.date
    items = published.current(published.run_table(paths.folder, "items"), date)
    if items is None:
        raise UserError(f"{paths.folder}: no item vectors are published for {date}; run score_items first")
    paths = model_of(paths, items.manifest)
    model = read_model_manifest(paths.model)
    check_objective(model, objective)
    return Recommender(open_run(paths), model, items, objective, rescore)


def _told(value: Any) -> str:
    if value is None:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
