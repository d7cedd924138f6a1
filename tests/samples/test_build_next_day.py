"""The build of the day after the rich feed's: with its vocabularies, which grow, and leave-last-out."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

import pytest

from dssm.errors import UserError
from dssm.manifest import CLICKED, EVENT_TIME, LABEL, SEEN, USER_ID
from tests.samples.feed import build
from tests.samples.rich import USERS, Click, start_of
from tests.samples.rich_build import RichBuild, check_user, place_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def next_day(rich_build: RichBuild, spark: SparkSession) -> RichBuild:
    """The next day's leave-last-out build, with the vocabularies of the first one, which grow."""
    feed = dataclasses.replace(rich_build.feed)
    samples = {name: feed.config["samples"][name] for name in ("rows_per_file", "max_quarantine_share")}
    samples |= {
        "shuffle_partitions": 2,
        "split": {"kind": "leave_last_out", "rows": 2, "drop_cold": ["users", "items"]},
        "vocabularies": {"run": f"rich/{feed.config['date']}", "grow": True},
    }
    feed.config = {
        **feed.config, "name": "later", "date": feed.config["date"].replace(day=11), "samples": samples,
        "train": {},
    }  # fmt: skip
    return RichBuild(feed, build(spark, feed))


def test_known_tokens_keep_their_ids(rich_build: RichBuild, next_day: RichBuild) -> None:
    grown = {}
    for name in ("client_id", "post_id", "city", "topic"):
        old, new = rich_build.tokens(name), next_day.tokens(name)
        assert {token: new[token] for token in old} == old
        assert list(new)[: len(old)] == list(old)
        grown[name] = len(new) - len(old)
        assert next_day.manifest.vocabularies[name].size == 2 + len(new)
    assert grown["client_id"] > 0
    assert grown["post_id"] > 0
    assert next_day.tokens("topic") == rich_build.tokens("topic")  # max_size is reached
    assert next_day.manifest.statistics == rich_build.manifest.statistics


def test_other_boundaries_than_the_first_days_are_refused(rich_build: RichBuild, spark: SparkSession) -> None:
    """They would give every price another id; vocabularies that grow are those of tokens."""
    feed = dataclasses.replace(rich_build.feed)
    config = copy.deepcopy(feed.config)
    config["features"]["price_range"]["boundaries"] = [2, 5, 9]
    config["samples"]["vocabularies"] = {"run": f"rich/{config['date']}", "grow": True}
    feed.config = {**config, "name": "other"}
    with pytest.raises(UserError, match=r"features\.price_range: found 6 ids of buckets of a number, but .* has 5 ids"):
        build(spark, feed)


def test_leave_last_out_end_to_end(next_day: RichBuild) -> None:
    feed, start, end = next_day.feed, start_of(8), start_of(11)
    by_user: dict[str, list[Click]] = {}
    for click in feed.clicks:
        if start <= click.time < end and click.act and not feed.too_early(click):
            by_user.setdefault(click.user, []).append(click)
    tested: dict[str, list[tuple[int, int]]] = {}
    for row in next_day.test:
        tested.setdefault(row[USER_ID], []).append((row[EVENT_TIME], place_of(row)))
    trained: dict[str, list[int]] = {}
    for row in next_day.train:
        assert row[LABEL] > 0
        trained.setdefault(row[USER_ID], []).append(row[EVENT_TIME])
    assert len(tested) > USERS / 2
    warm = {place_of(row) for row in next_day.train}
    cold = 0
    for user, clicks in by_user.items():
        first = min(c.time for c in clicks)
        mine = sorted((c.time for c in clicks if c.source == "feed"), reverse=True)[:2]
        expected = [time for time in mine if time > first]
        found = tested.get(user, [])
        cold += len(expected) - len(found)
        assert trained[user], user
        if expected:
            # Also those test rows whose item is cold have split the user's past.
            assert max(trained[user]) < min(expected)
        assert all(item in warm for _, item in found)
    assert cold == next_day.manifest.sources["sources.feed"].filtered.get("cold item", 0)
    # A query is as of the user's first test row, and so is what was seen.
    seen = {row[USER_ID]: set(row[SEEN]) for row in next_day.interactions}
    assert {row[USER_ID] for row in next_day.users} == set(tested)
    for row in next_day.users:
        time = min(time for time, _ in tested[row[USER_ID]])
        assert row[CLICKED] == sorted({item for _, item in tested[row[USER_ID]]})
        before = feed.before(row[USER_ID], time, "feed likes")
        assert seen[row[USER_ID]] == {c.item for c in before}
        assert row["view_count"] == len(feed.before(row[USER_ID], time, "feed", days=1))
    for row in next_day.test:
        check_user(next_day, row, row[EVENT_TIME])
