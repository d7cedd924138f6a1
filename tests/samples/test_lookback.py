"""Logs and snapshots in days' files: what the first events of the windows see of the days before them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssm.config import Settings
from dssm.errors import UserError
from dssm.manifest import EVENT_TIME, ITEM_ID, USER_ID, Manifest
from tests.samples.feed import TinyFeed, build, ms, read_all_events, read_part

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession


# How many days -----------------------------------------------------------------------------------------------


def settings_with(histories: dict[str, Any], counters: dict[str, Any], **changes: Any) -> Settings:
    one = {"path": "x/{date}.csv", "user": "u", "item": "i", "time": "t"}
    return Settings.model_validate(
        {
            "name": "a",
            "date": "2024-04-03",
            "window": {"train_days": 3, "test_days": 2},
            "sources": {"feed": one, "likes": one},
            "catalogue": {"path": "x.csv", "key": "i"},
            "histories": histories,
            "counters": counters,
            "features": {"u": {"kind": "SparseFeat", "side": "user"}, "i": {"kind": "SparseFeat", "side": "item"}},
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("histories", "counters", "expected"),
    [
        ({}, {}, (0, 0)),
        ({"all": {"sources": ["feed"]}}, {}, (0, 0)),
        ({"all": {"sources": ["feed"]}, "day": {"sources": ["feed"], "days": 1}}, {}, (1, 0)),
        (
            {"day": {"sources": ["feed", "likes"], "days": 2}},
            {"views": {"side": "item", "sources": ["likes"], "days": 7}},
            (2, 7),
        ),
        (
            {"week": {"sources": ["likes"], "days": 8}},
            {"views": {"side": "user", "sources": ["likes", "feed"], "days": 7}},
            (7, 8),
        ),
    ],
    ids=["nothing", "without days", "one with days", "an item's counter", "a user's counter"],
)
def test_days_before_the_windows(
    histories: dict[str, Any], counters: dict[str, Any], expected: tuple[int, int]
) -> None:
    from dssm.samples.event_logs import days_before

    settings = settings_with(histories, counters)
    assert (days_before(settings, "feed"), days_before(settings, "likes")) == expected


@pytest.mark.parametrize(
    ("date", "expected"),
    [("2024-04-03", 1), ("2024-04-04", 2), ("2024-10-31", 1)],
    ids=["before a day of 23 hours", "after a day of 23 hours", "after a day of 25 hours"],
)
def test_days_of_24_hours_where_the_clocks_change(date: str, expected: int) -> None:
    """Berlin's days of 23 and 25 hours are the 31st of March and the 27th of October."""
    from dssm.samples.event_logs import days_before

    history = {"day": {"sources": ["feed"], "days": 1}}
    assert days_before(settings_with(history, {}, date=date, timezone="Europe/Berlin"), "feed") == expected


def test_paths_of_the_days_before_the_windows() -> None:
    settings = settings_with({}, {})
    assert settings.window_days(1)[0] == dt.date(2024, 3, 30)
    assert settings.window_days(1)[1:] == settings.window_days()
    assert settings.expand("{date:%m%d}", daily=True, before=2) == [
        "0329", "0330", "0331", "0401", "0402", "0403", "0404",
    ]  # fmt: skip
    assert settings.expand("log.csv", daily=True, before=2) == ["log.csv"]


