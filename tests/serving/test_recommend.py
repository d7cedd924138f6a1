"""The view: top items, audiences and similar items of a run with towers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from dssm import published
from dssm.cli import parse_view
from dssm.errors import UserError
from dssm.model.export import LoadedRawTower, LoadedTower
from dssm.packing import unpack_all
from dssm.paths import RunPaths
from dssm.report.dataset import open_run
from dssm.serving.recommend import Recommender, open_recommender
from dssm.serving.view import recommend
from tests.datasets import ITEMS
from tests.serving.clients import client_of
from tests.serving.runs import ONLY_SEEN, USERS, write_served_run, write_user_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recommender(served: RunPaths) -> Recommender:
    return open_recommender(served)


@pytest.fixture(scope="module")
def items(recommender: Recommender) -> tuple[list[str], np.ndarray]:
    ids, matrix = published.load(recommender.items)
    return ids.to_pylist(), matrix


def user_vectors(paths: RunPaths, part: str = "users") -> np.ndarray:
    tower, users = LoadedTower(f"{paths.model}/user_tower"), open_run(paths).part(part)
    specs = {name: users.manifest.columns[name] for name in tower.inputs}
    (batch,) = users.batches(list(specs))
    return tower.vectors(unpack_all(batch, specs))


def test_top_items_of_a_user(served: RunPaths, recommender: Recommender, items: tuple[list[str], np.ndarray]) -> None:
    ids, matrix = items
    for number, vector in enumerate(user_vectors(served)):
        scores = matrix @ vector
        order = [ids[place] for place in np.argsort(-scores)]
        answer = recommender.for_user(USERS[number], 5, seen=True)
        assert answer.best.ids == order[:5]
        np.testing.assert_allclose(answer.best.scores, np.sort(scores)[::-1][:5], rtol=1e-5)
        unseen = [item for item in order if item not in {f"item{n:02d}" for n in range(number, number + 3)}]
        answer = recommender.for_user(USERS[number], 5)
        assert (answer.best.ids, answer.remark) == (unseen[:5], "")
        assert answer.history.items == [f"item{n:02d}" for n in (number + 2, number + 1, number)]  # newest first
        assert answer.history.positive.tolist() == [True, False, True]
        assert set(answer.features) == {"user_id", "age", "clicked", "liked", "images"}


@pytest.mark.parametrize(
    ("user", "remark", "left"),
    [("nobody", "not a user of the samples", ITEMS), (ONLY_SEEN, "no encoded features", ITEMS - 3)],
)
def test_a_cold_answer_is_the_towers_and_says_so(
    recommender: Recommender, served: RunPaths, items: tuple[list[str], np.ndarray], user: str, remark: str, left: int
) -> None:
    cold = LoadedRawTower(f"{served.model}/user_tower_raw").vectors([{}])[0]
    answer = recommender.for_user(user, 50)
    assert answer.remark.startswith(f"{remark}")
    assert "a cold answer" in answer.remark
    assert len(answer.best.ids) == left
    scores = dict(zip(items[0], items[1] @ cold, strict=True))
    np.testing.assert_allclose(answer.best.scores, [scores[item] for item in answer.best.ids], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("part", ["train", "users"])
def test_a_user_of_training_alone_and_one_with_a_row_of_its_own(own_run: RunPaths, part: str) -> None:
    """The view takes the newest training row, the service none; with `samples.users: all` both take the user's own."""
    users = {"train": ["another", ONLY_SEEN], "users": [*USERS, ONLY_SEEN]}
    write_user_rows(open_run(own_run).settings, own_run, part, users[part])
    recommender = open_recommender(own_run)
    ids, matrix = published.load(recommender.items)
    unseen = [item for item in ids.to_pylist() if item not in {f"item{n:02d}" for n in (6, 7, 8)}]
    scores = dict(zip(ids.to_pylist(), matrix @ user_vectors(own_run, part)[-1], strict=True))
    answer = recommender.for_user(ONLY_SEEN, ITEMS)
    assert answer.best.ids == sorted(unseen, key=lambda item: -scores[item])
    with client_of(own_run) as client:
        asked = client.get("/recommend", params={"user": ONLY_SEEN, "count": ITEMS}).json()
        found = [row["item"] for row in asked["items"]]
    if part == "users":
        assert (answer.remark, asked["by"], found) == ("", "samples", answer.best.ids)
        return
    assert answer.remark.startswith("not in samples/users: features as of its newest training sample; the service ")
    cold = recommender.for_user("nobody", ITEMS).best.ids
    assert (asked["by"], found) == ("cold", [item for item in cold if item in unseen])
    assert found != answer.best.ids


