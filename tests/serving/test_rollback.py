"""A rollback to a version of another model: whoever answers takes that model's towers to its vectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from dssm import published
from dssm.config import Settings
from dssm.model.export import LoadedRawTower, LoadedTower
from dssm.model.kept import model_of
from dssm.packing import unpack_all
from dssm.paths import RunPaths
from dssm.published import Published
from dssm.report.dataset import open_run
from dssm.retrieval.index import index_items
from dssm.scoring.publish import roll_back
from dssm.scoring.score import table_of
from dssm.serving.loaded import find_target, load
from dssm.serving.metrics import Metrics
from dssm.serving.recommend import open_recommender
from dssm.serving.reload import Current
from dssm.serving.service import make_app
from tests.datasets import ITEMS
from tests.serving.runs import USERS, publish_all, write_towers
from tests.serving.tables import write_published

pytestmark = pytest.mark.slow

DATE = "2024-01-08"
FEATURES = {"user_id": "user_id4", "age": 31.5}


@dataclass(frozen=True)
class TwoModels:
    """A run whose version v1 is of the model `first`, v2, the current one, of the model `second`."""

    settings: Settings
    paths: RunPaths
    first: str
    second: str

    def back(self) -> None:
        roll_back(table_of(self.settings, "items"), "v1")

    def place(self, version: str) -> RunPaths:
        return model_of(self.paths, self.published(version).manifest)

    def published(self, version: str) -> Published:
        return published.read_version(published.version_folder(self.settings.table_location, DATE, version))

    def answers(self, version: str) -> list[list[str]]:
        """Returns the items for a user of the samples, USERS[2], and for FEATURES, by hand."""
        model, (ids, matrix) = self.place(version).model, published.load(self.published(version))
        users, tower = open_run(self.paths).part("users"), LoadedTower(f"{model}/user_tower")
        specs = {name: users.manifest.columns[name] for name in tower.inputs}
        (batch,) = users.batches(list(specs))
        known = tower.vectors(unpack_all(batch, specs))[2]
        raw = LoadedRawTower(f"{model}/user_tower_raw").vectors([FEATURES])[0]
        return [ids.take(np.argsort(-(matrix @ vector))).to_pylist() for vector in (known, raw)]


@pytest.fixture
def run(own_run: RunPaths) -> TwoModels:
    root = str(Path(own_run.folder).parents[1])
    settings = open_run(own_run).settings
    items = settings.item_table.model_copy(update={"kind": "path"})
    sinks = settings.index.model_validate({"sinks": {"mine": {"kind": "faiss", "index": "flat"}}, "queries": 6})
    settings = settings.model_copy(update={"root": root, "item_table": items, "index": sinks})
    first = open_recommender(own_run).model.model_version
    second = write_towers(settings, own_run, seed=2).model_version
    publish_all(settings, own_run, "v2")
    return TwoModels(settings, own_run, first, second)


def current_of(paths: RunPaths) -> Current:
    location, pipeline = published.run_table(paths.folder, "items"), str(Path(paths.folder).parent)
    return Current(
        lambda: find_target(location, pipeline, "exact"), lambda target: load(target, pipeline, "exact"), Metrics()
    )


def asked(current: Current) -> list[list[str]]:
    """Returns what the service has for USERS[2] and for FEATURES."""
    client = TestClient(make_app(current, Metrics()))
    known = client.get("/recommend", params={"user": USERS[2], "count": ITEMS, "seen": True})
    raw = client.post("/recommend", json={"features": FEATURES, "count": ITEMS})
    return [[row["item"] for row in answer.json()["items"]] for answer in (known, raw)]


def test_the_service_answers_from_the_version_that_was_rolled_back_to(run: TwoModels) -> None:
    assert run.place("v1").model == f"{run.paths.folder}/models/{run.first}"
    assert run.place("v2") == run.paths
    first, second = run.answers("v1"), run.answers("v2")
    assert first[0] != second[0]
    assert first[1] != second[1]
    current = current_of(run.paths)
    assert current.loaded.facts["model_version"] == run.second
    assert asked(current) == second
    run.back()
    assert current.look()  # a service that runs
    for now in (current, current_of(run.paths)):  # and one that is started
        assert (now.loaded.facts["version"], now.loaded.facts["model_version"]) == ("v1", run.first)
        assert asked(now) == first


def test_recommend_and_index_items_take_the_models_towers(run: TwoModels) -> None:
    first = run.answers("v1")
    run.back()
    recommender = open_recommender(run.paths)
    assert recommender.model.model_version == run.first
    assert recommender.for_user(USERS[2], ITEMS, seen=True).best.ids == first[0]
    report = index_items(run.settings)
    assert report is not None
    assert (report.version, report.model_version) == ("v1", run.first)
    assert report.sinks[0].recall[10] == 1
    assert report.sinks[0].switched


def test_a_model_whose_vectors_a_gate_refused_leaves_the_one_before_to_answer(run: TwoModels) -> None:
    second = run.answers("v2")
    write_towers(run.settings, run.paths, seed=3)  # and nothing is published
    current = current_of(run.paths)
    assert current.loaded.facts["model_version"] == run.second
    assert asked(current) == second


def test_the_users_vectors_are_of_the_version_that_fits(run: TwoModels) -> None:
    """After a rollback of the items alone, the users' current version is of another model than an earlier one."""
    location = f"{run.settings.root}/users"
    rng = np.random.default_rng(5)
    width = open_recommender(run.paths).model.vector_dim
    vectors = {name: rng.normal(size=(len(USERS), width)).astype(np.float32) for name in ("v1", "v2")}
    for name, model in (("v1", run.first), ("v2", run.second)):
        write_published(location, DATE, name, "user", USERS, vectors[name], model)
    published.write_run_tables(run.paths.folder, {"users": location})
    run.back()
    loaded = current_of(run.paths).loaded
    for number, user in enumerate(USERS):
        np.testing.assert_array_equal(loaded.user_vectors[None][loaded.users.place(user)], vectors["v1"][number])


def test_a_model_that_moves_while_it_is_loaded_is_loaded_again(run: TwoModels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what was read might be of the new model."""
    from dssm.serving import loaded

    of_version = loaded._loaded
    places: list[RunPaths] = []

    def meanwhile(target: loaded.Target, paths: RunPaths, kind: loaded.IndexKind) -> loaded.Loaded:
        if not places:
            write_towers(run.settings, run.paths, seed=3)
        places.append(paths)
        return of_version(target, paths, kind)

    second = run.answers("v2")
    monkeypatch.setattr(loaded, "_loaded", meanwhile)
    assert asked(current_of(run.paths)) == second
    assert [place.model_version for place in places] == [None, run.second]
