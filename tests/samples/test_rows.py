"""Where the columns of the user features come from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dssm.errors import UserError
from dssm.samples.rows import Profile, check_item_columns, user_columns
from tests.samples.feed import TinyFeed


def profile(key: str, *columns: str) -> Profile:
    frame: Any = SimpleNamespace(columns=["row__id", key, *columns])
    return Profile(frame, key, 0)


PROFILES = {
    "clients": profile("id", "client_type", "age", "follow", "fav"),
    "reads": profile("client_id", "read_post_id"),
}


def test_each_column_has_one_provider(tiny_feed: TinyFeed) -> None:
    assert user_columns(tiny_feed.settings(), PROFILES) == {
        "client_id": "user",
        "client_type": "clients",
        "age": "clients",
        "follow": "clients",
        "fav": "clients",
        "clicks": "history",
        "touched": "history",
        "read_post_id": "reads",
    }


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        (
            {**PROFILES, "more": profile("client_id", "age")},
            "features.age.column: column 'age' stands in profiles.clients and profiles.more; rename it in one of them",
        ),
        (
            {**PROFILES, "more": profile("client_id", "clicks")},
            "features.click_history.column: column 'clicks' stands in profiles.more and history; "
            "rename it in one of them",
        ),
        (
            {**PROFILES, "clients": profile("id", "client_typ", "age", "follow", "fav")},
            "features.client_type.column: no profile or history has a column 'client_type' "
            "(did you mean 'client_typ'?)",
        ),
        (
            {"clients": PROFILES["clients"]},
            "histories.clicks.then: no profile or history has a column 'read_post_id' "
            "(known: age, clicks, client_id, client_type, fav, follow, id, touched, who)",
        ),
    ],
    ids=["two profiles", "a profile and a history", "a typo", "the list after a history"],
)
def test_columns_without_one_provider(tiny_feed: TinyFeed, profiles: dict[str, Profile], message: str) -> None:
    with pytest.raises(UserError) as caught:
        user_columns(tiny_feed.settings(), profiles)
    assert str(caught.value) == message


def test_a_column_that_the_catalogue_lacks(tiny_feed: TinyFeed) -> None:
    catalogue: Any = SimpleNamespace(columns=["row__id", "post_id", "topicid", "length"])
    features = [f for f in tiny_feed.settings().features.values() if f.side == "item"]
    with pytest.raises(UserError) as caught:
        check_item_columns(catalogue, features)
    assert str(caught.value) == (
        "features.topic_id.column: the catalogue has no column 'topic_id' (did you mean 'topicid'?)"
    )


@pytest.mark.spark
def test_an_items_probability_is_its_share_of_the_rows_that_are_candidates(spark: Any, tiny_feed: TinyFeed) -> None:
    from dssm.manifest import ITEM_ID, ITEM_INDEX, ITEM_PROBABILITY, LABEL, WEIGHT
    from dssm.samples.lookups import Lookups
    from dssm.samples.rows import encoded_items, with_item_index

    rows = [("b", 1.0, 1.0)] * 3 + [("a", 2.0, 0.5), ("a", 0.0, 1.0), ("c", 1.0, 0.0), ("c", 0.0, 1.0)]
    trained = spark.createDataFrame(rows, f"{ITEM_ID} string, {LABEL} float, {WEIGHT} float")
    catalogue = with_item_index(spark.createDataFrame([("c",), ("b",), ("a",)], "row__id string"))
    items = encoded_items(catalogue, trained, [], Lookups({}, {}), tiny_feed.settings()).collect()
    found = {(row[ITEM_ID], row[ITEM_INDEX], row[ITEM_PROBABILITY]) for row in items}
    assert found == {("a", 0, 0.25), ("b", 1, 0.75), ("c", 2, 0.0)}