@pytest.mark.spark
def test_a_history_without_days_says_where_it_begins_if_there_are_earlier_days(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dssm.samples.events import cut_histories, read_logs

    histories = {"all": {"sources": ["feed", "likes", "all"]}, "day": {"sources": ["likes"], "days": 1}}
    one = {"user": "u", "item": "i", "time": "t"}
    paths = {"feed": "feed/{date}.csv", "likes": "likes/{date}.csv", "all": "all.csv"}
    sources = {name: {"path": f"{tmp_path}/{path}", **one} for name, path in paths.items()}
    settings = settings_with(histories, {}, sources=sources)  # the windows are the 31st of March to the 4th of April
    for name in ("all.csv", "feed/2024-03-31.csv", "likes/2024-03-30.csv", "likes/2024-03-31.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("u,i,t\na,b,1\n")
    assert cut_histories(spark, settings) == []

    (tmp_path / "feed/2024-03-30.csv").write_text("u,i,t\n")
    (tmp_path / "likes/2024-03-29.csv").write_text("u,i,t\n")
    told = [
        f"histories.all: sources.{name} is read from {day} on, and has days before; "
        "with `days` it is read so many days before the windows"
        for name, day in (("feed", "2024-03-31"), ("likes", "2024-03-30"))
    ]
    assert cut_histories(spark, settings) == told
    read_logs(spark, settings)
    assert capsys.readouterr().out.split("\n") == [*(f"  {line}" for line in told), ""]


# What a build makes of them ------------------------------------------------------------------------------------

# (user, item, day, hour, label); the windows are the 7th to the 10th, and the counter sees 3 days more.
EVENTS = [
    ("u", "p1", 3, 23, 1),
    ("u", "p2", 4, 9, 1),
    ("u", "p2", 4, 11, 1),
    ("u", "p3", 6, 9, 0),
    ("u", "p1", 6, 11, 1),
    ("v", "p1", 6, 12, 1),
    ("v", "late", 6, 13, 1),
    ("u", "p3", 7, 10, 1),
    ("v", "p2", 7, 10, 1),
    ("v", "ghost", 7, 11, 1),
    ("v", "late", 9, 1, 1),
    ("u", "p2", 9, 10, 1),
    ("w", "p1", 9, 12, 1),
    ("v", "p3", 10, 10, 1),
    ("u", "late", 10, 12, 0),
]
COLUMNS = {"user": "user", "item": "item", "time": "time", "label": "act", "check_upload": False}
CHANGES = {
    "profiles": {"clients": {"path": "{data}/clients/{date}.csv", "key": "id"}},
    "catalogue": {"path": "{data}/posts.csv", "key": "post_id", "upload_time": "uploaded"},
    "vectors": {},
    "histories": {"recent": {"sources": ["feed"], "last": 5, "days": 2}},
    "counters": {
        "views": {"side": "user", "sources": ["feed"], "days": 3, "count": "events"},
        "item_views": {"side": "item", "sources": ["feed"], "days": 1, "count": "events"},
    },
    "features": {
        "plan": {"kind": "DenseFeat", "side": "user", "null": -1},
        "recent_history": {
            "kind": "VarLenSparseFeat", "side": "user", "column": "recent", "maxlen": 3, "share_embedding": "post_id",
        },
        "view_count": {"kind": "DenseFeat", "side": "user", "column": "views"},
        "post_id": {"kind": "SparseFeat", "side": "item"},
        "views_so_far": {"kind": "DenseFeat", "side": "item", "column": "item_views"},
    },
    "samples": {
        "rows_per_file": 100, "shuffle_partitions": 2,
        "negatives": {"hard": {"kind": "hard", "count": 1, "items": "{data}/published/{date}", "ranks": [1, 2]}},
    },
    "train": {"loss": "weighted_bce"},
}  # fmt: skip


def log_of(events: Iterable[tuple[str, str, int, int, int]]) -> str:
    rows = [f"{user},{item},{ms(day, hour)},{act}\n" for user, item, day, hour, act in events]
    return "user,item,time,act\n" + "".join(rows)


def write_feed(folder: Path, path: str) -> TinyFeed:
    feed = TinyFeed(folder)
    feed.config |= {**CHANGES, "sources": {"feed": {"path": path, **COLUMNS}}}
    for day in {event[2] for event in EVENTS}:
        feed.write(f"feed/2024-01-{day:02}.csv", log_of(event for event in EVENTS if event[2] == day))
    feed.write("log.csv", log_of(EVENTS))
    feed.write("posts.csv", "post_id,uploaded\np1,\np2,\np3,2024-01-05\nlate,2024-01-11\n")
    feed.write("clients/2023-12-20.csv", "id,plan\nu,20\nv,20\n")
    feed.write("clients/2023-12-30.csv", "id,plan\nu,30\n")  # the newest before the windows
    feed.write("clients/2024-01-08.csv", "id,plan\nu,8\n")
    for day, ids in ((8, ["p1", "p3", "late"]), (10, ["p2", "x"])):
        (folder / f"published/2024-01-{day:02}").mkdir(parents=True)
        vectors = pa.array([[1.0, float(place)] for place in range(len(ids))], pa.list_(pa.float32()))
        pq.write_table(pa.table({"item_id": ids, "vector": vectors}), folder / f"published/2024-01-{day:02}/a.parquet")
    return feed


class Built:
    def __init__(self, spark: SparkSession, feed: TinyFeed) -> None:
        self.manifest: Manifest = build(spark, feed)
        self.rows = {part: sorted(read_part(feed, part), key=repr) for part in ("train", "test", "users", "items")}
        tokens = pq.read_table(feed.samples / "vocabularies" / "post_id.parquet").to_pylist()
        self.posts = {0: "", 1: "?"} | {row["id"]: row["token"] for row in tokens}

    def row(self, user: str, day: int, hour: int) -> dict[str, Any]:
        rows = self.rows["train"] + self.rows["test"]
        (found,) = [row for row in rows if (row[USER_ID], row[EVENT_TIME]) == (user, ms(day, hour))]
        return found

    def history(self, user: str, day: int, hour: int) -> list[str]:
        return [self.posts[post] for post in self.row(user, day, hour)["recent_history"]]


@pytest.fixture(scope="module")
def daily(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(spark, write_feed(tmp_path_factory.mktemp("daily"), "{data}/feed/{date}.csv"))


@pytest.mark.spark
def test_the_first_events_see_the_days_before_the_windows(daily: Built) -> None:
    assert daily.history("u", 7, 10) == ["p1", "", ""]  # the positive of 2 days
    assert daily.history("v", 7, 10) == ["p1", "", ""]
    assert daily.row("u", 7, 10)["view_count"] == 3  # from 10:00 of the 4th on
    assert daily.row("v", 7, 10)["view_count"] == 1  # the one of an item that was not yet there is none
    found = {row[ITEM_ID]: row["views_so_far"] for row in daily.rows["train"] if row[EVENT_TIME] == ms(7, 10)}
    assert found == {"p3": 1, "p2": 0}  # on the 6th


@pytest.mark.spark
def test_a_log_in_days_files_is_the_same_log_as_one_file(daily: Built, spark: SparkSession, tmp_path: Path) -> None:
    whole = Built(spark, write_feed(tmp_path, "{data}/log.csv"))
    assert whole.rows == daily.rows
    assert [len(rows) for rows in daily.rows.values()] == [4, 1, 1, 3]


@pytest.mark.spark
def test_rows_of_the_days_before_are_outside_the_windows(daily: Built) -> None:
    counts = daily.manifest.sources["sources.feed"]
    assert counts.rows_read == 14  # all but the one of the 3rd
    assert counts.used == {"train": 4, "test": 1}
    assert counts.filtered == {
        "outside the windows": 5, "item not in the catalogue": 1, "item uploaded after the windows": 3,
    }  # fmt: skip
    assert counts.missing_days == ["2024-01-08"]  # and not the 5th
    assert counts.place.endswith("/feed/2024-01-10.csv (7 days)")


@pytest.mark.spark
def test_items_uploaded_after_the_windows_are_no_items(daily: Built) -> None:
    counts = daily.manifest.sources["catalogue"]
    assert (counts.used, counts.filtered) == ({"read": 3}, {"uploaded after the windows": 1})
    assert [row[ITEM_ID] for row in daily.rows["items"]] == ["p1", "p2", "p3"]


def days_between(first: str, last: str) -> list[str]:
    return [str(day.date()) for day in pd.date_range(first, last)]


@pytest.mark.spark
def test_the_newest_snapshot_before_the_windows_is_seen(daily: Built) -> None:
    found = {(row[USER_ID], row[EVENT_TIME]): row["plan"] for row in daily.rows["train"] + daily.rows["test"]}
    assert found == {
        ("u", ms(7, 10)): 30, ("v", ms(7, 10)): -1, ("u", ms(9, 10)): 8, ("v", ms(10, 10)): -1, ("w", ms(9, 12)): -1,
    }  # fmt: skip
    counts = daily.manifest.sources["profiles.clients"]
    assert counts.rows_read == 2
    assert counts.missing_days == [*days_between("2023-12-31", "2024-01-07"), "2024-01-09", "2024-01-10"]
    assert "/2023-12-30.csv … " in counts.place


@pytest.mark.spark
def test_joins_are_counted(daily: Built) -> None:
    found = {join.name: (join.rows, join.matched) for join in daily.manifest.joins}
    assert found == {
        "sources.feed ⋈ catalogue": (14, 10),
        "catalogue ⋈ samples.negatives.hard": (3, 2),  # p1 and p3, of the 8th
        "samples ⋈ profiles.clients": (5, 2),
    }


# Reading -----------------------------------------------------------------------------------------------------


@pytest.mark.spark
def test_files_of_months_are_read_once(spark: SparkSession, tmp_path: Path) -> None:
    feed = write_feed(tmp_path, "{data}/{date:%Y%m}.csv")
    feed.write("202401.csv", log_of(EVENTS))
    _, (log,), quarantine = read_all_events(spark, feed, ["p1", "p2", "p3"])
    assert quarantine.counts[log.name].rows_read == len(EVENTS)


@pytest.mark.spark
def test_days_before_the_windows_alone_are_not_enough(spark: SparkSession, tmp_path: Path) -> None:
    feed = write_feed(tmp_path, "{data}/old/{date}.csv")
    feed.write("old/2024-01-06.csv", log_of(EVENTS))
    with pytest.raises(UserError) as caught:
        read_all_events(spark, feed, ["p1"])
    assert str(caught.value) == (
        f"sources.feed.path: nothing found at {tmp_path}/old/2024-01-07.csv … {tmp_path}/old/2024-01-10.csv (4 days); "
        "expected csv files"
    )


@pytest.mark.spark
@pytest.mark.parametrize(("day", "seen"), [("2023-11-08", True), ("2023-11-07", False)])
def test_how_far_back_a_snapshot_is_looked_for(spark: SparkSession, tmp_path: Path, day: str, seen: bool) -> None:
    """The 8th of November is 60 days before the 7th of January."""
    from dssm.samples.sources import Quarantine
    from dssm.samples.tables import read_profile

    feed = write_feed(tmp_path, "{data}/log.csv")
    feed.config["profiles"]["clients"] = {"path": "{data}/dump/{date}.csv", "key": "id"}
    feed.write(f"dump/{day}.csv", "id,plan\nold,1\n")
    feed.write("dump/2024-01-08.csv", "id,plan\nnew,1\n")
    quarantine = Quarantine(str(tmp_path / "quarantine"), 1)
    rows = read_profile(spark, feed.settings(), "clients", [], quarantine).collect()
    assert {row["row__id"] for row in rows} == ({"old", "new"} if seen else {"new"})
    missing = [*days_between("2023-11-09" if seen else "2024-01-06", "2024-01-07"), "2024-01-09", "2024-01-10"]
    assert quarantine.counts["profiles.clients"].missing_days == missing
