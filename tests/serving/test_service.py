"""The service over HTTP, in this process: answers, refusals, and whatever is sent to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dssm import published
from dssm.errors import GateError, UserError
from dssm.model.export import LoadedRawTower
from dssm.paths import RunPaths
from dssm.report.dataset import open_run
from dssm.retrieval.index import index_items
from dssm.serving.loaded import Target, _index, find_target
from dssm.serving.recommend import open_recommender
from dssm.serving.service import LARGEST_BODY
from tests.datasets import ITEMS
from tests.serving.clients import client_of
from tests.serving.runs import ONLY_SEEN, USERS
from tests.serving.tables import unit_rows, write_published

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(served: RunPaths) -> Iterator[TestClient]:
    with client_of(served) as made:
        yield made


def items_of(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [row["item"] for row in answer.json()["items"]]


def scores_of(answer: Any) -> list[float]:
    return [row["score"] for row in answer.json()["items"]]


def test_a_parameter_that_the_address_has_not_is_named(client: TestClient) -> None:
    answer = client.get("/recommend", params={"user": USERS[0], "cuont": 3})
    assert answer.status_code == 422
    (fault,) = answer.json()["detail"]
    assert (fault["loc"], fault["msg"]) == (["query", "cuont"], "no parameter 'cuont' (did you mean 'count'?)")
    assert client.get("/similar", params={"item": "item04", "seen": True}).status_code == 422


def test_answers_are_those_of_the_view(client: TestClient, served: RunPaths) -> None:
    view = open_recommender(served)
    for user in USERS:
        for seen in (False, True):
            expected = view.for_user(user, 5, seen=seen).best
            answer = client.get("/recommend", params={"user": user, "count": 5, "seen": seen})
            assert items_of(answer) == expected.ids
            np.testing.assert_allclose(scores_of(answer), expected.scores, rtol=1e-4, atol=1e-6)
            assert answer.json() | {"items": None} == {"version": "v1", "user": user, "by": "samples", "items": None}
            body = {"user": user, "count": 5, "seen": seen}
            assert client.post("/recommend", json=body).json() == answer.json()
    expected = view.similar("item04", 5)
    answer = client.get("/similar", params={"item": "item04", "count": 5})
    assert items_of(answer) == expected.ids
    np.testing.assert_allclose(scores_of(answer), expected.scores, rtol=1e-4)


def test_unknown_users_get_the_towers_cold_answer(client: TestClient, served: RunPaths) -> None:
    cold = open_recommender(served).for_user("nobody", 4).best
    for answer in (
        client.get("/recommend", params={"user": "nobody", "count": 4}),
        client.post("/recommend", json={"user": "nobody", "count": 4}),
        client.post("/recommend", json={"features": {}, "count": 4}),
        client.post("/recommend", json={"features": {"user_id": None}, "count": 4}),
    ):
        assert (items_of(answer), answer.json()["by"]) == (cold.ids, "cold")
    visitor = client.get("/recommend", params={"user": ONLY_SEEN, "count": 50})  # known by what it saw alone
    assert (len(items_of(visitor)), visitor.json()["by"]) == (ITEMS - 3, "cold")


def test_raw_features(client: TestClient, served: RunPaths, tmp_path: Path) -> None:
    features = {"user_id": "user_id4", "age": 31.5, "clicked": ["item_id3"], "liked": "topic_id2:0.5", "images": None}
    (tmp_path / "request.json").write_text(json.dumps(features))
    expected = open_recommender(served).for_request(f"{tmp_path}/request.json", 6).best
    answer = client.post("/recommend", json={"features": features, "count": 6})
    assert (items_of(answer), answer.json()["by"]) == (expected.ids, "features")
    seen = client.post("/recommend", json={"user": USERS[0], "features": features, "count": 50})
    assert set(items_of(seen)) == {f"item{n:02d}" for n in range(3, ITEMS)}  # by its features, without what it saw


@pytest.mark.parametrize(
    ("path", "body", "status", "place", "message"),
    [
        ("/recommend", None, 422, ["query", "user"], "Field required"),
        ("/recommend?user=", None, 422, ["query", "user"], "String should have at least 1 character"),
        ("/recommend?user=a&count=0", None, 422, ["query", "count"], "Input should be greater than or equal to 1"),
        ("/recommend?user=a&count=1001", None, 422, ["query", "count"], "Input should be less than or equal to 1000"),
        ("/recommend?user=a&seen=maybe", None, 422, ["query", "seen"], "Input should be a valid boolean"),
        ("/recommend?user=a&objective=x", None, 422, ["query", "objective"], "no objective is named 'x' (the model"),
        ("/similar?item=item01&count=x", None, 422, ["query", "count"], "Input should be a valid integer"),
        ("/recommend", "{", 422, ["body"], "Invalid JSON"),
        ("/recommend", "", 422, ["body"], "Invalid JSON"),
        ("/recommend", '{"user": 1, "features": {"agee": 1}}', 422, ["body", "features", "agee"], "no such field (did"),
        ("/recommend", '{"features": {"age": "x"}}', 422, ["body", "features", "age"], "expected a number, found a"),
        ("/recommend", '{"user": "a", "objective": "x"}', 422, ["body", "objective"], "no such field"),
    ],
)
def test_a_malformed_request_is_told_the_field(
    client: TestClient, path: str, body: str | None, status: int, place: list[str], message: str
) -> None:
    answer = client.get(path) if body is None else client.post(path, content=body)
    assert answer.status_code == status
    fault = answer.json()["detail"][0]
    assert set(fault) == {"type", "loc", "msg"}
    assert fault["loc"] == place
    assert fault["msg"].startswith(message)


def test_what_is_not_there(client: TestClient) -> None:
    answer = client.get("/similar", params={"item": "item4"})
    assert (answer.status_code, answer.json()) == (404, {"detail": "no item is 'item4' (did you mean 'item14'?)"})
    assert client.get("/nothing").status_code == 404
    assert client.delete("/recommend").status_code == 405


def test_a_body_that_is_too_large(client: TestClient) -> None:
    answer = client.post("/recommend", content=b" " * (LARGEST_BODY + 1))
    assert (answer.status_code, answer.json()) == (413, {"detail": "a body has at most 1,048,576 bytes"})


@pytest.mark.parametrize("number", [np.inf, np.nan, 1e38, -1e20])
def test_a_vector_without_finite_products_is_the_callers_fault(
    client: TestClient, number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoadedRawTower, "all_vectors", lambda *_: {"vector": np.full((1, 5), number, np.float32)})
    answer = client.post("/recommend", json={"features": {"age": 1e300}})
    assert answer.status_code == 422
    (fault,) = answer.json()["detail"]
    assert (fault["loc"], fault["msg"][:34]) == (["body", "features"], "the tower's vector is not finite, ")


def test_a_value_that_the_tower_refuses_is_the_callers_fault(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise tf.errors.InvalidArgumentError(None, None, "could not convert")

    monkeypatch.setattr(LoadedRawTower, "all_vectors", refused)
    answer = client.post("/recommend", json={"features": {"age": 1}})
    assert answer.status_code == 422
    (fault,) = answer.json()["detail"]
    assert fault["loc"] == ["body", "features"]
    assert fault["msg"] == "the tower refuses a value (could not convert); expected what its card says of each input"


def test_each_feature_that_the_tower_refuses_is_named(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, or beside others that are as they should be; a value is shown, but not all of a long one."""
    whole = LoadedRawTower.all_vectors

    def picky(tower: LoadedRawTower, rows: Any) -> Any:
        if "1e" in str(rows[0].get("liked")):
            raise tf.errors.InvalidArgumentError(None, None, "could not convert 1e")
        if len(rows[0].get("clicked", [])) > 50:
            raise tf.errors.InvalidArgumentError(None, None, "too long")
        return whole(tower, rows)

    monkeypatch.setattr(LoadedRawTower, "all_vectors", picky)
    wrong = {"liked": "topic_id2:1e", "clicked": ["item_id3"] * 60}
    says = client.get("/openapi.json").json()["components"]["schemas"]["Features"]["properties"]
    liked = (
        'the tower refuses a value (could not convert 1e); found "topic_id2:1e", expected '
        + says["liked"]["description"]
    )
    for features, places in (
        ({"age": 3, "liked": wrong["liked"], "user_id": "user_id1"}, ["liked"]),
        ({**wrong, "age": 3}, ["liked", "clicked"]),
    ):
        answer = client.post("/recommend", json={"features": features})
        assert answer.status_code == 422
        faults = answer.json()["detail"]
        assert sorted(fault["loc"] for fault in faults) == sorted(["body", "features", place] for place in places)
        told = {fault["loc"][-1]: fault["msg"] for fault in faults}
        assert told["liked"] == liked
    assert 'found ["item_id3", "item_id3", ' in told["clicked"]
    assert len(told["clicked"]) < 300