def test_raw_features_of_a_user_never_seen(
    recommender: Recommender, served: RunPaths, items: tuple[list[str], np.ndarray], tmp_path: Path
) -> None:
    request = {"user_id": "user_id4", "age": 31.5, "clicked": ["item_id3"], "liked": "topic_id2:0.5", "images": None}
    (tmp_path / "request.json").write_text(json.dumps(request))
    answer = recommender.for_request(f"{tmp_path}/request.json", 4)
    vector = LoadedRawTower(f"{served.model}/user_tower_raw").vectors([request])[0]
    best = np.argsort(-(items[1] @ vector))[:4]
    assert answer.best.ids == [items[0][place] for place in best]
    assert answer.features == {
        "user_id": "user_id4", "age": "31.5", "clicked": "item_id3", "liked": "topic_id2:0.5", "images": "none",
    }  # fmt: skip


WHOLE = {"user_id": "a", "age": 1, "clicked": [], "liked": "", "images": []}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({**WHOLE, "usr_id": 1}, "usr_id: no such input (did you mean 'user_id'?)"),
        ({"user_id": "a", "age": 1, "liked": ""}, "clicked, images: missing; expected each of user_id, age, clicked"),
        ({**WHOLE, "age": "old"}, "age: expected a number, found a text"),
        ([1], "found list, expected an object: {"),
        (None, "not found; expected a JSON file, such as {"),
        ("{", "can't be read as JSON"),
    ],
)
def test_a_request_that_does_not_fit(recommender: Recommender, request_: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    if request_ is not None:
        path.write_text(request_ if isinstance(request_, str) else json.dumps(request_))
    with pytest.raises(UserError) as raised:
        recommender.for_request(str(path), 4)
    assert str(raised.value).startswith(f"--request {path}: {message}")


def test_a_vector_that_is_not_finite_is_no_answer(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "request.json").write_text(json.dumps(WHOLE))
    monkeypatch.setattr(LoadedRawTower, "all_vectors", lambda *_: {"vector": np.array([[np.nan, 1]], np.float32)})
    with pytest.raises(UserError, match="the tower's vector is not finite, or too large to be compared; expected smal"):
        recommender.for_request(f"{tmp_path}/request.json", 4)


def test_a_value_that_the_tower_refuses_is_no_defect(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(WHOLE))

    def refused(*_: Any) -> None:
        raise tf.errors.InvalidArgumentError(None, None, "StringToNumberOp could not\nconvert 1e")

    monkeypatch.setattr(LoadedRawTower, "all_vectors", refused)
    with pytest.raises(UserError) as raised:
        recommender.for_request(str(path), 4)
    told = f"--request {path}: the tower refuses a value (StringToNumberOp could not convert 1e); expected"
    assert (str(raised.value)[: len(told)], raised.value.exit_code) == (told, 2)


def test_similar_items_and_an_audience(
    served: RunPaths, recommender: Recommender, items: tuple[list[str], np.ndarray]
) -> None:
    ids, matrix = items
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    cosines = unit @ unit[4]
    order = [ids[place] for place in np.argsort(-cosines) if place != 4]
    best = recommender.similar("item04", 3)
    assert best.ids == order[:3]
    np.testing.assert_allclose(best.scores, np.sort(cosines)[::-1][1:4], rtol=1e-5)
    scores = user_vectors(served) @ matrix[4]
    best, source, histories = recommender.audience("item04", 4)
    assert best.ids == [USERS[place] for place in np.argsort(-scores)[:4]]
    assert source == "users of the samples, by the user tower"
    assert [history.items[0] for history in histories] == [f"item{int(user[4:]) + 2:02d}" for user in best.ids]


def test_what_is_not_there_is_named(recommender: Recommender, served: RunPaths) -> None:
    with pytest.raises(UserError, match=r"item item4: not among the 15 items published \(did you mean 'item14'\?\)"):
        recommender.similar("item4", 3)
    with pytest.raises(UserError, match=r"--objective: no objective is named 'like' \(the model has one only\)"):
        open_recommender(served, "like")


def test_vectors_of_another_model_are_refused(own_run: RunPaths) -> None:
    path = Path(own_run.model) / "manifest.json"
    path.write_text(path.read_text().replace('"model_version":"', '"model_version":"0'))
    with pytest.raises(UserError, match="run score_items for this date again"):
        open_recommender(own_run)


def shown(paths: RunPaths, *argv: str, width: int = 140) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    recommend(paths, parse_view([paths.folder, *argv], "recommend"), console)
    return console.export_text()


def test_what_is_printed(own_run: RunPaths) -> None:
    paths = own_run
    text = shown(paths, "--user", "user2", "--rows", "4")
    lines = text.splitlines()
    assert lines[0] == "top items for user user2"
    assert "15 items of version v1" in lines[1]
    assert any("recommended" in line and "history: 3 items, 2 positive ✓" in line for line in lines)  # side by side
    assert "Title 4 [b]" in text  # a title is no markup
    assert "what the user tower saw" in text
    narrow = shown(paths, "--user", "user2", "--rows", "4", width=60).splitlines()
    assert not any("recommended" in line and "history" in line for line in narrow)
    assert " seen" in shown(paths, "--user", "user2", "--rows", "15", "--seen")
    assert "a cold answer" in shown(paths, "--user", "nobody")
    text = shown(paths, "--item", "item03", "--users", "--rows", "6")
    assert "top users for item item03 (Title 3 [b]" in text
    assert text.count("yes") == 3
    assert "items like item03" in shown(paths, "--like", "item03")


TWO = {"kind": "multi_objective", "shared": {"layers": [6]}, "head": {"layers": [4], "activation": "tanh"}}
OBJECTIVES = {"click": {"share": 0.75}, "like": {"label": "like", "loss": "weighted_bce", "share": 0.25}}


def test_an_objectives_own_vectors_in_the_view_and_in_the_service(tmp_path: Path) -> None:
    paths = write_served_run(tmp_path, user_tower=TWO, item_tower=TWO, objectives=OBJECTIVES)
    (vectors,) = (open_run(paths).part("users").batches([*open_recommender(paths).model.user_columns]),)
    tower = LoadedTower(f"{paths.model}/user_tower")
    specs = open_run(paths).part("users").manifest.columns
    own = tower.all_vectors(unpack_all(next(vectors), {name: specs[name] for name in tower.inputs}))
    orders = {}
    with client_of(paths) as client:
        for objective in (None, "click", "like"):
            ids, matrix = published.load(open_recommender(paths).items, objective)
            vector = own["vector" if objective is None else f"vector_{objective}"][3]
            orders[objective] = ids.take(np.argsort(-(matrix @ vector))).to_pylist()
            best = open_recommender(paths, objective).for_user(USERS[3], ITEMS, seen=True).best
            assert best.ids == orders[objective]
            asked = {"user": USERS[3], "count": ITEMS, "seen": True} | ({"objective": objective} if objective else {})
            for answer in (client.get("/recommend", params=asked), client.post("/recommend", json=asked)):
                assert [row["item"] for row in answer.json()["items"]] == orders[objective]
        refused = client.post("/recommend", json={"user": "a", "objective": "likes"})
        assert refused.json()["detail"][0]["msg"] == "Input should be 'click' or 'like'"
        refused = client.get("/recommend", params={"user": "a", "objective": "likes"})
        assert refused.json()["detail"][0]["msg"] == "no objective is named 'likes' (did you mean 'like'?)"
    assert len({tuple(order) for order in orders.values()}) == 3
    with pytest.raises(UserError, match=r"--objective: no objective is named 'likes' \(did you mean 'like'\?\)"):
        open_recommender(paths, "likes")
    assert "15 items of version v1, objective like" in shown(paths, "--user", "user1", "--objective", "like")
