"""Re-scoring by the model's scorer, in the view and in the service, against its SavedModel called by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from fastapi.testclient import TestClient

from dssm import published
from dssm.cli import parse_view
from dssm.errors import UserError
from dssm.model.export import LoadedRawTower, LoadedTower
from dssm.packing import unpack_all
from dssm.paths import RunPaths
from dssm.report.dataset import open_run
from dssm.serving.recommend import open_recommender
from tests.datasets import ITEMS
from tests.serving.clients import client_of
from tests.serving.runs import USERS, write_served_run
from tests.serving.test_recommend import OBJECTIVES, TWO, shown

pytestmark = pytest.mark.slow

LOGISTIC: dict[str, Any] = {"scorer": {"kind": "logistic"}}
MODELS = {
    "one objective": LOGISTIC,
    "one with a share": {"scorer": {"kind": "shallow", "layers": [4]}, "objectives": {"click": {"share": 0.25}}},
    "two objectives": {**LOGISTIC, "user_tower": TWO, "item_tower": TWO, "objectives": OBJECTIVES},
}
# Of each: the output with the vectors that the scorer takes, and how much longer they are published than trained.
TAKEN = {"one objective": ("vector", 1.0), "one with a share": ("vector", 0.5), "two objectives": ("vector_click", 1.0)}
FEATURES = {"user_id": "user_id4", "age": 31.5, "clicked": ["item_id3"], "liked": "topic_id2:0.5", "images": None}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunPaths]:
    return {name: write_served_run(tmp_path_factory.mktemp("scored"), **model) for name, model in MODELS.items()}


@pytest.fixture(scope="module")
def client(runs: dict[str, RunPaths]) -> Iterator[TestClient]:
    with client_of(runs["one objective"]) as made:
        yield made


def user_outputs(paths: RunPaths) -> dict[str, np.ndarray]:
    """Returns every output of the user tower for USERS."""
    tower, users = LoadedTower(f"{paths.model}/user_tower"), open_run(paths).part("users")
    specs = {name: users.manifest.columns[name] for name in tower.inputs}
    (batch,) = users.batches(list(specs))
    return tower.all_vectors(unpack_all(batch, specs))


def ordered(paths: RunPaths, name: str, vectors: dict[str, np.ndarray], first: int) -> tuple[list[str], np.ndarray]:
    """Returns the first items by score in the scorer's order, and their probabilities. Args: vectors: of one user."""
    (output, scale), items = TAKEN[name], open_recommender(paths).items
    ids, combined = published.load(items)
    _, own = published.load(items, output.removeprefix("vector").removeprefix("_") or None)
    found = np.argsort(-(combined @ vectors["vector"]))[:first]
    serve = tf.saved_model.load(f"{paths.model}/scorer").signatures["serving_default"]
    users = np.tile(vectors[output] / scale, (first, 1))
    logits = serve(user_vector=tf.constant(users), item_vector=tf.constant(own[found] / np.float32(scale)))["score"]
    order = np.argsort(-logits.numpy())
    return [ids[place].as_py() for place in found[order]], 1 / (1 + np.exp(-logits.numpy()[order].astype(float)))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("first", [6, ITEMS])
def test_the_view_orders_what_was_retrieved_as_the_scorer_says(
    runs: dict[str, RunPaths], name: str, first: int, tmp_path: Path
) -> None:
    paths, changed = runs[name], 0
    rescoring, plain = open_recommender(paths, rescore=first), open_recommender(paths)
    outputs = user_outputs(paths)
    for number, user in enumerate(USERS):
        items, probabilities = ordered(paths, name, {key: of[number] for key, of in outputs.items()}, first)
        best = rescoring.for_user(user, 4, seen=True).best
        assert best.ids == items[:4]
        np.testing.assert_allclose(best.probabilities, probabilities[:4], rtol=1e-4)
        by_score = plain.for_user(user, ITEMS, seen=True).best
        scores = dict(zip(by_score.ids, by_score.scores, strict=True))
        np.testing.assert_array_equal(best.scores, [scores[item] for item in best.ids])
        changed += best.ids != by_score.ids[:4]
        assert by_score.probabilities is None
        assert set(rescoring.for_user(user, 4).best.ids).isdisjoint(f"item{n:02d}" for n in range(number, number + 3))
    assert changed > len(USERS) / 2
    (tmp_path / "request.json").write_text(json.dumps(FEATURES))
    raw = LoadedRawTower(f"{paths.model}/user_tower_raw").all_vectors([FEATURES])
    items, _ = ordered(paths, name, {key: of[0] for key, of in raw.items()}, first)
    assert rescoring.for_request(f"{tmp_path}/request.json", 4).best.ids == items[:4]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["exact", "faiss"])
