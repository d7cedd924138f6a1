"""Negatives of a task's positives, from the rows of its users to the files. Without Spark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssm.manifest import (
    ALWAYS,
    EVENT_TIME,
    ITEM_ID,
    LABEL,
    NEGATIVE_PROBABILITY,
    NEGATIVES,
    SOURCE,
    USER_ID,
    WEIGHT,
)
from dssm.samples.candidates import item_weights
from dssm.samples.events import TOO_EARLY
from dssm.sections import UniformNegatives
from tests.samples.task import Event, TaskFeed, at, changed

ITEMS = 24
RANKS = (2, 5)
UPLOADS = [ALWAYS if item % 3 else at(7 + item % 4, 12) for item in range(ITEMS)]
GROUPS = [item % 5 for item in range(ITEMS)]  # 0: none
POSITIVES = [item % 7 for item in range(ITEMS)]
USERS = ["u", "v", "w", "x"]
KINDS: dict[str, Any] = {
    "any": {"kind": "uniform", "count": 3},
    "popular": {"kind": "popularity", "count": 2, "exponent": 0.75},
    "damped": {"kind": "suppressed", "count": 1, "threshold": 0.05},
    "same": {"kind": "group", "count": 2, "column": "group"},
    "shown": {"kind": "unclicked", "count": 2, "pool": 4},
    "fed": {"kind": "unclicked", "count": 1, "sources": ["feed"]},
    "hard": {"kind": "hard", "count": 3, "ranks": RANKS},
}
COLUMNS = [name for name, kind in KINDS.items() for _ in range(kind["count"])]


class Published(NamedTuple):
    items: np.ndarray  # (ITEMS, 3), NaN where the item has no vector
    users: dict[str, np.ndarray]


def publish(folder: Path, with_users: bool) -> Published:
    """Writes a previous model's tables: of most items, in another order, and of one user."""
    random = np.random.default_rng(3)
    items, order = random.normal(size=(ITEMS, 3)).astype(np.float32), random.permutation(ITEMS)[:-4]
    folder.mkdir(parents=True)
    ids = [f"p{item:02}" for item in order]
    rows = pa.table({"id": ids, "values": pa.array(items[order].tolist(), pa.list_(pa.float32()))})
    pq.write_table(rows, folder / "items.parquet")
    items[sorted(set(range(ITEMS)) - set(order.tolist()))] = np.nan
    users = {"v": random.normal(size=3).astype(np.float32), "stranger": np.zeros(3, np.float32)} if with_users else {}
    return Published(items, users)


def make_feed(
    folder: Path, events: Sequence[Event], kinds: dict[str, Any] = KINDS, with_users: bool = False, **more: Any
) -> tuple[TaskFeed, Published]:
    published = publish(folder / "published", with_users)
    tables = {"items": "read by the build"}
    negatives = {name: {**kind, **(tables if kind["kind"] == "hard" else {})} for name, kind in kinds.items()}
    feed = TaskFeed(
        folder,
        items=[
            {"id": f"p{item:02}", "post_id": f"p{item:02}", "upload": UPLOADS[item], "group": GROUPS[item],
             "positives": POSITIVES[item]}
            for item in range(ITEMS)
        ],
        tokens={"client_id": USERS, "post_id": []},
        providers={"client_id": "user"},
        events=events,
        published_items={"hard": str(folder / "published" / "items.parquet")},
        published_users={"hard": published.users} if with_users else {},
        more={"samples": {"rows_per_file": 16, "train_rows": "all", "negatives": negatives}, **more},
    )  # fmt: skip
    return feed, published


def random_events(seed: int, events: int = 160) -> list[Event]:
    random = np.random.default_rng(seed)
    hours = [at(day, hour) for day in (6, 7, 8, 9, 10) for hour in range(0, 24, 3)]
    rows = []
    while len(rows) < events:
        item, time = int(random.integers(ITEMS)), int(random.choice(hours))
        if UPLOADS[item] > time:
            continue
        fate = "test" if time >= at(10, 0) else "outside the windows" if time < at(7, 0) else "train"
        source = "feed" if fate == "test" else str(random.choice(["feed", "likes"]))
        user = str(random.choice(USERS))
        rows.append(Event(user, item, time, label=int(random.random() < 0.3), source=source, fate=fate))
    return rows


def clicked_by(feed: TaskFeed, user: str) -> list[int]:
    """Returns every positive of the training window, in order of time, that is not tested on."""
    window = [e for e in feed.events if e.user == user and e.label > 0 and at(7, 0) <= e.time < at(10, 0)]
    return [e.item for e in sorted(window, key=lambda e: e.time) if e.fate != "test"]


