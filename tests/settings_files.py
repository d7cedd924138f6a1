"""Small settings, changed and read for the tests of what they may hold."""

from __future__ import annotations

import copy
import datetime as dt
from pathlib import Path
from typing import Any

import pytest
import yaml

from dssm.config import Settings, load_settings
from dssm.errors import UserError
from dssm.sections import Catalogue

MINIMAL: dict[str, Any] = {
    "name": "tiny",
    "date": dt.date(2024, 1, 15),
    "data": "in",
    "sources": {"feed": {"path": "{data}/{date}.csv", "user": "client_id", "item": "post_id", "time": "t"}},
    "profiles": {"clients": {"path": "{data}/clients.csv", "key": "client_id"}},
    "catalogue": {"path": "{data}/posts.csv", "key": "post_id"},
    "vectors": {"post": {"path": "{data}/vectors.jsonl", "width": 4}},
    "histories": {"clicks": {"sources": ["feed"]}},
    "features": {
        "client_id": {"kind": "SparseFeat", "side": "user"},
        "topic_id": {"kind": "SparseFeat", "side": "item"},
        "all_topic_fav_7": {
            "kind": "VarLenSparseFeat",
            "side": "user",
            "weighted": True,
            "share_embedding": "topic_id",
        },
        "clicked": {"kind": "VarLenSparseFeat", "side": "user", "column": "clicks"},
        "post_embed": {"kind": "DenseFeat", "side": "item", "column": "post_id", "pre_embed": "post"},
    },
}
ABSENT = object()
FEATURE = {"kind": "SparseFeat", "side": "user"}
NUMBER = {"kind": "DenseFeat", "side": "user"}
TEXT = {"kind": "TextFeat", "side": "item"}
FAVOURITES = {"kind": "VarLenSparseFeat", "side": "user", "column": "clicks", "of": "topic_id", "weighted": True}
COUNTER = {"side": "user", "sources": ["feed"], "days": 7}
UPLOADED = Catalogue(path="x", key="post_id", upload_time="uploaded").model_dump(mode="json")
BCE = {"train__loss": "weighted_bce"}
NO_TOKENS = "features.topic_id: {}: {} says what the ids are, and no tokens are counted; remove one of the two"


def changed(**changes: Any) -> dict[str, Any]:
    """The minimal settings with some keys changed: section__key=value."""
    values = copy.deepcopy(MINIMAL)
    for key, value in changes.items():
        *parents, last = key.split("__")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
        if value is ABSENT:
            del section[last]
        else:
            section[last] = value
    return values


def load(folder: Path, values: Any, *overrides: str) -> Settings:
    path = folder / "pipeline.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return load_settings(str(path), overrides)


def faults(folder: Path, values: Any, *overrides: str) -> list[str]:
    """Loads faulty settings; returns the lines of the message without the file's name."""
    with pytest.raises(UserError) as caught:
        load(folder, values, *overrides)
    prefix = f"{folder / 'pipeline.yaml'}: "
    lines = str(caught.value).split("\n")
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]