def test_a_number_too_large_for_a_vector_is_named(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = LoadedRawTower.all_vectors

    def linear(tower: LoadedRawTower, rows: Any) -> Any:
        return {name: vectors * np.float32(rows[0].get("age", 1)) for name, vectors in whole(tower, rows).items()}

    monkeypatch.setattr(LoadedRawTower, "all_vectors", linear)
    answer = client.post("/recommend", json={"features": {"user_id": "user_id4", "age": 1e30}})
    assert answer.status_code == 422
    (fault,) = answer.json()["detail"]
    assert fault["loc"] == ["body", "features", "age"]
    assert fault["msg"] == (
        "the tower's vector is not finite, or too large to be compared; found 1e+30, expected smaller numbers"
    )


@pytest.mark.parametrize("weight", ["0." + 40 * "0" + "1", 40 * "0" + "1", "1e" + 40 * "0" + "1", "1." + 40 * "0"])
def test_a_weight_of_many_digits_is_a_number(client: TestClient, weight: str) -> None:
    short = client.post("/recommend", json={"features": {"liked": [f"topic_id2:{float(weight)!r}", "topic_id3:0.5"]}})
    long = client.post("/recommend", json={"features": {"liked": [f"topic_id2:{weight}", "topic_id3:0.5"]}})
    assert (items_of(long), scores_of(long)) == (items_of(short), scores_of(short))


def test_health_metrics_and_the_documents(client: TestClient, served: RunPaths) -> None:
    health = client.get("/health").json()
    assert health.pop("loaded_at")
    assert health == {
        "status": "ok", "date": "2024-01-08", "version": "v1", "index": "exact", "items": ITEMS, "users": len(USERS),
        "model_version": open_recommender(served).model.model_version,
    }  # fmt: skip
    client.get("/similar", params={"item": "gone"})
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'dssm_requests_total{path="/similar",status="404"}' in metrics.text
    assert f"dssm_items {ITEMS}.0" in metrics.text
    assert client.get("/docs").status_code == 200
    schema = client.get("/openapi.json").json()
    parameters = {one["name"]: one for one in schema["paths"]["/recommend"]["get"]["parameters"]}
    assert parameters["seen"]["description"] == "Also items that the user has seen."
    body = schema["paths"]["/recommend"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/Recommend"}
    assert set(body["example"]["features"]) == {"user_id", "age", "clicked", "liked", "images"}
    assert client.post("/recommend", json=body["example"]).status_code == 200  # the example can be sent as it is
    features = schema["components"]["schemas"]["Features"]["properties"]
    assert set(features) == {"user_id", "age", "clicked", "liked", "images"}
    assert features["age"]["description"] == "a number; NaN for null"
    assert features["clicked"]["anyOf"][0]["type"] == ["array", "string"]


def test_the_root_names_each_route(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    named = [line.split()[:2] for line in answer.text.splitlines()[2:]]
    routes = client.get("/openapi.json").json()["paths"]
    assert named[-2:] == [["GET", "/openapi.json"], ["GET", "/docs"]]
    assert sorted(named[:-2]) == sorted([how.upper(), path] for path, methods in routes.items() for how in methods)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = ["user_id", "age", "clicked", "liked", "images", "other"]
WEIGHTS = st.lists(
    st.from_regex(r"topic_id[0-9]:[-+]?[0-9]{0,50}\.?[0-9]{0,50}(e-?[0-9]{1,40})?", fullmatch=True), max_size=4
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "user": JSON | st.sampled_from(USERS), "count": JSON | st.integers(1, 20), "seen": JSON, "objective": JSON,
        "rescore": JSON | st.integers(1, 20),
        "features": st.dictionaries(st.sampled_from(NAMES), JSON | WEIGHTS | WEIGHTS.map(",".join), max_size=5) | JSON,
    },
)  # fmt: skip
FUZZ = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refused_or_answered(answer: Any) -> None:
    assert answer.status_code in (200, 404, 413, 422), answer.text
    if answer.status_code == 422:
        assert all(fault["loc"] and fault["msg"] for fault in answer.json()["detail"])
    if answer.status_code == 200:
        assert all(np.isfinite(row["score"]) for row in answer.json()["items"])


@FUZZ
@given(body=BODIES.map(json.dumps) | st.binary(max_size=60) | st.text(max_size=60) | JSON.map(json.dumps))
def test_no_body_is_an_error_of_the_service(client: TestClient, body: str | bytes) -> None:
    content = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    refused_or_answered(client.post("/recommend", content=content))


QUERY = st.text(max_size=12).filter(str.isprintable) | st.sampled_from([*USERS, "item01", "0", "-1", "1e9"])


@FUZZ
@given(path=st.sampled_from(["/recommend", "/similar"]), values=st.dictionaries(
    st.sampled_from(["user", "item", "count", "seen", "objective", "rescore", "x"]), QUERY, max_size=4))  # fmt: skip
def test_no_query_is_an_error_of_the_service(client: TestClient, path: str, values: dict[str, str]) -> None:
    refused_or_answered(client.get(path, params=values))


@FUZZ
@given(raw=st.binary(max_size=30))
def test_no_bytes_in_an_address_are_an_error_of_the_service(client: TestClient, raw: bytes) -> None:
    refused_or_answered(client.get("/recommend?user=" + "".join(f"%{byte:02x}" for byte in raw)))


def test_an_index_of_faiss_is_the_one_that_was_switched_to(own_run: RunPaths, client: TestClient) -> None:
    asked = {"user": "user2", "count": 5}
    exact = client.get("/recommend", params=asked)
    titles = [row["title"] for row in exact.json()["items"]]
    assert titles == [f"Title {int(item[4:])} [b]" for item in items_of(exact)]
    location, pipeline = published.run_table(own_run.folder, "items"), str(Path(own_run.folder).parent)
    find = partial(find_target, location, pipeline, "faiss")
    before = find()
    assert before is not None
    assert before.made == ()
    run_settings = open_run(own_run).settings.model_copy(update={"root": str(Path(pipeline).parent)})
    report = index_items(run_settings)
    assert report is not None
    target = find()  # another one, so that a service that runs takes the index up
    assert target == Target(before.items, ((None, report.sinks[0].place),))
    assert find_target(location, pipeline, "exact") == before
    strict = run_settings.index.model_copy(update={"min_recall": {10: 1.1}})
    with pytest.raises(GateError, match="all answer as before"):
        index_items(run_settings.model_copy(update={"index": strict}))
    assert find() == target  # a refusal takes nothing from a service that runs
    for one in (before, target):
        index = _index(one, None, "faiss")
        found = index.places(unit_rows(2, 5), 4)[0]
        expected = _index(one, None, "exact").places(unit_rows(2, 5), 4)[0]
        assert found.tolist() == expected.tolist()
    with client_of(own_run, "faiss") as indexed:
        assert indexed.get("/health").json()["index"] == report.sinks[0].place
        assert items_of(indexed.get("/recommend", params=asked)) == items_of(exact)
        similar = indexed.get("/similar", params={"item": "item04", "count": 3})
        assert items_of(similar) == open_recommender(own_run).similar("item04", 3).ids
    write_published(location, "2024-01-08", "v2", "item", ["a"], unit_rows(1, 5), report.model_version)
    newer = find()
    assert newer is not None
    assert newer.made == ()  # the index is of v1


def test_vectors_of_another_model_are_not_loaded(own_run: RunPaths) -> None:
    table = published.run_table(own_run.folder, "items")
    write_published(table, "2024-01-08", "v2", "item", ["a"], unit_rows(1, 5), "another")
    with pytest.raises(UserError, match="the vectors published for 2024-01-08 are of another"):
        client_of(own_run)
