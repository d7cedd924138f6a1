"""build_samples with every kind of source, feature and negatives, against plain looks at the raw rows."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dssm.manifest import (
    CLICKED,
    EVENT_TIME,
    ITEM_ID,
    ITEM_INDEX,
    ITEM_POSITIVES,
    ITEM_PROBABILITY,
    LABEL,
    NEGATIVE_PROBABILITY,
    NEGATIVES,
    SEEN,
    SOURCE,
    UPLOAD_TIME,
    USER_ID,
    WARM,
    WEIGHT,
    read_manifest,
    target_column,
)
from tests.pipeline import planned_as_in_jobs
from tests.samples.feed import build, files_of
from tests.samples.rich import RichFeed, score, start_of
from tests.samples.rich_build import TEST_START, RichBuild, check_user, place_of

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark


def key_of(row: Mapping[str, Any]) -> tuple[str, str, int, int]:
    return row[SOURCE], row[USER_ID], place_of(row), row[EVENT_TIME]


# Rows --------------------------------------------------------------------------------------------------------


def test_the_samples_are_events_of_the_windows(rich_build: RichBuild) -> None:
    clicks = {(c.source, c.user, c.item, c.time): c for c in rich_build.feed.clicks}
    assert len(clicks) == len(rich_build.feed.clicks)
    for part, begin, end in ((rich_build.train, start_of(7), TEST_START), (rich_build.test, TEST_START, start_of(11))):
        assert len({key_of(row) for row in part}) == len(part) > 100
        for row in part:
            click = clicks[key_of(row)]
            assert begin <= click.time < end
            assert not rich_build.feed.too_early(click)
            assert row[LABEL] == click.act
            is_negative = part is rich_build.train and not click.act
            assert row[WEIGHT] == (1 + click.act if click.source == "feed" else 1) * (0.5 if is_negative else 1)
    # Everything of the test window is there, but for what came before its item or is of a source without the role.
    wanted = [
        c for c in clicks.values() if c.time >= TEST_START and c.source == "feed" and not rich_build.feed.too_early(c)
    ]
    assert len(rich_build.test) == len(wanted)


def test_what_was_left_out_is_counted(rich_build: RichBuild) -> None:
    feed = rich_build.feed
    counts = rich_build.manifest.sources["sources.feed"]
    read = [c for c in feed.read if c.source == "feed"]
    days = 6  # of the windows, and the two before them that a history asks for
    assert counts.rows_read == len(read) + 2 * days
    assert counts.quarantined == {"target watch is not in 0…60": days}
    assert counts.filtered["item not in the catalogue"] == days
    early = sum(feed.too_early(c) for c in read)
    assert counts.filtered["item uploaded after the event"] == early > 10
    negatives = [c for c in read if start_of(7) <= c.time < TEST_START and not c.act and not feed.too_early(c)]
    dropped = counts.filtered["negative, left out by unclicked_share"]
    assert abs(dropped / len(negatives) - 0.2) < 4 * np.sqrt(0.2 * 0.8 / len(negatives))
    assert counts.filtered["popular item, left out by popular_threshold"] > 10
    assert max(Counter(row[USER_ID] for row in rich_build.train if row[LABEL] > 0).values()) <= 12
    likes = rich_build.manifest.sources["sources.likes"]
    assert "item uploaded after the event" not in likes.filtered  # check_upload: false
    assert rich_build.manifest.sources["catalogue"].filtered == {"an older row of its id": len(feed.posts)}
    assert rich_build.manifest.sources["catalogue"].quarantined == {"'price' is not a number": 1}


def test_targets(rich_build: RichBuild) -> None:
    clicks = {(c.source, c.user, c.item, c.time): c for c in rich_build.feed.clicks}
    names = [target_column(name) for name in ("watch", "like", "share")]
    for row in rich_build.train + rich_build.test:
        click = clicks[key_of(row)]
        unknown = float("nan")
        if click.source == "feed":
            expected = [unknown if click.watch is None else click.watch / 60, click.act * 0.5, unknown]
        else:
            expected = [unknown, unknown, click.item % 2]
        np.testing.assert_allclose([row[name] for name in names], expected, rtol=1e-6)


def test_joins_are_counted(rich_build: RichBuild) -> None:
    found = {join.name: (join.rows, join.matched) for join in rich_build.manifest.joins}
    samples = rich_build.train + rich_build.test
    of_client = sum(rich_build.feed.client(row[USER_ID], row[EVENT_TIME])[0] is not None for row in samples)
    of_day = sum(int(row[USER_ID]) % 3 == 0 for row in samples)
    logs = {name: rich_build.manifest.sources[f"sources.{name}"] for name in ("feed", "likes")}
    trained = {row[USER_ID] for row in rich_build.train}
    rows = {name: counts.rows_read - sum(counts.quarantined.values()) for name, counts in logs.items()}
    assert found == {
        "sources.feed ⋈ catalogue": (rows["feed"], rows["feed"] - 6),
        "sources.likes ⋈ catalogue": (rows["likes"], rows["likes"]),
        "catalogue ⋈ vectors.small": (30, 25),
        "catalogue ⋈ vectors.large": (30, 28),
        "catalogue ⋈ samples.negatives.hard": (30, 25),
        "users ⋈ samples.negatives.hard.users": (len(trained), len(trained & {"1", "2", "3"})),
        "samples ⋈ profiles.clients": (len(samples), of_client),
        "samples ⋈ profiles.daily": (len(samples), of_day),
    }
    assert 0 < of_client < len(samples)


# User features ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["train", "test"])
def test_user_features_are_strictly_before_the_event(rich_build: RichBuild, part: str) -> None:
    for row in getattr(rich_build, part):
        check_user(rich_build, row, row[EVENT_TIME])


def test_queries_are_as_of_the_test_windows_start(rich_build: RichBuild) -> None:
    positives: dict[str, set[int]] = {}
    for row in rich_build.test:
        if row[LABEL] > 0:
            positives.setdefault(row[USER_ID], set()).add(place_of(row))
    assert {row[USER_ID]: row[CLICKED] for row in rich_build.users} == {u: sorted(i) for u, i in positives.items()}
    for row in rich_build.users:
        check_user(rich_build, row, TEST_START)
        assert row[WARM] == any(rich_build.feed.before(row[USER_ID], TEST_START, "feed likes"))


def test_interactions(rich_build: RichBuild) -> None:
    found = {row[USER_ID]: row[SEEN] for row in rich_build.interactions}
    expected: dict[str, set[int]] = {}
    for click in rich_build.feed.read:
        if click.time < TEST_START and not rich_build.feed.too_early(click):
            expected.setdefault(click.user, set()).add(click.item)
    assert found == {user: sorted(items) for user, items in expected.items()}


def test_daily_snapshots_are_seen_from_the_next_day_on(rich_build: RichBuild) -> None:
    """Files of the 6th, 8th and 9th; each holds its day."""
    from dssm.samples.earlier import missing_days

    newest = {7: 6, 8: 6, 9: 8, 10: 9}

    def seen(user: str, time: int) -> int | None:
        day = next(day for day in newest if time < start_of(day + 1))
        return None if int(user) % 3 else score(int(user), newest[day])

    last = {row[USER_ID]: row[EVENT_TIME] for row in sorted(rich_build.train, key=lambda row: row[EVENT_TIME])}
    scores = [found for user, time in last.items() if (found := seen(user, time)) is not None]
    low, high = min(scores), max(scores)
    statistics = rich_build.manifest.statistics["score"]
    assert (statistics.minimum, statistics.maximum) == (low, high)
    values = set()
    for row in rich_build.train + rich_build.test:
        found = seen(row[USER_ID], row[EVENT_TIME])
        # minmax: null is 0, which is below all.
        expected = 0 if found is None else min(max((found - low) / (high - low), 0), 1)
        assert row["score"] == pytest.approx(expected), row
        values.add(found)
    assert len(values) > 5
    assert rich_build.manifest.sources["profiles.daily"].missing_days == ["2024-01-07", "2024-01-10"]
    assert missing_days(rich_build.feed.settings()) == [("profiles.daily", dt.date(2024, 1, 7))]


# Item features ------------------------------------------------------------------------------------------------

CHANGING = ("rate_so_far", "clicks_so_far", "days_up")


def test_item_features_are_those_of_the_catalogue(rich_build: RichBuild) -> None:
    topics, posts = rich_build.tokens("topic"), rich_build.tokens("post_id")
    prices = rich_build.manifest.statistics["price"]
    for place, (row, post) in enumerate(zip(rich_build.items, rich_build.feed.posts, strict=True)):
        assert (row[ITEM_ID], row[ITEM_INDEX]) == (post["id"], place)
        assert row[UPLOAD_TIME] == (-(2**62) if post["uploaded"] is None else post["uploaded"])
        assert (row["post_id"], row["topic"]) == (posts.get(post["id"], 1), topics.get(post["topic"], 1))
        price = post["price"]
        expected = 0 if price is None else (price - prices.mean) / prices.deviation
        assert row["price"] == pytest.approx(expected, abs=1e-5)
        assert row["price_range"] == (1 if price is None else 2 + (price >= 2) + (price >= 5))
    same = [name for name, feature in rich_build.feed.settings().features.items() if feature.side == "item"]
    same = [name for name in same if name not in CHANGING]
    for row in rich_build.train + rich_build.test:
        item = rich_build.items[place_of(row)]
        assert {name: row[name] for name in same} == {name: item[name] for name in same}


def changing(feed: RichFeed, item: int, time: int) -> tuple[float, ...]:
    return (*feed.item_counters(item, time), feed.days_up(item, time))


def test_item_counters_and_ages_are_as_of_the_event(rich_build: RichBuild) -> None:
    feed = rich_build.feed
    for row in rich_build.train + rich_build.test:
        expected = changing(feed, place_of(row), row[EVENT_TIME])
        assert [row[name] for name in CHANGING] == pytest.approx(expected, rel=1e-5)
    for place, row in enumerate(rich_build.items):  # as of the date's start
        assert [row[name] for name in CHANGING] == pytest.approx(changing(feed, place, TEST_START), rel=1e-5)


def test_popularity_is_the_windows_positives_and_the_probability_that_of_the_rows_left(rich_build: RichBuild) -> None:
    feed, places = rich_build.feed, range(len(rich_build.items))
    window = [c for c in feed.read if start_of(7) <= c.time < TEST_START and c.act and not feed.too_early(c)]
    positives = Counter(c.item for c in window)
    assert [row[ITEM_POSITIVES] for row in rich_build.items] == [positives[place] for place in places]
    left = Counter(place_of(row) for row in rich_build.train if row[LABEL] > 0)
    assert left.total() < positives.total()
    expected = [left[place] / left.total() for place in places]
    assert [row[ITEM_PROBABILITY] for row in rich_build.items] == pytest.approx(expected)
    for row in rich_build.train:
        assert row[ITEM_PROBABILITY] == rich_build.items[place_of(row)][ITEM_PROBABILITY]


# Negatives ----------------------------------------------------------------------------------------------------

COLUMNS = ["any"] * 2 + ["popular", "damped", "near"] + ["shown"] * 2 + ["hard"] * 2


def test_negatives(rich_build: RichBuild) -> None:
    feed = rich_build.feed
    window = [c for c in feed.read if start_of(7) <= c.time < TEST_START and c.act and not feed.too_early(c)]
    clicked: dict[str, set[int]] = {}
    for click in window:
        clicked.setdefault(click.user, set()).add(click.item)
    found: Counter[str] = Counter()
    spec = read_manifest(str(feed.samples / "train"), "").columns[NEGATIVES]
    assert (spec.dtype, spec.shape) == ("int32", (9,))
    for row in rich_build.train:
        if row[LABEL] <= 0:
            assert row[NEGATIVES] == [-1] * 9
            continue
        user, time = row[USER_ID], row[EVENT_TIME]
        for column, (name, item) in enumerate(zip(COLUMNS, row[NEGATIVES], strict=True)):
            chance = row[NEGATIVE_PROBABILITY][column]
            values = [row[f"{feature}__negatives"][column] for feature in CHANGING]
            if item < 0:
                assert chance == 0
                assert values == pytest.approx([0.3, 0, -9])
                continue
            found[name] += 1
            assert 0 < chance <= 1
            assert item not in clicked[user]
            uploaded = feed.posts[item]["uploaded"]
            assert uploaded is None or uploaded <= time
            assert values == pytest.approx(changing(feed, item, time), rel=1e-5)
            if name == "any":
                there = [p for p in feed.posts if p["uploaded"] is None or p["uploaded"] <= time]
                assert chance == pytest.approx(1 / len(there))
            elif name in ("popular", "damped"):
                assert rich_build.items[item][ITEM_POSITIVES] > 0
            elif name == "near":
                assert feed.posts[item]["city"] == feed.posts[place_of(row)]["city"] != ""
            elif name == "shown":
                shown = [
                    c for c in feed.read if c.user == user and not c.act and c.time <= time and not feed.too_early(c)
                ]
                assert item in {c.item for c in shown}
            else:
                assert rich_build.items[item]["post_large"] > 0  # it has a published vector
    positives = sum(row[LABEL] > 0 for row in rich_build.train)
    assert found["any"] == 2 * positives > 200
    assert all(found[name] > 20 for name in set(COLUMNS))
    assert NEGATIVES not in rich_build.test[0]


# Frozen on the training window --------------------------------------------------------------------------------


def newest_seen(rich_build: RichBuild) -> dict[str, tuple[str | None, int | None]]:
    """Returns the city and age of each user's newest snapshot that a training event sees."""
    last = {row[USER_ID]: row[EVENT_TIME] for row in sorted(rich_build.train, key=lambda row: row[EVENT_TIME])}
    return {user: rich_build.feed.client(user, time) for user, time in last.items()}


