"""What a sample knows of its user: histories, counters and profiles strictly before it. Without Spark."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dssm.features import FIRST_TOKEN_ID, UNKNOWN_ID
from dssm.manifest import (
    CLICKED,
    EVENT_TIME,
    ITEM_ID,
    LABEL,
    LAST_TIME,
    POSITIVE,
    SEEN,
    SOURCE,
    TARGETS,
    USER_ID,
    WARM,
    WEIGHT,
)
from tests.samples.task import Event, Snapshot, TaskFeed, at, changed
from tests.samples.user_feed import CITY, MORE, POST, POSTS, TOPIC, make_feed, posts


def by_event(rows: list[dict[str, Any]]) -> dict[tuple[str, str, int], dict[str, Any]]:
    found = {(row[USER_ID], row[ITEM_ID], row[EVENT_TIME]): row for row in rows}
    assert len(found) == len(rows)
    return found


# By hand -------------------------------------------------------------------------------------------------


def test_counters_and_histories_of_a_user(tmp_path: Path) -> None:
    events = [
        Event("u", 0, at(7, 10)),
        Event("u", 1, at(7, 10), label=0),  # at the same time: the two do not see each other
        Event("u", 2, at(8, 10)),  # both are exactly 24 hours old: within one day
        Event("u", 4, at(8, 9), source="likes"),
        Event("u", 3, at(8, 10, 1)),  # and now they are older
        Event("v", 3, at(8, 11), label=0),
    ]
    rows = by_event(make_feed(tmp_path, events).run()["train"])
    names = ("view_count", "click_count", "click_rate", "click_history", "recent_history")
    found = {key[:2]: [rows[key][name] for name in names] for key in rows}
    log1p = {n: pytest.approx(math.log1p(n)) for n in range(4)}
    nothing = [0, 0, 0.25, posts(), posts(width=4)]
    assert found == {
        ("u", "p0"): nothing,
        ("u", "p1"): nothing,
        ("u", "p4"): [2, log1p[1], pytest.approx((1 + 1) / (2 + 4)), posts(0), posts(1, 0, width=4)],
        ("u", "p2"): [2, log1p[2], pytest.approx((1 + 1) / (2 + 4)), posts(0), posts(4, 1, 0, width=4)],
        ("u", "p3"): [1, log1p[3], pytest.approx((2 + 1) / (3 + 4)), posts(2, 0), posts(2, 4, width=4)],
        ("v", "p3"): nothing,
    }


def test_a_rate_of_no_events_is_the_prior_whatever_its_strength(tmp_path: Path) -> None:
    rate = {"rate": {**MORE["counters"]["rate"], "strength": 0}}
    events = [Event("u", 0, at(7, 10)), Event("u", 1, at(7, 11), label=0), Event("u", 1, at(7, 12))]
    rows = by_event(make_feed(tmp_path, events, counters={**MORE["counters"], **rate}).run()["train"])
    assert [rows[key]["click_rate"] for key in sorted(rows, key=lambda key: key[2])] == [0.25, 1, 0.5]


def test_favourites_are_shares_of_the_histories_topics(tmp_path: Path) -> None:
    events = [Event("u", item, at(7, 8 + hour)) for hour, item in enumerate([1, 0, 2, 3, 4, 0])]
    rows = by_event(make_feed(tmp_path, events).run()["train"])
    in_time = [rows[key] for key in sorted(rows, key=lambda key: key[2])]
    a, b, c = (TOPIC[topic] for topic in "abc")
    third, half = pytest.approx(1 / 3), 0.5
    # Of the three newest clicks; the largest share first, then by id; p4 has no topic.
    assert [(row["fav_topic"], row["fav_topic__weight"]) for row in in_time] == [
        ([0, 0], [0, 0]),
        ([b, 0], [1, 0]),
        ([a, b], [half, half]),
        ([a, b], [pytest.approx(2 / 3), third]),
        ([a, c], [pytest.approx(2 / 3), third]),
        ([a, c], [half, half]),
    ]


def test_an_event_sees_the_newest_snapshot_before_it(tmp_path: Path) -> None:
    snapshots = [
        Snapshot("clients", "u", {"city": "y", "age": 30}, at(8, 12) + 1),  # taken at 12:00, seen from then on
        Snapshot("clients", "u", {"city": "x", "age": 20}, at(7, 12) + 1),
        Snapshot("clients", "v", {"city": "elsewhere", "age": None}, at(7, 12) + 1),
    ]
    times = [at(7, 12), at(7, 12) + 1, at(8, 12), at(8, 12) + 1, at(9, 0)]
    events = [Event("u", 0, time) for time in times] + [Event("v", 0, at(9, 0)), Event("w", 0, at(9, 0))]
    feed = make_feed(tmp_path, events, snapshots)
    rows = by_event(feed.run()["train"])
    none = (UNKNOWN_ID, -1)
    expected = [none, (CITY["x"], 20), (CITY["x"], 20), (CITY["y"], 30), (CITY["y"], 30)]
    assert [(rows["u", "p0", time]["city"], rows["u", "p0", time]["age"]) for time in times] == expected
    for user in "vw":  # a row without values, and no row at all
        assert (rows[user, "p0", at(9, 0)]["city"], rows[user, "p0", at(9, 0)]["age"]) == none


def test_a_history_goes_on_with_the_profiles_list(tmp_path: Path) -> None:
    snapshots = [Snapshot("reads", "u", {"read": "p3, gone,,p4,p1"}), Snapshot("reads", "v", {"read": None})]
    events = [Event(user, item, at(7, 10 + item)) for user in "uvw" for item in (0, 2)]
    rows = by_event(make_feed(tmp_path, events, snapshots).run()["train"])
    found = {key[:2]: row["long_history"] for key, row in rows.items()}
    assert found == {
        ("u", "p0"): [POST["p3"], UNKNOWN_ID, POST["p4"], POST["p1"]],
        ("u", "p2"): [POST["p0"], POST["p3"], UNKNOWN_ID, POST["p4"]],
        **{(user, "p0"): posts(width=4) for user in "vw"},
        **{(user, "p2"): posts(0, width=4) for user in "vw"},
    }


def test_features_of_the_id_and_of_the_time(tmp_path: Path) -> None:
    events = [Event("v", 0, at(7, 23)), Event("日本", 1, at(8, 0))]
    rows = make_feed(tmp_path, events).run()["train"]
    assert {row[USER_ID]: (row["client_id"], row["hour"]) for row in rows} == {
        "v": (3, 23 + FIRST_TOKEN_ID), "日本": (UNKNOWN_ID, FIRST_TOKEN_ID),
    }  # fmt: skip


def test_rows_that_are_no_samples_still_count_and_those_out_of_the_log_do_not(tmp_path: Path) -> None:
    events = [
        Event("u", 0, at(7, 10), fate="outside the windows"),
        Event("u", 1, at(7, 11), fate="item uploaded after the event", in_log=False),
        Event("u", 2, at(7, 12)),
    ]
    feed = make_feed(tmp_path, events).run()
    (row,) = feed["train"]
    assert (row[ITEM_ID], row["click_history"], row["view_count"]) == ("p2", posts(0), 1)
    assert [row[SEEN] for row in feed["interactions"]] == [[0, 2]]


def test_labels_weights_and_sources_travel(tmp_path: Path) -> None:
    events = [
        Event("u", 0, at(7, 10), label=0, weight=3),
        Event("u", 1, at(7, 11), label=2, weight=0.5, source="likes"),
        Event("u", 2, at(10, 1), label=0, weight=4, fate="test"),
    ]
    samples = {"rows_per_file": 4, "train_rows": "all", "unclicked_weight": 0.25}
    made = make_feed(tmp_path, events, samples=samples).run()
    rows = made["train"] + made["test"]
    # The factor is for training rows without a positive label.
    assert {row[ITEM_ID]: (row[LABEL], row[WEIGHT], row[SOURCE]) for row in rows} == {
        "p0": (0, 0.75, "feed"), "p1": (2, 0.5, "likes"), "p2": (0, 4, "feed"),
    }  # fmt: skip


# Queries and interactions ---------------------------------------------------------------------------------


def test_queries_are_as_of_the_test_windows_start(tmp_path: Path) -> None:
    events = [
        Event("u", 0, at(9, 23)),
        Event("u", 3, at(10, 2), fate="test"),
        Event("u", 1, at(10, 2), fate="test"),
        Event("u", 3, at(10, 3), fate="test"),
        Event("u", 2, at(10, 4), label=0, fate="test"),
        Event("v", 4, at(9, 5), label=0),
        Event("v", 2, at(10, 5), label=0, fate="test"),  # no positive, no query
        Event("w", 4, at(10, 5), fate="test"),
    ]
    snapshots = [Snapshot("clients", "u", {"city": city}, at(10, hour)) for city, hour in (("x", 0), ("y", 1))]
    rows = {row[USER_ID]: row for row in make_feed(tmp_path, events, snapshots).run()["users"]}
    assert {user: (row[CLICKED], row[WARM]) for user, row in rows.items()} == {"u": ([1, 3], 1), "w": ([4], 0)}
    found = rows["u"]
    assert (found["click_history"], found["view_count"], found["city"], found["hour"]) == (
        posts(0), 1, CITY["x"], FIRST_TOKEN_ID,
    )  # fmt: skip
    assert (rows["w"]["click_history"], rows["w"]["city"]) == (posts(), UNKNOWN_ID)


@pytest.mark.parametrize("split", ["time", "leave_last_out"])
def test_of_all_users_whoever_has_an_event_before_has_a_row_too(tmp_path: Path, split: str) -> None:
    feed = random_feed(tmp_path / "window", seed=1, events=30)
    more = {"rows_per_file": 4, "train_rows": "all", "split": {"kind": split}}
    window, every = (
        changed(feed, tmp_path / users, more={**MORE, "samples": {**more, "users": users}}).run()
        for users in ("window", "all")
    )
    assert {part: every[part] for part in ("train", "test", "interactions")} == {
        part: window[part] for part in ("train", "test", "interactions")
    }
    tested = {row[USER_ID]: row for row in window["users"]}
    found = {row[USER_ID]: row for row in every["users"]}
    before = {row[USER_ID] for row in window["interactions"]}
    assert found.keys() == tested.keys() | before
    assert {user: found[user] for user in tested} == tested
    others = [found[user] for user in found.keys() - tested.keys()]
    assert [(row[CLICKED], row[WARM]) for row in others] == [([], 1)] * len(others)
    assert others


def test_a_user_of_all_is_as_of_the_windows_start(tmp_path: Path) -> None:
    events = [
        Event("u", 0, at(8, 10)),
        Event("u", 1, at(9, 10)),
        Event("u", 2, at(10, 4), label=0, fate="test"),  # not known at the window's start
        Event("w", 4, at(10, 5), fate="test"),
    ]
    snapshots = [Snapshot("clients", "u", {"city": city}, at(*when)) for city, when in (("x", (9, 0)), ("y", (10, 1)))]
    samples = {"rows_per_file": 4, "train_rows": "all", "users": "all"}
    rows = {row[USER_ID]: row for row in make_feed(tmp_path, events, snapshots, samples=samples).run()["users"]}
    found = rows["u"]
    assert (found[CLICKED], found[WARM], found["click_history"]) == ([], 1, posts(1, 0))
    assert (found["city"], found["hour"]) == (CITY["x"], FIRST_TOKEN_ID)


def test_leave_last_out_asks_as_of_each_users_first_test_row(tmp_path: Path) -> None:
    events = [
        Event("u", 0, at(7, 10)),
        Event("u", 1, at(8, 10), fate="test"),
        Event("u", 2, at(8, 11), fate="not before the user's test row"),
        Event("u", 3, at(9, 10), fate="test"),
        Event("v", 4, at(9, 23)),
    ]
    samples = {"rows_per_file": 4, "train_rows": "all", "split": {"kind": "leave_last_out", "rows": 2}}
    made = make_feed(tmp_path, events, samples=samples).run()
    (query,) = made["users"]
    assert (query[USER_ID], query[CLICKED], query[WARM]) == ("u", [1, 3], 1)
    assert (query["click_history"], query["hour"]) == (posts(0), 10 + FIRST_TOKEN_ID)
    rows = by_event(made["test"])
    assert rows["u", "p1", at(8, 10)]["click_history"] == posts(0)
    assert rows["u", "p3", at(9, 10)]["click_history"] == posts(2, 1, 0)
    # What u did from the first test row on is not seen; v has no test row, and all of its own.
    assert {row[USER_ID]: row[SEEN] for row in made["interactions"]} == {"u": [0], "v": [4]}


def test_interactions_are_one_row_a_user_of_distinct_items(tmp_path: Path) -> None:
    events = [
        Event("u", 3, at(7, 10), label=0),
        Event("u", 3, at(7, 12)),
        Event("u", 3, at(7, 11)),
        Event("u", 1, at(8, 10), source="likes"),  # positive, but of a source that is not tested on
        Event("u", 0, at(9, 10), label=0),
        Event("u", 2, at(10, 0), fate="test"),
        Event("v", 4, at(10, 0) - 1),
        Event("w", 4, at(10, 0), fate="test"),
    ]
    rows = {row[USER_ID]: row for row in make_feed(tmp_path, events).run()["interactions"]}
    names = (SEEN, POSITIVE, TARGETS, LAST_TIME)
    assert {user: [row[name] for name in names] for user, row in rows.items()} == {
        "u": [[0, 1, 3], [0, 1, 1], [0, 0, 2], [at(9, 10), at(8, 10), at(7, 12)]],
        "v": [[4], [1], [1], [at(10, 0) - 1]],
    }


def test_a_user_with_nothing_but_a_profile_has_no_row(tmp_path: Path) -> None:
    snapshots = [Snapshot("clients", "w", {"city": "x"}), Snapshot("reads", "w", {"read": "p1"})]
    made = make_feed(tmp_path, [Event("u", 0, at(7, 10))], snapshots).run(tasks=4)
    assert [row[USER_ID] for part in made.values() for row in part] == ["u", "u"]  # the sample, and what was seen


# Against a look at every row ---------------------------------------------------------------------------------


def random_feed(folder: Path, seed: int, events: int = 150) -> TaskFeed:
    """Few users, items and moments, so that equal times and repeated rows are common."""
    random = np.random.default_rng(seed)
    hours = [at(day, hour) for day in (7, 8, 9, 10) for hour in range(0, 24, 4)]
    rows = []
    for _ in range(events):
        time = int(random.choice(hours))
        fate = str(random.choice(["train", "other"])) if time < at(10, 0) else "test"
        rows.append(
            Event(
                user=str(random.choice(["u", "v", "w", "日本"])),
                item=int(random.integers(len(POSTS))),
                time=time,
                label=int(random.integers(2)),
                source="feed" if fate == "test" else str(random.choice(["feed", "likes"])),
                fate=fate,
                in_log=fate != "other" or bool(random.integers(2)),
            )
        )
    snapshots = [
        Snapshot("clients", user, {"city": str(random.choice(["x", "y", "z"])), "age": int(age)}, int(time) + 1)
        for user in "uvw"
        for age, time in enumerate(random.choice(hours, 3, replace=False))
    ]
    snapshots.append(Snapshot("reads", "v", {"read": "p4,p2"}))
    return make_feed(folder, rows, snapshots)


def expected_features(feed: TaskFeed, user: str, time: int) -> dict[str, Any]:
    """Looks at every event and every snapshot."""
    mine = sorted((e for e in feed.events if e.user == user and e.in_log), key=lambda e: (e.time, e.item, e.hash))
    known = [e for e in mine if e.time < time][::-1]
    day = 86_400_000

    def newest(last: int, sources: set[str], days: int | None = None, positives: bool = True) -> list[int]:
        wanted = [e for e in known if e.source in sources and (e.label > 0 or not positives)]
        return [e.item for e in wanted if days is None or e.time >= time - days * day][:last]

    def labels(sources: set[str], days: int) -> list[float]:
        return [e.label for e in known if e.source in sources and e.time >= time - days * day]

    taken = [s for s in feed.snapshots if s.profile == "clients" and s.user == user and s.time <= time]
    values = max(taken, key=lambda s: s.time).values if taken else {}
    older = [4, 2] if user == "v" else []
    rated = labels({"feed"}, 3)
    return {
        "click_history": posts(*newest(3, {"feed"}), width=3),
        "recent_history": posts(*newest(4, {"feed", "likes"}, days=1, positives=False), width=4),
        "long_history": posts(*(newest(4, {"feed"}) + older)[:4], width=4),
        "view_count": len(labels({"feed"}, 1)),
        "click_count": pytest.approx(math.log1p(sum(labels({"feed", "likes"}, 2)))),
        "click_rate": pytest.approx((sum(rated) + 1) / (len(rated) + 4)),
        "city": CITY.get(values.get("city", ""), UNKNOWN_ID),
        "age": values.get("age", -1),
    }


@pytest.mark.parametrize("seed", range(4))
def test_equals_a_look_at_every_event(tmp_path: Path, seed: int) -> None:
    feed = random_feed(tmp_path, seed)
    made = feed.run()
    samples = [event for event in feed.events if event.fate in ("train", "test")]
    assert len(made["train"]) + len(made["test"]) == len(samples) > 75
    for row in made["train"] + made["test"]:
        expected = expected_features(feed, row[USER_ID], row[EVENT_TIME])
        assert {name: row[name] for name in expected} == expected
    for row in made["users"]:
        expected = expected_features(feed, row[USER_ID], at(10, 0))
        assert {name: row[name] for name in expected} == expected


@pytest.mark.parametrize(("tasks", "seed"), [(1, 1), (2, 2), (3, 3), (5, 4)])
def test_files_do_not_depend_on_the_order_of_rows_nor_on_the_tasks(tmp_path: Path, tasks: int, seed: int) -> None:
    feed = random_feed(tmp_path / "as_it_is", seed=0)
    feed.run()
    other = changed(feed, tmp_path / "other")
    other.run(tasks=tasks, seed=seed)
    files = feed.files("built")
    assert other.files("built") == files
    assert len(files) == 22


def test_tasks_without_rows_write_nothing(tmp_path: Path) -> None:
    feed = make_feed(tmp_path, [Event("u", 0, at(7, 10))])
    assert [len(rows) for rows in feed.run(tasks=3).values()] == [1, 0, 0, 1]
