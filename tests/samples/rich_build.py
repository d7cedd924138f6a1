"""The build of the rich feed, read once, and what a row of it should hold of its user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dssm.manifest import ITEM_ID, ITEM_INDEX, USER_ID, Manifest
from tests.samples.feed import read_part
from tests.samples.rich import RichFeed, start_of

TEST_START = start_of(10)


class RichBuild:
    """One build's datasets, read once."""

    def __init__(self, feed: RichFeed, manifest: Manifest) -> None:
        self.feed, self.manifest = feed, manifest
        self.train, self.test, self.users, self.interactions = (
            read_part(feed, part) for part in ("train", "test", "users", "interactions")
        )
        self.items = sorted(read_part(feed, "items"), key=lambda row: row[ITEM_INDEX])

    def tokens(self, name: str) -> dict[str, int]:
        """Returns the ids of a vocabulary's tokens."""
        rows = pq.read_table(self.feed.samples / "vocabularies" / f"{name}.parquet").to_pylist()
        return {row["token"]: row["id"] for row in rows}

    def counts(self, name: str) -> dict[str, int]:
        rows = pq.read_table(self.feed.samples / "vocabularies" / f"{name}.parquet").to_pylist()
        return {row["token"]: row["events"] for row in rows}


def place_of(row: Mapping[str, Any]) -> int:
    return int(row[ITEM_ID][1:])


def check_user(built: RichBuild, row: Mapping[str, Any], time: int) -> None:
    """Checks the user features of a row against what is known strictly before a time."""
    feed, expected = built.feed, built.feed.user_features(row[USER_ID], time)
    posts, topics, cities, users = (built.tokens(name) for name in ("post_id", "topic", "city", "client_id"))
    ages = built.manifest.statistics["age"]

    def ids(items: list[int], width: int) -> list[int]:
        found = [posts.get(feed.posts[item]["id"], 1) for item in items]
        return found + [0] * (width - len(found))

    assert row["client_id"] == users.get(row[USER_ID], 1)
    assert row["city"] == cities.get(expected["city"], 1)
    age = expected["age"]
    assert row["age"] == pytest.approx(0 if age is None else (age - ages.mean) / ages.deviation, abs=1e-5)
    boundaries = built.manifest.statistics["age_group"].boundaries
    assert row["age_group"] == (1 if age is None else 2 + sum(boundary <= age for boundary in boundaries))
    assert (row["hour"], row["weekday"]) == (2 + expected["hour"], 2 + expected["weekday"])
    assert row["click_history"] == ids(expected["clicks"], 4)
    assert row["recent_history"] == ids(expected["recent"], 6)
    for name, of, width in (("fav_topic", "topics", 3), ("topics_today", "topics_today", 2)):
        known = {topics[topic]: count for topic, count in expected[of].items() if topic in topics}
        favourites = sorted(known, key=lambda topic: (-known[topic], topic))[:width]
        shares = [known[topic] / sum(known.values()) for topic in favourites]
        assert row[name] == favourites + [0] * (width - len(favourites))
        assert row[f"{name}__weight"] == pytest.approx(shares + [0] * (width - len(shares)))
    assert row["view_count"] == expected["views"]
    assert row["click_rate"] == pytest.approx(expected["rate"])
    small = [vector for item in expected["clicks"] if (vector := built.items[item]["post_small"]) != [0, 0]]
    np.testing.assert_allclose(row["click_small"], np.mean(small, axis=0) if small else [0, 0], atol=1e-6)
    large = [number for item in expected["recent"] if (number := built.items[item]["post_large"]) > 0][:3]
    assert row["recent_large"] == large + [0] * (3 - len(large))
