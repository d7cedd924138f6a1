"""Where columns come from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import types as T

from dssm.errors import UserError
from dssm.samples.raw_columns import (
    check_item_columns,
    list_kinds,
    provided_features,
    raw_item_features,
    universe_features,
    user_columns,
)
from tests.samples.feed import TinyFeed


def profile(key: str, *columns: str) -> Any:
    return SimpleNamespace(columns=["row__id", "row__valid_from", key, *columns])


PROFILES = {
    "clients": profile("id", "client_type", "age", "follow", "fav"),
    "reads": profile("client_id", "read_post_id"),
}


def test_each_column_has_one_provider(tiny_feed: TinyFeed) -> None:
    tiny_feed.config["counters"] = {"views": {"side": "user", "sources": ["feed"], "days": 1}}
    tiny_feed.config["features"]["view_count"] = {"kind": "DenseFeat", "side": "user", "column": "views"}
    tiny_feed.config["features"]["hour"] = {"kind": "SparseFeat", "side": "user", "time": "hour"}
    settings = tiny_feed.settings()
    providers = user_columns(settings, PROFILES)
    assert providers == {
        "client_id": "user",
        "client_type": "profiles.clients",
        "age": "profiles.clients",
        "follow": "profiles.clients",
        "fav": "profiles.clients",
        "clicks": "history",
        "touched": "history",
        "views": "counter",
        "read_post_id": "profiles.reads",
    }

    def names(provider: str) -> list[str]:
        return [feature.name for feature in provided_features(settings, providers, provider)]

    assert names("user") == ["client_id"]
    assert names("profiles.clients") == ["client_type", "age", "follow", "fav"]
    assert names("profiles.reads") == []
    assert names("history") == ["click_history", "touch_history", "click_embed"]
    assert names("counter") == ["view_count"]


def test_columns_of_lists_are_texts_or_arrays(tiny_feed: TinyFeed) -> None:
    tiny_feed.config["features"] |= {
        "genres": {"kind": "VarLenSparseFeat", "side": "item", "hash_buckets": 9},
        "parts": {"kind": "DenseFeat", "side": "item", "pre_embed": "post", "reduce_type": "mean"},
        "title": {"kind": "TextFeat", "side": "item"},
    }
    settings = tiny_feed.settings()
    clients = SimpleNamespace(schema=T.StructType().add("follow", T.ArrayType(T.LongType())).add("fav", "string"))
    catalogue: Any = SimpleNamespace(schema=T.StructType().add("genres", T.ArrayType(T.StringType())))
    catalogue.schema.add("parts", "long").add("title", "string")
    profiles: Any = {"clients": clients, "reads": SimpleNamespace(schema=T.StructType())}
    assert list_kinds(settings, catalogue, profiles, user_columns(settings, PROFILES)) == {
        "follow": "array", "fav": "text", "genres": "array", "parts": "text",
    }  # fmt: skip


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
def test_columns_without_one_provider(tiny_feed: TinyFeed, profiles: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        user_columns(tiny_feed.settings(), profiles)
    assert str(caught.value) == message


def catalogue_of(*columns: str) -> Any:
    """A catalogue as far as its columns are asked for."""
    frame: Any = SimpleNamespace(columns=["row__id", "row__upload_time", *columns])
    frame.select = lambda *_: SimpleNamespace(columns=list(columns))
    return frame


def test_a_column_that_the_catalogue_lacks(tiny_feed: TinyFeed) -> None:
    with pytest.raises(UserError) as caught:
        check_item_columns(tiny_feed.settings(), catalogue_of("post_id", "topicid", "length"))
    assert str(caught.value) == (
        "features.topic_id.column: the catalogue has no column 'topic_id' (did you mean 'topicid'?)"
    )


def test_features_that_change_with_the_time_need_no_column(tiny_feed: TinyFeed) -> None:
    tiny_feed.config["catalogue"]["upload_time"] = "uploaded"
    tiny_feed.config["counters"] = {"seen": {"side": "item", "sources": ["feed"], "days": 1}}
    tiny_feed.config["features"] |= {
        "seen_count": {"kind": "DenseFeat", "side": "item", "column": "seen"},
        "age_of_post": {"kind": "DenseFeat", "side": "item", "time": "days_since_upload"},
    }
    settings = tiny_feed.settings()
    assert [f.name for f in raw_item_features(settings)] == ["post_id", "topic_id", "length", "post_embed"]
    check_item_columns(settings, catalogue_of("post_id", "topic_id", "length", "uploaded"))


def test_only_features_of_items_may_meet_items_out_of_the_catalogue(tiny_feed: TinyFeed) -> None:
    tiny_feed.config["features"]["click_topics"] = {
        "kind": "VarLenSparseFeat", "side": "user", "column": "clicks", "of": "topic_id", "share_embedding": "topic_id",
    }  # fmt: skip
    assert [f.name for f in universe_features(tiny_feed.settings())] == ["click_history", "click_embed"]