def ranking(feed: TaskFeed, published: Published, user: str) -> list[int]:
    """Returns the items from the first to the last rank for a user, by a plain look at all scores."""
    vector = published.users.get(user)
    if vector is None:
        known = [published.items[item] for item in clicked_by(feed, user) if not np.isnan(published.items[item, 0])]
        if not known:
            return []
        vector = np.mean(known, axis=0)
    scores = np.where(np.isnan(published.items[:, 0]), -np.inf, published.items @ vector)
    ranked = [item for item in np.argsort(-scores).tolist() if np.isfinite(scores[item])]
    return ranked[RANKS[0] - 1 : RANKS[1]]


def candidates(feed: TaskFeed, published: Published, row: dict[str, Any], name: str) -> dict[int, float]:
    """Returns what a kind draws from for a row, each with its chance: before the user's own clicks are taken out."""
    kind = feed.settings().samples.negatives[name]
    time, item = row[EVENT_TIME], int(row[ITEM_ID][1:])
    if kind.kind == "unclicked":
        shown = [e for e in feed.events if e.user == row[USER_ID] and e.label == 0 and e.time <= time and e.in_log]
        shown = [e for e in shown if e.item not in clicked_by(feed, row[USER_ID])]
        shown = [e for e in shown if not kind.sources or e.source in kind.sources]
        drawn = [e.item for e in sorted(shown, key=lambda e: (e.time, e.item, e.hash))][-kind.pool :]
        return {item: drawn.count(item) / len(drawn) for item in drawn}
    if kind.kind == "hard":
        ranked = ranking(feed, published, row[USER_ID])
        return {item: 1 / len(ranked) for item in ranked}
    weights = item_weights(kind, np.array(POSITIVES)) * (np.array(UPLOADS) <= time)
    if kind.kind == "group":
        weights *= (np.array(GROUPS) == GROUPS[item]) & (GROUPS[item] > 0)
    return {place: weights[place] / weights.sum() for place in np.flatnonzero(weights).tolist()}


@pytest.mark.parametrize("with_users", [False, True])
def test_negatives_against_a_look_at_every_candidate(tmp_path: Path, with_users: bool) -> None:
    feed, published = make_feed(tmp_path, random_events(seed=int(with_users)), with_users=with_users)
    rows = feed.run()["train"]
    seen: dict[str, set[int]] = {name: set() for name in KINDS}
    for row in rows:
        assert len(row[NEGATIVES]) == len(row[NEGATIVE_PROBABILITY]) == len(COLUMNS) == 14
        if row[LABEL] == 0:
            assert set(row[NEGATIVES]) == {-1}
            assert set(row[NEGATIVE_PROBABILITY]) == {0}
            continue
        clicked = clicked_by(feed, row[USER_ID])
        assert int(row[ITEM_ID][1:]) in clicked
        for name, item, chance in zip(COLUMNS, row[NEGATIVES], row[NEGATIVE_PROBABILITY], strict=True):
            possible = candidates(feed, published, row, name)
            allowed = [i for i in possible if i not in clicked and UPLOADS[i] <= row[EVENT_TIME]]
            assert item in (allowed or [-1]), (name, row)
            assert chance == pytest.approx(possible.get(item, 0), rel=1e-6)
            seen[name].add(item)
    # Every kind found some, and those whose candidates are few did not always.
    assert all(items - {-1} for items in seen.values())
    assert [name for name, items in seen.items() if -1 in items] != []
    assert seen["any"] - {-1} != seen["popular"]


def test_only_the_training_window_says_what_was_clicked(tmp_path: Path) -> None:
    """A click of the test window is no reason not to draw an item: it would tell the test's answer."""
    events = [Event("u", item, at(8, 1), fate="other", label=0) for item in range(ITEMS)]
    events += [Event("u", item, at(6, 1), fate="outside the windows") for item in (1, 2)]
    events += [Event("u", item, at(9, 23), fate="other") for item in range(4, ITEMS)]
    events += [Event("u", 0, at(9, 1)), Event("u", 1, at(10, 1), fate="test")]
    events += [Event("u", 2, at(9, 2), fate="test")]  # of leave_last_out
    kinds = {"any": {"kind": "uniform", "count": 20}, "shown": {"kind": "unclicked", "count": 20}}
    feed, _ = make_feed(tmp_path, events, kinds)
    (row,) = feed.run()["train"]
    # 0 and those from 4 on are clicked in the window, 3 is uploaded later.
    assert set(row[NEGATIVES][:20]) == {1, 2}
    assert set(row[NEGATIVES][20:]) == {1, 2}