def test_vocabularies_count_training_events(rich_build: RichBuild) -> None:
    clients = newest_seen(rich_build)
    tokens = {
        "client_id": [row[USER_ID] for row in rich_build.train],
        "post_id": [row[ITEM_ID] for row in rich_build.train],
        "topic": [rich_build.feed.posts[place_of(row)]["topic"] for row in rich_build.train],
        "city": [clients[row[USER_ID]][0] for row in rich_build.train],
    }
    for name, values in tokens.items():
        counts = Counter(value for value in values if value is not None)
        if name == "client_id":
            counts = Counter({token: count for token, count in counts.items() if count >= 3})
        if name == "topic":
            counts = Counter(dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:3]))
        assert rich_build.counts(name) == counts
        assert list(rich_build.tokens(name)) == sorted(counts, key=lambda token: (-counts[token], token))


def test_statistics_are_those_of_training_events(rich_build: RichBuild) -> None:
    clients = newest_seen(rich_build)
    prices = [p for row in rich_build.train if (p := rich_build.feed.posts[place_of(row)]["price"]) is not None]
    ages = [a for row in rich_build.train if (a := clients[row[USER_ID]][1]) is not None]
    for name, values in (("price", prices), ("price_group", prices), ("age", ages), ("age_group", ages)):
        found = rich_build.manifest.statistics[name]
        assert (found.events, found.minimum, found.maximum) == (len(values), min(values), max(values))
        assert (found.mean, found.deviation) == pytest.approx((np.mean(values), np.std(values)))
    thirds, quarters = (np.linspace(0, 100, parts + 1)[1:-1] for parts in (3, 4))
    statistics = rich_build.manifest.statistics
    assert statistics["price_group"].boundaries == pytest.approx(
        np.unique(np.percentile(prices, thirds, method="inverted_cdf"))
    )
    assert statistics["age_group"].boundaries == pytest.approx(
        np.unique(np.percentile(ages, quarters, method="inverted_cdf"))
    )


