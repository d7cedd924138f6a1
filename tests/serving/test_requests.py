"""What a request may hold, and how its faults are told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dssm.report.card_parts import InputCard, SignatureCard
from dssm.serving.requests import LONGEST_LIST, LONGEST_TEXT, faults, features_model, request_model
from dssm.serving.tower import sent

INPUTS = {
    "user_id": InputCard(dtype="string", shape=(None,), says="an id"),
    "age": InputCard(dtype="float64", shape=(None,), says="a number"),
    "hour": InputCard(dtype="int64", shape=(None,), says="an hour"),
    "clicks": InputCard(dtype="string", shape=(None, None), says="ids"),
    "weights": InputCard(dtype="float64", shape=(None, None), says="weights"),
    "copy": InputCard(dtype="string", shape=(None,), says="a name that every model has"),
}
SIGNATURE = SignatureCard(inputs=INPUTS, outputs={}, example={})
REQUEST = request_model(SIGNATURE, ["click", "like"])


def told(body: str | bytes) -> list[tuple[str, str]]:
    """Returns place and message of each fault of a body."""
    with pytest.raises(ValidationError) as raised:
        REQUEST.model_validate_json(body)
    known = {(): REQUEST.model_fields, ("features",): INPUTS}
    return [(".".join(map(str, fault["loc"])), fault["msg"]) for fault in faults(raised.value, known)]


def test_a_request_with_every_input() -> None:
    features = {
        "user_id": 17, "age": 3, "hour": 23, "clicks": ["a", 5, None], "weights": [0.5, None, 2], "copy": "x",
    }  # fmt: skip
    asked: Any = REQUEST.model_validate_json(json.dumps({"features": features, "count": 3, "objective": "like"}))
    assert (asked.user, asked.count, asked.seen, asked.objective) == (None, 3, False, "like")
    assert sent(asked.features) == features | {"user_id": "17", "age": 3.0, "clicks": ["a", "5", None]}
    assert sent(features_model(SIGNATURE).model_validate({"clicks": "a,b", "age": None})) == {"clicks": "a,b"}


@pytest.mark.parametrize(
    ("body", "place", "message"),
    [
        ('{"features": {"user_idd": "a"}}', "body.features.user_idd", "no such field (did you mean 'user_id'?)"),
        ('{"user": "a", "sean": true}', "body.sean", "no such field (did you mean 'seen'?)"),
        ('{"features": {"user_id": ["a"]}}', "body.features.user_id", "expected a text, found a list"),
        ('{"features": {"user_id": true}}', "body.features.user_id", "expected a text, found true or false"),
        ('{"features": {"age": "3"}}', "body.features.age", "expected a number, found a text"),
        ('{"features": {"age": 1e999}}', "body.features.age", "expected a finite number, or null for none"),
        ('{"features": {"age": NaN}}', "body.features.age", "expected a finite number, or null for none"),
        ('{"features": {"hour": 2.5}}', "body.features.hour", "expected a whole number of 64 bits, found a number"),
        ('{"features": {"hour": 9223372036854775808}}', "body.features.hour", "expected a whole number of 64 bits"),
        ('{"features": {"clicks": [{}]}}', "body.features.clicks", "expected a text, found an object"),
        ('{"features": {"clicks": {"a": 1}}}', "body.features.clicks", "expected a list, found an object"),
        ('{"features": {"weights": "0.5"}}', "body.features.weights", "expected a list, found a text"),
        ('{"features": []}', "body.features", "Input should be an object"),
        ('{"user": "a", "count": 0}', "body.count", "Input should be greater than or equal to 1"),
        ('{"user": "a", "count": "5"}', "body.count", "Input should be a valid integer"),
        ('{"user": "a", "seen": 1}', "body.seen", "Input should be a valid boolean"),
        ('{"user": "a", "objective": "share"}', "body.objective", "Input should be 'click' or 'like'"),
        ("{}", "body", "neither user nor features"),
        ("[]", "body", "Input should be an object"),
        ('{"user": "\\ud800"}', "body", "Invalid JSON"),
        (b"\xff", "body", "Invalid JSON"),
        ("[" * 10_000, "body", "Invalid JSON"),
        ("", "body", "Invalid JSON"),
    ],
)
def test_a_fault_names_its_field(body: str | bytes, place: str, message: str) -> None:
    (found,) = told(body)
    assert found[0] == place
    assert found[1].startswith(message)


def test_what_is_too_long() -> None:
    assert told(json.dumps({"user": "a" * (LONGEST_TEXT + 1)}))[0][1].startswith("expected at most 65,536 letters")
    entries = json.dumps({"features": {"clicks": ["a"] * (LONGEST_LIST + 1)}})
    assert told(entries) == [("body.features.clicks", "expected at most 10,000 entries, found 10,001")]


def test_one_objective_is_no_choice() -> None:
    with pytest.raises(ValidationError, match="objective"):
        request_model(SIGNATURE, ["label"]).model_validate({"user": "a", "objective": "label"})


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*INPUTS, "other"]), inner, max_size=4),
    max_leaves=12,
)


@given(features=st.dictionaries(st.sampled_from([*INPUTS, "other"]), ANYTHING, max_size=6))
def test_whatever_is_sent_is_checked_or_refused(features: dict[str, Any]) -> None:
    body = json.dumps({"features": features})
    try:
        asked: Any = REQUEST.model_validate_json(body)
    except ValidationError as error:
        found = faults(error, {("features",): INPUTS})
        asked = None
    if asked is None:
        assert found
        assert all(fault["loc"][0] == "body" for fault in found)
        return
    given = sent(asked.features)
    assert set(given) == {name for name, value in features.items() if value is not None}
    kinds = {"string": str, "float64": float, "int64": int}
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            assert one is None or isinstance(one, kinds[INPUTS[name].dtype])