def test_an_item_that_was_clicked_before_its_upload_is_no_negative(tmp_path: Path) -> None:
    """An upload is stamped a minute late: the click is no sample, and known to nothing, but it is no dislike."""
    early = Event("u", 0, at(7, 11), fate=TOO_EARLY, in_log=False)
    events = [early, Event("u", 1, at(9, 1)), Event("v", 1, at(9, 1))]
    kinds = {"any": {"kind": "uniform", "count": 200}, "hard": {"kind": "hard", "count": 1, "ranks": RANKS}}
    feed, published = make_feed(tmp_path / "with", events, kinds)
    made = feed.run()
    drawn = {row[USER_ID]: set(row[NEGATIVES][:200]) for row in made["train"]}
    assert UPLOADS[0] > early.time
    assert drawn["u"] == set(range(ITEMS)) - {0, 1, *(item for item in range(ITEMS) if UPLOADS[item] > at(9, 1))}
    assert drawn["v"] - drawn["u"] == {0}
    # Nothing else knows of it: nobody has seen the item, and the vector of what u clicked is that of item 1.
    without, _ = make_feed(tmp_path / "without", events[1:], kinds)
    others = without.run()
    assert made["interactions"] == others["interactions"]
    hard = {row[USER_ID]: row[NEGATIVES][200] for row in made["train"]}
    assert hard["u"] in ranking(without, published, "u")


def test_nothing_is_left(tmp_path: Path) -> None:
    """A user who clicked all there is, one without impressions, and one whom the previous model does not know."""
    events = [Event("u", item, at(9, 23)) for item in range(ITEMS)] + [Event("x", 23, at(9, 23))]
    feed, published = make_feed(tmp_path, events)
    rows = feed.run()["train"]
    assert np.isnan(published.items).any()
    for row in rows:
        by_kind = {name: row[NEGATIVES][COLUMNS.index(name)] for name in KINDS}
        if row[USER_ID] == "u":
            assert set(by_kind.values()) == {-1}
            assert set(row[NEGATIVE_PROBABILITY]) == {0}
        else:
            assert (by_kind["shown"], by_kind["fed"]) == (-1, -1)
            assert min(by_kind["any"], by_kind["popular"], by_kind["same"]) >= 0


def test_a_kind_whose_lists_nothing_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UniformNegatives, "from_lists", True)
    feed, _ = make_feed(tmp_path, [Event("u", 1, at(9, 1))], {"any": {"kind": "uniform"}})
    with pytest.raises(NotImplementedError, match=r"samples\.negatives\.any: nothing makes the lists of kind: uniform"):
        feed.run()


def test_an_unclicked_impression_at_the_moment_itself_counts(tmp_path: Path) -> None:
    """A list of results comes with one time: what was shown beside the click is its best negative."""
    events = [Event("u", item, at(8, 1), label=float(item == 1)) for item in (1, 2, 4)]
    events.append(Event("u", 5, at(8, 2), label=0))
    feed, _ = make_feed(tmp_path, events, {"shown": {"kind": "unclicked", "count": 30}})
    (row,) = [row for row in feed.run()["train"] if row[LABEL] > 0]
    assert set(row[NEGATIVES]) == {2, 4}


def test_the_test_set_has_no_negatives(tmp_path: Path) -> None:
    feed, _ = make_feed(tmp_path, [Event("u", 1, at(9, 1)), Event("u", 2, at(10, 1), fate="test")])
    made = feed.run()
    assert NEGATIVES in made["train"][0]
    assert NEGATIVES not in made["test"][0]


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return row[USER_ID], row[ITEM_ID], row[EVENT_TIME], row[SOURCE], row[LABEL], row[WEIGHT]


def test_neither_the_tasks_nor_the_order_of_rows_change_what_is_drawn(tmp_path: Path) -> None:
    feed, _ = make_feed(tmp_path / "one", random_events(seed=4))
    feed.run()
    other = changed(feed, tmp_path / "other")
    other.run(tasks=3, seed=1)
    assert other.files("built") == feed.files("built")


def test_another_seed_draws_others(tmp_path: Path) -> None:
    feed, _ = make_feed(tmp_path / "one", random_events(seed=4))
    rows = feed.run()["train"]
    again = {identity(row): row[NEGATIVES] for row in changed(feed, tmp_path / "same").run()["train"]}
    drawn = np.array([row[NEGATIVES] for row in rows])
    assert drawn.tolist() == [again[identity(row)] for row in rows]
    other = changed(feed, tmp_path / "other", more={**feed.more, "seed": 1}).run()["train"]
    by_row = {identity(row): row[NEGATIVES] for row in other}
    others = np.array([by_row[identity(row)] for row in rows])
    uniform = slice(0, 3)
    positive = np.array([row[LABEL] for row in rows]) > 0
    assert np.mean(drawn[positive, uniform] != others[positive, uniform]) > 0.75
    assert np.array_equal(drawn < 0, others < 0)