def test_the_services_answers_are_the_views(runs: dict[str, RunPaths], name: str, kind: Any, tmp_path: Path) -> None:
    paths, view = runs[name], open_recommender(runs[name], rescore=8)
    (tmp_path / "request.json").write_text(json.dumps(FEATURES))
    cases: list[tuple[dict[str, Any], Any]] = [({"user": user}, view.for_user(user, 5).best) for user in USERS]
    cases += [({"user": "nobody"}, view.for_user("nobody", 5).best)]
    cases += [({"features": FEATURES}, view.for_request(f"{tmp_path}/request.json", 5).best)]
    with client_of(paths, kind) as client:
        for who, expected in cases:
            asked = {**who, "count": 5, "rescore": 8}
            answers = [client.post("/recommend", json=asked)]
            answers += [client.get("/recommend", params=asked)] if "user" in who else []
            for answer in answers:
                rows = answer.json()["items"]
                assert [row["item"] for row in rows] == expected.ids
                for key, values in (("score", expected.scores), ("probability", expected.probabilities)):
                    np.testing.assert_allclose([row[key] for row in rows], values, rtol=1e-4, atol=1e-6)
        plain = client.post("/recommend", json={"user": USERS[0], "count": 5}).json()
        assert [set(row) for row in plain["items"]] == [{"item", "score", "title"}] * 5


def test_nothing_retrieved_is_nothing_to_order(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from dssm.serving.loaded import SeenItems

    monkeypatch.setattr(SeenItems, "of", lambda *_: np.arange(ITEMS))
    assert client.get("/recommend", params={"user": USERS[0], "rescore": 10}).json()["items"] == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"rescore": 4, "count": 5}, "Input should be greater than or equal to count, 5"),
        ({"rescore": 0}, "Input should be greater than or equal to 1"),
        ({"rescore": 1001}, "Input should be less than or equal to 1000"),
    ],
)
def test_a_rescore_that_can_not_be(client: TestClient, asked: dict[str, int], message: str) -> None:
    given = {"user": USERS[0], **asked}
    for part, answer in (
        ("query", client.get("/recommend", params=given)), ("body", client.post("/recommend", json=given)),
    ):  # fmt: skip
        (fault,) = answer.json()["detail"]
        assert (answer.status_code, fault["loc"], fault["msg"]) == (422, [part, "rescore"], message)


def test_a_model_without_a_scorer_refuses(served: RunPaths) -> None:
    with pytest.raises(UserError) as raised:
        shown(served, "--user", USERS[0], "--rescore", "10")
    assert raised.value.exit_code == 2
    assert str(raised.value).startswith(f"--rescore: {served.model} has no scorer; expected a model trained with ")
    with client_of(served) as client:
        for answer in (
            client.get("/recommend", params={"user": USERS[0], "rescore": 10}),
            client.post("/recommend", json={"user": USERS[0], "rescore": 10}),
        ):
            assert answer.status_code == 422
            assert answer.json()["detail"][0]["msg"] == "the model has no scorer; leave rescore out"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--like", "a", "--rescore", "20"], "--rescore goes with --user or --request; expected one of them, or"),
        (["--user", "a", "--rescore", "9"], "--rescore 9: expected at least --rows, 10"),
    ],
)
def test_options_that_do_not_go_together(argv: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_view(["demo", *argv], "recommend")
    assert str(raised.value).startswith(message)


def test_what_is_printed(runs: dict[str, RunPaths]) -> None:
    text = shown(runs["one objective"], "--user", USERS[0], "--rows", "3", "--rescore", "8", width=200)
    assert "15 items of version v1, the first 8 by score ordered by the scorer's probability" in text
    best = open_recommender(runs["one objective"], rescore=8).for_user(USERS[0], 3).best
    assert best.probabilities is not None
    for item, score, probability in zip(best.ids, best.scores, best.probabilities, strict=True):
        assert re.search(f" {item} .* {score:.4f} +{probability:.4f} ", text)
    assert "probability" not in shown(runs["one objective"], "--user", USERS[0])
