"""Raw rows of a generated feed through the raw towers, against the samples that build_samples made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow as tf

from dssm.features import Side, of_side
from dssm.manifest import EVENT_TIME, ITEM_ID, USER_ID, encoded_columns
from dssm.model.export import LoadedRawTower, LoadedTower, raw_tensors, save_tower
from dssm.model.raw.encoder import RawEncoder
from dssm.model.raw.save import lookup_tables, save_raw_tower
from dssm.model.towers import build_towers, frozen_tables
from dssm.paths import vectors_path
from dssm.samples.lookups import load_vectors
from tests.samples.feed import build, read_part
from tests.samples.rich import DAY, RichFeed, score, start_of, write_rich_feed

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark

SNAPSHOTS = {7: 6, 8: 6, 9: 8, 10: 9}  # the day of the newest daily profile that a day's events see
SIDES: tuple[Side, ...] = ("user", "item")


class Built:
    def __init__(self, feed: RichFeed, spark: SparkSession) -> None:
        self.feed, self.manifest = feed, build(spark, feed)
        self.settings, self.samples = feed.settings(), str(feed.samples)
        self.rows = read_part(feed, "test")
        self.raw: dict[Side, list[dict[str, Any]]] = {
            "user": [raw_user(feed, row) for row in self.rows],
            "item": [raw_item(feed, row) for row in self.rows],
        }

    def encoder(self, side: Side, folder: Path) -> Callable[[list[dict[str, Any]]], dict[str, tf.Tensor]]:
        """Returns what encodes raw rows of a side."""
        settings = self.settings
        features = of_side(settings.features, side)
        tables = lookup_tables(settings, features, self.manifest, self.samples)
        encoder = RawEncoder(features, settings.histories, settings.vectors, tables, str(folder))
        specs = {name: given.spec for name, given in encoder.inputs.items()}
        return lambda rows: encoder(raw_tensors(specs, rows))

    def columns(self, side: Side, rows: list[dict[str, Any]] | None = None) -> dict[str, np.ndarray]:
        """Returns the encoded columns of rows as they are stored, by default of the test's."""
        specs = {
            name: spec
            for feature in of_side(self.settings.features, side)
            for name, spec in encoded_columns(feature, self.settings.vectors).items()
        }
        return {
            name: np.array([row[name] for row in rows or self.rows], spec.numpy_dtype) for name, spec in specs.items()
        }


def ids(feed: RichFeed, items: list[int]) -> list[str]:
    return [feed.posts[item]["id"] for item in items]


def counts(topics: Counter[str | None]) -> str:
    return ",".join(f"{topic}:{count}" for topic, count in topics.items() if topic is not None)


def raw_user(feed: RichFeed, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a service would send of a test row's user at the event's time."""
    user, time = row[USER_ID], row[EVENT_TIME]
    known = feed.user_features(user, time)
    seen = SNAPSHOTS[next(day for day in SNAPSHOTS if time < start_of(day + 1))]
    daily = int(user) % 3 == 0
    return {
        "client_id": user, "city": known["city"], "age": known["age"], "age_group": known["age"],
        "score": score(int(user), seen) if daily else None,
        "tags": f"t{int(user) % 5}:1,t{seen}:0.5" if daily else None,
        "hour": known["hour"], "weekday": known["weekday"],
        "click_history": ids(feed, known["clicks"]), "recent_history": ids(feed, known["recent"]),
        "fav_topic": counts(known["topics"]), "topics_today": counts(known["topics_today"]),
        "click_small": ids(feed, known["clicks"]), "recent_large": ids(feed, known["recent"]),
        "view_count": known["views"], "click_rate": known["rate"],
    }  # fmt: skip


def raw_item(feed: RichFeed, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a service would send of a test row's item at the event's time."""
    place, time = int(row[ITEM_ID][1:]), row[EVENT_TIME]
    post = feed.posts[place]
    rate, clicks = feed.item_counters(place, time)
    uploaded = post["uploaded"]
    return {
        "post_id": post["id"], "topic": post["topic"], "title": f"Post №{place} of {post['topic']}",
        **dict.fromkeys(("price", "price_range", "price_group"), post["price"]),
        "post_small": post["id"], "post_large": post["id"], "rate_so_far": rate, "clicks_so_far": clicks,
        "days_up": None if uploaded is None else max(time - uploaded, 0) / DAY,
    }  # fmt: skip


def assert_same(found: tf.Tensor, expected: np.ndarray, name: str) -> None:
    if expected.dtype.kind == "i":
        np.testing.assert_array_equal(found, expected, err_msg=name)
    else:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def built(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(write_rich_feed(tmp_path_factory.mktemp("rich")), spark)


def test_the_test_rows_hold_what_is_unknown_missing_and_empty(built: Built) -> None:
    users, items = built.columns("user"), built.columns("item")
    assert len(built.rows) > 100
    for name, columns in (
        ("client_id", users),
        ("city", users),
        ("age_group", users),
        ("post_id", items),
        ("topic", items),
    ):
        assert 0 < (columns[name] == 1).mean() < 1, name
    for name in ("click_history", "fav_topic", "tags", "recent_large", "click_small"):
        empty = (users[name] == 0).all(axis=1)
        assert 0 < empty.mean() < 1, name
    assert (users["click_history"] == 1).any()
    assert (items["post_large"] == 0).any()


@pytest.mark.parametrize("side", SIDES)
def test_every_test_row_is_encoded_as_in_the_samples(built: Built, side: Side, tmp_path: Path) -> None:
    found, expected = built.encoder(side, tmp_path)(built.raw[side]), built.columns(side)
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert_same(found[name], values, name)


@pytest.mark.parametrize("similarity", ["cosine", "inner_product"])
def test_the_vectors_of_raw_and_encoded_rows_agree(built: Built, similarity: str, tmp_path: Path) -> None:
    settings = built.settings
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"similarity": similarity})})
    files = {name: vectors_path(built.samples, name) for name in settings.vectors}
    matrices = {name: load_vectors(files[name]).matrix for name in frozen_tables(settings.features, settings.vectors)}
    sizes = {name: spec.size for name, spec in built.manifest.vocabularies.items()}
    tf.keras.utils.set_random_seed(2)
    towers = build_towers(settings.model, settings.features, sizes, settings.vectors, matrices)
    for side in SIDES:
        tower = getattr(towers, side)
        save_tower(tower, f"{tmp_path}/{side}_tower")
        save_raw_tower(tower, side, settings, built.manifest, built.samples, f"{tmp_path}/{side}_tower_raw")
        expected = LoadedTower(f"{tmp_path}/{side}_tower").vectors(built.columns(side))
        found = LoadedRawTower(f"{tmp_path}/{side}_tower_raw").vectors(built.raw[side])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        assert np.ptp(expected, axis=0).min() > 0


def test_every_item_is_encoded_as_in_the_catalogue(built: Built, tmp_path: Path) -> None:
    """As of the date's start."""
    rows = read_part(built.feed, "items")
    raw = [raw_item(built.feed, {**row, EVENT_TIME: start_of(10)}) for row in rows]
    found = built.encoder("item", tmp_path)(raw)
    for name, values in built.columns("item", rows).items():
        assert_same(found[name], values, name)
    assert len({tuple(ids) for ids in found["title"].numpy().tolist()}) > len(rows) / 2
