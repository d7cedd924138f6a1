"""Events of a few users, with all that a sample may know of its user: histories, counters and profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dssm.features import FIRST_TOKEN_ID
from tests.samples.task import Event, Snapshot, TaskFeed

POSTS = ["p0", "p1", "p2", "p3", "p4"]
TOPICS = ["a", "b", "a", "c", None]
MORE: dict[str, Any] = {
    "profiles": {
        "clients": {"path": "clients", "key": "id", "as_of": "taken"},
        "reads": {"path": "reads", "key": "id"},
    },
    "histories": {
        "clicks": {"sources": ["feed"], "last": 3},
        "recent": {"sources": ["feed", "likes"], "last": 4, "days": 1, "positives": False},
        "longer": {"sources": ["feed"], "last": 4, "then": "read"},
    },
    "counters": {
        "views": {"side": "user", "sources": ["feed"], "days": 1, "count": "events"},
        "clicked": {"side": "user", "sources": ["feed", "likes"], "days": 2, "count": "positives"},
        "rate": {"side": "user", "sources": ["feed"], "days": 3, "count": "rate", "prior": 0.25, "strength": 4},
    },
    "features": {
        "client_id": {"kind": "SparseFeat", "side": "user"},
        "city": {"kind": "SparseFeat", "side": "user"},
        "age": {"kind": "DenseFeat", "side": "user", "null": -1},
        "hour": {"kind": "SparseFeat", "side": "user", "time": "hour"},
        "click_history": {
            "kind": "VarLenSparseFeat", "side": "user", "column": "clicks", "maxlen": 3, "share_embedding": "post_id",
        },
        "recent_history": {
            "kind": "VarLenSparseFeat", "side": "user", "column": "recent", "maxlen": 4, "share_embedding": "post_id",
        },
        "long_history": {
            "kind": "VarLenSparseFeat", "side": "user", "column": "longer", "maxlen": 4, "share_embedding": "post_id",
        },
        "fav_topic": {
            "kind": "VarLenSparseFeat", "side": "user", "column": "clicks", "maxlen": 2, "weighted": True,
            "of": "topic_id", "share_embedding": "topic_id",
        },
        "view_count": {"kind": "DenseFeat", "side": "user", "column": "views"},
        "click_count": {"kind": "DenseFeat", "side": "user", "column": "clicked", "transform": "log1p"},
        "click_rate": {"kind": "DenseFeat", "side": "user", "column": "rate"},
        "post_id": {"kind": "SparseFeat", "side": "item"},
        "topic_id": {"kind": "SparseFeat", "side": "item"},
    },
}  # fmt: skip
POST = {post: place + FIRST_TOKEN_ID for place, post in enumerate(POSTS)}
CITY = {"x": 2, "y": 3}
TOPIC = {"a": 2, "b": 3, "c": 4}


def make_feed(folder: Path, events: list[Event], snapshots: list[Snapshot] = (), **more: Any) -> TaskFeed:
    return TaskFeed(
        folder,
        items=[{"id": post, "post_id": post, "topic_id": topic} for post, topic in zip(POSTS, TOPICS, strict=True)],
        tokens={"client_id": ["u", "v"], "city": list(CITY), "post_id": POSTS, "topic_id": list(TOPIC)},
        providers={
            "client_id": "user", "city": "profiles.clients", "age": "profiles.clients", "read": "profiles.reads",
            **dict.fromkeys(("clicks", "recent", "longer"), "history"),
            **dict.fromkeys(("views", "clicked", "rate"), "counter"),
        },
        events=events,
        snapshots=list(snapshots),
        more={**MORE, **more},
    )  # fmt: skip


def posts(*items: int, width: int = 3) -> list[int]:
    return [item + FIRST_TOKEN_ID for item in items] + [0] * (width - len(items))