def test_the_manifest_says_what_the_ids_are(rich_build: RichBuild) -> None:
    found = {name: (spec.rule, spec.size) for name, spec in rich_build.manifest.vocabularies.items()}
    statistics = rich_build.manifest.statistics
    assert found == {
        "client_id": ("tokens", 2 + len(rich_build.tokens("client_id"))),
        "city": ("tokens", 2 + 3),
        "age_group": ("buckets", 3 + len(statistics["age_group"].boundaries)),
        "tags": ("hash", 2 + 20),
        "hour": ("time", 2 + 24),
        "weekday": ("time", 2 + 7),
        "post_id": ("tokens", 2 + len(rich_build.tokens("post_id"))),
        "topic": ("tokens", 2 + 3),
        "title": ("hash", 2 + 50),
        "price_range": ("buckets", 2 + 3),
        "price_group": ("buckets", 3 + len(statistics["price_group"].boundaries)),
    }


# Another way to build ----------------------------------------------------------------------------------------


def without_settings(folder: Path) -> dict[str, bytes]:
    return {path: data for path, data in files_of(folder).items() if path != "settings.json"}


def test_however_the_work_is_parted_the_files_are_the_same(
    rich_build: RichBuild, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over what stood there; with plans as jobs have them, more cores and tasks, and joins by shuffles."""
    from dssm.samples import build as module

    before = without_settings(rich_build.feed.samples)
    again = dataclasses.replace(rich_build.feed)
    samples = again.config["samples"]
    again.config = {
        **again.config, "samples": {**samples, "shuffle_partitions": 3, "rows_per_task": 300, "broadcast_mb": 0},
    }  # fmt: skip
    monkeypatch.setattr(module, "parallelism", lambda spark: 3)
    with planned_as_in_jobs(spark):
        build(spark, again)
    after = without_settings(rich_build.feed.samples)
    assert after.keys() == before.keys()
    assert [path for path in before if after[path] != before[path]] == []
    assert [path.name for path in rich_build.feed.samples.parent.iterdir()] == ["samples"]
