"""What becomes of each row of the logs."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dssm.errors import UserError
from dssm.manifest import EVENT_TIME, ITEM_INDEX, LABEL, SOURCE, USER_ID, WEIGHT, target_column
from tests.samples.feed import HEADER, TinyFeed, ms, read_all_events, write_tiny_feed

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row, SparkSession

    from dssm.samples.event_logs import EventLog
    from dssm.samples.sources import Quarantine

pytestmark = pytest.mark.spark

LOG = f"""\
u,p1,{ms(7, 0)},1,0,home
u,p2,{ms(7, 0) - 1},1,0,home
u,p3,{ms(9, 23)},0,0,home
v,p1,{ms(10, 0)},0,0,home
v,p2,{ms(11, 0) - 1},1,0,home
v,p3,{ms(11, 0)},1,0,home
"""
ITEMS = ["p1", "p2", "p3"]


def one_log(feed: TinyFeed, text: str, **source: Any) -> None:
    """Leaves the feed one source, with this log."""
    feed.write("log.csv", HEADER + text)
    feed.config["sources"] = {"feed": {**feed.config["sources"]["feed"], "path": "{data}/log.csv", **source}}
    feed.config["histories"]["touched"]["sources"] = ["feed"]


def fates(events: DataFrame) -> dict[tuple[str, str], str]:
    from dssm.samples.events import FATE

    return {(row[USER_ID], ITEMS[row[ITEM_INDEX]]): row[FATE] for row in events.collect()}


def totals(quarantine: Quarantine, name: str = "sources.feed") -> tuple[dict[str, int], dict[str, int]]:
    """Returns the rows used and filtered, which with the quarantined ones are all that were read."""
    counts = quarantine.counts[name]
    assert counts.rows_read == sum(sum(part.values()) for part in (counts.used, counts.filtered, counts.quarantined))
    return counts.used, counts.filtered


@pytest.mark.parametrize("train_rows", ["positives", "all"])
def test_fates_at_the_edges_of_the_windows(spark: SparkSession, tiny_feed: TinyFeed, train_rows: str) -> None:
    tiny_feed.config["samples"]["train_rows"] = train_rows
    one_log(tiny_feed, LOG)
    events, _, quarantine = read_all_events(spark, tiny_feed, ITEMS)
    negative = "train" if train_rows == "all" else "negative, and train_rows is positives"
    assert fates(events) == {
        ("u", "p1"): "train",  # the window's first millisecond
        ("u", "p2"): "outside the windows",
        ("u", "p3"): negative,
        ("v", "p1"): "test",  # negatives of the test window stay
        ("v", "p2"): "test",
        ("v", "p3"): "outside the windows",
    }
    used, filtered = totals(quarantine)
    assert used == {"test": 2, "train": 2 if train_rows == "all" else 1}
    assert sum(filtered.values()) == 6 - sum(used.values())


LEFT_OUT = f"""\
u,p1,yesterday,1,0,ad
u,p1,{ms(7, 1) * 1000},1,0,ad
u,p2,{ms(8, 0)},yes,0,ad
,p2,{ms(8, 0)},1,0,ad
u,,{ms(8, 0)},1,0,ad
u,p2,{ms(8, 0)},1,-2,ad
u,p2,{ms(8, 0)},1,0,
"""


def test_rows_that_where_leaves_out_are_filtered_whatever_they_hold(spark: SparkSession, tiny_feed: TinyFeed) -> None:
    from dssm.samples.events import FATE
    from dssm.samples.pass_columns import IN_LOG

    tiny_feed.config["samples"]["max_quarantine_share"] = 0
    one_log(tiny_feed, LOG + LEFT_OUT)
    events, _, quarantine = read_all_events(spark, tiny_feed, ITEMS)
    left_out = events.filter(events[FATE] == "left out by where").collect()
    assert [row[IN_LOG] for row in left_out] == [False] * 7  # no history, no counter, nothing that was seen
    _, filtered = totals(quarantine)
    assert filtered["left out by where"] == 7
    assert quarantine.counts["sources.feed"].quarantined == {}


UPLOADS = {"p1": ms(7, 1), "p2": ms(7, 0) - 1, "p3": -(2**62)}


@pytest.mark.parametrize("check_upload", [True, False])
def test_an_event_before_its_items_upload(spark: SparkSession, tiny_feed: TinyFeed, check_upload: bool) -> None:
    from dssm.samples.pass_columns import IN_LOG

    one_log(tiny_feed, LOG + f"w,p1,{ms(7, 1)},1,0,home\nw,p2,{ms(7, 0) - 2},1,0,home\n", check_upload=check_upload)
    events, _, quarantine = read_all_events(spark, tiny_feed, UPLOADS)
    early = {("u", "p1"), ("w", "p2")}
    found = fates(events)
    if check_upload:
        assert {key for key, fate in found.items() if fate == "item uploaded after the event"} == early
        assert totals(quarantine)[1]["item uploaded after the event"] == 2
    else:
        assert (found["u", "p1"], found["w", "p2"]) == ("train", "outside the windows")
    assert found["w", "p1"] == "train"  # at the upload's own millisecond
    assert found["u", "p2"] == "outside the windows"
    in_log = {(row[USER_ID], ITEMS[row[ITEM_INDEX]]) for row in events.collect() if row[IN_LOG]}
    assert set(found) - in_log == (early if check_upload else set())


@pytest.mark.parametrize(
    ("part", "rows", "days"),
    [
        ("test", slice(0, 2), "2024-01-10 to 2024-01-10; the logs span 2024-01-06 to 2024-01-07"),
        ("train", slice(3, 6), "2024-01-07 to 2024-01-09; the logs span 2024-01-10 to 2024-01-11"),
    ],
)
def test_an_empty_window_names_its_days_and_those_of_the_logs(
    spark: SparkSession, tiny_feed: TinyFeed, part: str, rows: slice, days: str
) -> None:
    from dssm.samples.events import check_windows

    one_log(tiny_feed, "".join(LOG.splitlines(keepends=True)[rows]))
    events, _, _ = read_all_events(spark, tiny_feed, ITEMS)
    with pytest.raises(UserError) as caught:
        check_windows(tiny_feed.settings(), events, train_rows=int(part != "train"), test_rows=int(part != "test"))
    assert str(caught.value) == (
        f"window.{part}_days: no row becomes a {part} sample from {days}; "
        "expected rows there: check --date, window, samples.split and the sources' roles and labels"
    )


def test_a_source_without_a_target_does_not_know_it(spark: SparkSession, tiny_feed: TinyFeed) -> None:
    tiny_feed.config["sources"]["feed"]["targets"] = {"stay": "0.5"}
    tiny_feed.config["sources"]["likes"]["targets"] = {"love": "1"}
    events, _, quarantine = read_all_events(spark, tiny_feed, ["p1", "p2", "p3", "p4"])
    names = [target_column("stay"), target_column("love")]
    rows = events.filter(events["__reason"].isNull()).select(SOURCE, *names).distinct().collect()
    nan = pytest.approx(math.nan, nan_ok=True)
    assert {row[SOURCE]: [row[name] for name in names] for row in rows} == {0: [0.5, nan], 1: [nan, 1]}
    assert totals(quarantine, "sources.likes")[0] == {"train": 1}


# Sampling and splits on a generated log -----------------------------------------------------------------------


class Generated:
    """A log of a few thousand rows, some unreadable; read once, then split and sampled in several ways.

    Users from u56 and the item i30 come on the test's day only.
    """

    def __init__(self, spark: SparkSession, folder: Path, **samples: Any) -> None:
        self.spark = spark
        self.feed = write_tiny_feed(folder)
        random = np.random.default_rng(5)
        rows = []
        for index, item in enumerate(np.minimum(random.zipf(1.3, size=5000) - 1, 30).tolist()):
            user, hour = int(random.integers(60)), int(random.integers(5 * 24))  # from the 6th to the 10th
            if hour < 4 * 24:
                user, item = min(user, 55), 0 if item == 30 else item
            rows.append(f"u{user},i{item:02},{ms(6 + hour // 24, hour % 24)},{int(random.random() < 0.4)},{index},home")
        rows += ["u1,i01,never,1,0,home", "u1,,0,1,0,home"]
        one_log(self.feed, "\n".join(rows))
        self.feed.config["samples"] |= {"train_rows": "all", **samples}
        self.feed.config["sources"]["later"] = {
            **self.feed.config["sources"]["feed"], "path": "{data}/later.csv", "roles": ["train"],
        }  # fmt: skip
        only = [f"late,i00,{ms(8, hour)},1,0,home" for hour in (4, 5)]
        self.feed.write("later.csv", HEADER + "\n".join(only))
        self.read: tuple[DataFrame, list[EventLog], Quarantine] = read_all_events(
            spark, self.feed, [f"i{item:02}" for item in range(31)]
        )
        self.before = self.rows(self.read[0])

    def rows(self, events: DataFrame) -> list[Row]:
        """Returns the readable rows in one order."""
        from dssm.samples.events import FATE
        from dssm.samples.pass_columns import HASH

        names = (USER_ID, ITEM_INDEX, EVENT_TIME, SOURCE, LABEL, WEIGHT, HASH, FATE)
        readable = events.filter(events["__reason"].isNull()).select(*names)
        return sorted(readable.collect(), key=lambda row: (row[HASH], row[WEIGHT]))

    def final(self, tasks: int | None = None, **samples: Any) -> list[Row]:
        """Applies what follows the reading. Checks that only fates change, and that each row is counted."""
        from dssm.samples.events import FATE, count_fates, with_final_fates
        from dssm.samples.log import Log

        events, logs, quarantine = self.read
        config = self.feed.config["samples"]
        self.feed.config["samples"] = {**config, **samples}
        settings = self.feed.settings()
        self.feed.config["samples"] = config
        made = with_final_fates(events if tasks is None else events.repartition(tasks), settings)
        rows = self.rows(made)
        assert [row[:-1] for row in rows] == [row[:-1] for row in self.before]
        count_fates(Log(made, settings, logs).outcomes(), logs, quarantine)
        used, filtered = totals(quarantine)
        counted = Counter(row[FATE] for row in rows if row[SOURCE] == 0)
        assert counted == {**used, **filtered}
        assert sum(quarantine.counts["sources.feed"].quarantined.values()) == 2
        return rows


@pytest.fixture(scope="module")
def generated(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Generated:
    return Generated(spark, tmp_path_factory.mktemp("generated"))


@pytest.fixture(scope="module")
def without_test_window(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Generated:
    return Generated(spark, tmp_path_factory.mktemp("generated"), split={"kind": "leave_last_out"})


def chosen(rows: list[Row], fate: str, positive: bool | None = None) -> list[Row]:
    found = [row for row in rows if row["__fate"] == fate]
    return found if positive is None else [row for row in found if (row[LABEL] > 0) == positive]


def test_nothing_is_sampled_unless_asked(generated: Generated) -> None:
    assert generated.final() == generated.before
    assert len(chosen(generated.before, "train")) > 2500
    assert len(chosen(generated.before, "test")) > 500


def test_popular_items_keep_the_share_of_word2vecs_rule(generated: Generated) -> None:
    threshold = 0.01
    rows = generated.final(popular_threshold=threshold)
    positives = Counter(row[ITEM_INDEX] for row in chosen(generated.before, "train", positive=True))
    kept = Counter(row[ITEM_INDEX] for row in chosen(rows, "train", positive=True))
    shares = {item: count / positives.total() for item, count in positives.items()}
    assert max(shares.values()) > 0.25
    deviations = []
    for item, share in shares.items():
        chance = min(1, math.sqrt(threshold / share) + threshold / share)
        if chance == 1:
            assert kept[item] == positives[item]
        else:
            deviation = math.sqrt(positives[item] * chance * (1 - chance))
            deviations.append((kept[item] - positives[item] * chance) / deviation)
    assert len(deviations) >= 5
    assert max(map(abs, deviations)) < 4
    dropped = chosen(rows, "popular item, left out by popular_threshold")
    assert len(dropped) == positives.total() - kept.total() > 300
    assert all(row[LABEL] > 0 for row in dropped)
    assert chosen(rows, "train", positive=False) == chosen(generated.before, "train", positive=False)
    assert chosen(rows, "test") == chosen(generated.before, "test")
    # However Spark parts the rows.
    assert generated.final(tasks=7, popular_threshold=threshold) == rows


def test_no_user_has_more_positives_than_allowed(generated: Generated) -> None:
    rows = generated.final(max_positives_per_user=8)
    before = chosen(generated.before, "train", positive=True)
    positives = Counter(row[USER_ID] for row in before)
    kept = chosen(rows, "train", positive=True)
    assert Counter(row[USER_ID] for row in kept) == {user: min(count, 8) for user, count in positives.items()}
    assert max(positives.values()) > 16
    assert chosen(rows, "train", positive=False) == chosen(generated.before, "train", positive=False)
    # Drawn at random, not the newest: their times are as those of all.
    times, every = ([row[EVENT_TIME] for row in part] for part in (kept, before))
    assert abs(np.mean(times) - np.mean(every)) < 4 * np.std(every) / math.sqrt(len(kept))
    assert generated.final(tasks=5, max_positives_per_user=8) == rows


def test_a_share_of_the_unclicked(spark: SparkSession, tmp_path: Path) -> None:
    feed = write_tiny_feed(tmp_path)
    hour = 3_600_000
    one_log(feed, "".join(f"u{n},p{1 + n % 3},{ms(7, 0) + n * hour // 20},{n % 2},{n},home\n" for n in range(1600)))
    feed.config["samples"] |= {"train_rows": "all", "unclicked_share": 0.25}
    drawn = []
    for seed in (0, 0, 1):
        feed.config["seed"] = seed
        events, _, quarantine = read_all_events(spark, feed, ITEMS)
        used, filtered = totals(quarantine)
        left_out = filtered["negative, left out by unclicked_share"]
        negatives = 3 * 24 * 20 // 2
        assert used["train"] == 2 * negatives - left_out
        assert abs(negatives - left_out - negatives * 0.25) < 4 * math.sqrt(negatives * 0.25 * 0.75)
        assert used["test"] == 160  # all of them
        drawn.append({(row[USER_ID], row["__fate"]) for row in events.collect()})
    assert drawn[0] == drawn[1] != drawn[2]


# Leave-last-out ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [1, 2, 9])
def test_leave_last_out(without_test_window: Generated, last: int) -> None:
    rows = without_test_window.final(split={"kind": "leave_last_out", "rows": last})
    of_user: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of_user[row[USER_ID]].append(row)
    some_test = 0
    for user, mine in of_user.items():
        assert all(
            (row["__fate"] == "outside the windows") == (not ms(7, 0) <= row[EVENT_TIME] < ms(10, 0)) for row in mine
        )
        positives = [row for row in mine if row[LABEL] > 0 and row["__fate"] != "outside the windows"]
        tested, trained = (chosen(mine, fate) for fate in ("test", "train"))
        times = sorted(row[EVENT_TIME] for row in positives if row[SOURCE] == 0)
        assert all(row[LABEL] > 0 and row[SOURCE] == 0 for row in tested), user
        if len(set(times)) <= 1:
            assert tested == [], user
            continue
        some_test += 1
        # The newest, as many as asked for, but none at the time of the first positive: that one is to train on.
        expected = [time for time in times[-last:] if time > min(row[EVENT_TIME] for row in positives)]
        assert sorted(row[EVENT_TIME] for row in tested) == expected, user
        first = min(expected)
        assert any(row[LABEL] > 0 for row in trained), user
        assert max(row[EVENT_TIME] for row in trained) < first, user
        late = chosen(mine, "not before the user's test row")
        assert all(row[EVENT_TIME] >= first for row in late), user
    assert some_test > 50
    assert chosen(of_user["late"], "test") == []  # its positives are all of a source without the role


def test_leave_last_out_where_times_are_equal(spark: SparkSession, tiny_feed: TinyFeed) -> None:
    """Two positives at once: to test on one would leave nothing before it."""
    one_log(tiny_feed, "".join(f"{user},p{item},{ms(8, hour)},1,0,home\n" for user, item, hour in [
        ("twins", 1, 5), ("twins", 2, 5), ("triplet", 1, 4), ("triplet", 2, 5), ("triplet", 3, 5), ("single", 1, 5),
    ]))  # fmt: skip
    tiny_feed.config["samples"]["split"] = {"kind": "leave_last_out", "rows": 1}
    from dssm.samples.events import with_final_fates

    events, _, _ = read_all_events(spark, tiny_feed, ITEMS)
    found = fates(with_final_fates(events, tiny_feed.settings()))
    assert {key: found[key] for key in found if key[0] != "triplet"} == {
        ("twins", "p1"): "train", ("twins", "p2"): "train", ("single", "p1"): "train",
    }  # fmt: skip
    assert found["triplet", "p1"] == "train"
    assert sorted([found["triplet", "p2"], found["triplet", "p3"]]) == ["not before the user's test row", "test"]


def test_cold_test_rows_are_left_out(generated: Generated) -> None:
    others = {"max_positives_per_user": 1}
    before = generated.final(**others)
    trained = chosen(before, "train")
    warm_users, warm_items = {row[USER_ID] for row in trained}, {row[ITEM_INDEX] for row in trained}
    for sides in (("users",), ("items", "users")):
        rows = generated.final(**others, split={"drop_cold": sides})
        found: Counter[str] = Counter()
        for old, new in zip(before, rows, strict=True):
            expected = old["__fate"]
            if expected == "test" and old[USER_ID] not in warm_users:
                expected = "cold user"
            elif expected == "test" and "items" in sides and old[ITEM_INDEX] not in warm_items:
                expected = "cold item"
            assert new["__fate"] == expected
            found[expected] += 1
        assert found["test"] > 500
        assert found["cold user"] > 10
        assert (found["cold item"] > 10) == ("items" in sides)
