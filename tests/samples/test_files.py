"""What the files' tasks make: item features as of the event, vectors, labels, files of one row group. Without Spark."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dssm.features import FIRST_TOKEN_ID
from dssm.manifest import EVENT_TIME, ITEM_ID, NEGATIVES, SOURCE, USER_ID, target_column
from tests.samples.task import Event, Snapshot, TaskFeed, at


def item_feed(folder: Path, events: list[Event], **more: Any) -> TaskFeed:
    """Items with an upload time, counters of items, and negatives of them."""
    uploads = {"p0": {}, "p1": {"upload": at(7, 6)}, "p2": {"upload": at(9, 0)}}
    config: dict[str, Any] = {
        "counters": {
            "ctr": {"side": "item", "sources": ["feed"], "days": 2, "count": "rate", "prior": 0.5, "strength": 2},
            "clicks": {"side": "item", "sources": ["feed", "likes"], "days": 1, "count": "positives"},
        },
        "features": {
            "client_id": {"kind": "SparseFeat", "side": "user"},
            "post_id": {"kind": "SparseFeat", "side": "item"},
            "item_ctr": {"kind": "DenseFeat", "side": "item", "column": "ctr"},
            "item_clicks": {"kind": "DenseFeat", "side": "item", "column": "clicks", "transform": "log1p"},
            "age": {"kind": "DenseFeat", "side": "item", "time": "days_since_upload", "null": 9},
            "log_age": {"kind": "DenseFeat", "side": "item", "time": "days_since_upload", "transform": "log1p"},
        },
    }
    return TaskFeed(
        folder,
        items=[{"id": post, "post_id": post, **given} for post, given in uploads.items()],
        tokens={"client_id": ["u"], "post_id": ["p0", "p1", "p2"]},
        providers={"client_id": "user", "post_id": "catalogue"},
        events=events,
        more={**config, **more},
    )


def column(rows: list[dict[str, Any]], name: str) -> dict[tuple[str, str, int], Any]:
    found = {(row[USER_ID], row[ITEM_ID], row[EVENT_TIME]): row[name] for row in rows}
    assert len(found) == len(rows)
    return found


def test_item_counters_are_of_whole_days_before_the_events_local_day(tmp_path: Path) -> None:
    events = [
        Event("u", 0, at(6, 23)),
        Event("u", 0, at(7, 0)),
        Event("v", 0, at(7, 1), label=0),
        Event("w", 0, at(7, 23, 59), source="likes"),
        Event("u", 0, at(8, 0)),  # sees the 6th and 7th, of all users
        Event("u", 0, at(8, 12)),
        Event("u", 0, at(9, 0)),
        Event("u", 0, at(11, 0) - 1, fate="test"),
        Event("u", 1, at(9, 0)),
    ]
    made = item_feed(tmp_path, events).run()
    rows = made["train"] + made["test"]
    ctr, clicks = column(rows, "item_ctr"), column(rows, "item_clicks")
    found = {(user, item, time): (ctr[user, item, time], clicks[user, item, time]) for user, item, time in ctr}

    def rate(positives: int, of: int) -> Any:
        return pytest.approx((positives + 0.5 * 2) / (of + 2))

    def log(count: int) -> Any:
        return pytest.approx(math.log1p(count))

    assert found == {
        ("u", "p0", at(6, 23)): (0.5, 0),
        ("u", "p0", at(7, 0)): (rate(1, 1), log(1)),
        ("v", "p0", at(7, 1)): (rate(1, 1), log(1)),
        ("w", "p0", at(7, 23, 59)): (rate(1, 1), log(1)),  # nothing of the 7th, though it is nearly over
        ("u", "p0", at(8, 0)): (rate(2, 3), log(2)),
        ("u", "p0", at(8, 12)): (rate(2, 3), log(2)),
        ("u", "p0", at(9, 0)): (rate(3, 4), log(2)),
        ("u", "p0", at(11, 0) - 1): (rate(3, 3), log(1)),
        ("u", "p1", at(9, 0)): (0.5, 0),
    }


def test_days_since_upload(tmp_path: Path) -> None:
    events = [
        Event("u", 0, at(7, 12)),
        Event("u", 1, at(7, 12)),
        Event("u", 1, at(9, 6), fate="train"),
        Event("u", 1, at(7, 5)),  # of a source with check_upload: false
        Event("u", 2, at(10, 0), fate="test"),
    ]
    made = item_feed(tmp_path, events).run()
    ages = column(made["train"] + made["test"], "age")
    assert {key[1:]: age for key, age in ages.items()} == {
        ("p0", at(7, 12)): 9,  # it was always there: null
        ("p1", at(7, 12)): 0.25,
        ("p1", at(9, 6)): 2,
        ("p1", at(7, 5)): 0,
        ("p2", at(10, 0)): 1,
    }
    logs = column(made["train"], "log_age")
    assert logs["u", "p1", at(9, 6)] == pytest.approx(math.log1p(2))
    assert logs["u", "p0", at(7, 12)] == 0


def test_negatives_have_the_values_of_the_positives_time(tmp_path: Path) -> None:
    """The same item has another age and another rate beside each positive."""
    events = [
        Event("v", 1, at(7, 8), label=0),
        Event("v", 1, at(8, 8)),
        Event("v", 0, at(8, 9), label=0),
        Event("u", 0, at(8, 18)),
        Event("u", 0, at(9, 18)),
        Event("w", 1, at(7, 7)),
    ]
    samples = {"rows_per_file": 4, "train_rows": "all", "negatives": {"any": {"kind": "uniform", "count": 3}}}
    feed = item_feed(tmp_path, events, samples=samples)
    made = feed.run()
    drawn = column(made["train"], NEGATIVES)
    assert all(set(items) == {-1} for (user, _, _), items in drawn.items() if (user, _) == ("v", "p0"))
    first, second = ("u", "p0", at(8, 18)), ("u", "p0", at(9, 18))
    assert set(drawn[first]) == {1}  # p0 is clicked, p2 not yet uploaded
    assert set(drawn[second]) <= {1, 2}
    ages, ctr = column(made["train"], "age__negatives"), column(made["train"], "item_ctr__negatives")
    clicks = column(made["train"], "item_clicks__negatives")
    assert ages[first] == [1.5] * 3
    assert ctr[first] == [pytest.approx((1 + 1) / (2 + 2))] * 3
    assert clicks[first] == [pytest.approx(math.log1p(1))] * 3
    expected = {1: (2.5, (2 + 1) / (3 + 2), math.log1p(1)), 2: (0.75, 0.5, 0)}
    assert list(zip(ages[second], ctr[second], clicks[second], strict=True)) == [
        tuple(pytest.approx(value) for value in expected[item]) for item in drawn[second]
    ]
    # No negative: what the features say of an item that is not there.
    nothing = ("v", "p0", at(8, 9))
    assert (ages[nothing], ctr[nothing], clicks[nothing]) == ([9] * 3, [0.5] * 3, [0] * 3)


# Labels --------------------------------------------------------------------------------------------------


def test_targets_travel_beside_the_label(tmp_path: Path) -> None:
    sources = {
        "feed": {
            "path": "feed", "user": "u", "item": "i", "time": "t", "targets": {"watch": "watch / 30", "like": "liked"},
        },
        "likes": {"path": "likes", "user": "u", "item": "i", "time": "t", "targets": {"share": "1"}},
    }  # fmt: skip
    events = [
        Event("u", 0, at(7, 10), targets={"watch": 0.25, "like": 1}),
        Event("u", 1, at(7, 11), source="likes", targets={"share": 1}),
        Event("u", 0, at(10, 1), fate="test", targets={"watch": 0}),
    ]
    made = item_feed(tmp_path, events, sources=sources).run()
    rows = {row[EVENT_TIME]: row for row in made["train"] + made["test"]}
    nan = pytest.approx(math.nan, nan_ok=True)
    assert [[row[target_column(name)] for name in ("watch", "like", "share")] for _, row in sorted(rows.items())] == [
        [0.25, 1, nan], [nan, nan, 1], [0, nan, nan],
    ]  # fmt: skip
    assert [rows[time][SOURCE] for time in sorted(rows)] == ["feed", "likes", "feed"]


# Vectors -------------------------------------------------------------------------------------------------

VECTORS = {"p0": [1.0, 0.0], "gone": [0.0, 8.0], "p2": [3.0, 3.0]}


def vector_feed(folder: Path, storage: str) -> TaskFeed:
    embed = {"kind": "DenseFeat", "pre_embed": "post"}
    features = {
        "clicked": {**embed, "side": "user", "column": "clicks", "reduce_type": "mean", "maxlen": 2},
        "read": {**embed, "side": "user", "reduce_type": "sum", "maxlen": 3},
        "best": {**embed, "side": "user"},
        "post_id": {"kind": "SparseFeat", "side": "item"},
        "post_embed": {**embed, "side": "item", "column": "post_id"},
    }
    events = [Event("u", item, at(7, 10 + hour)) for hour, item in enumerate([0, 1, 2, 0])]
    return TaskFeed(
        folder,
        items=[{"id": post, "post_id": post} for post in ("p0", "p1", "p2")],
        tokens={"post_id": ["p0", "p1", "p2"]},
        providers={"clicks": "history", "read": "profiles.clients", "best": "profiles.clients"},
        events=[*events, Event("v", 1, at(7, 10))],
        snapshots=[Snapshot("clients", "u", {"read": "p2,none,gone,p0,p0", "best": "p2"})],
        vectors={"post": VECTORS},
        more={
            "profiles": {"clients": {"path": "clients", "key": "id"}},
            "histories": {"clicks": {"sources": ["feed"], "last": 4, "then": "read"}},
            "vectors": {"post": {"path": "vectors", "width": 2, "storage": storage}},
            "features": features,
        },
    )


def test_vectors_inline(tmp_path: Path) -> None:
    rows = vector_feed(tmp_path, "inline").run()["train"]
    clicked, read = column(rows, "clicked"), column(rows, "read")
    own = [("u", "p0", at(7, 10)), ("u", "p1", at(7, 11)), ("u", "p2", at(7, 12)), ("u", "p0", at(7, 13))]
    # The newest two with a vector, of the log's clicks, then of the older list.
    p0, gone, p2 = (np.array(VECTORS[post]) for post in ("p0", "gone", "p2"))
    means = [(p2 + gone) / 2, (p0 + p2) / 2, (p0 + p2) / 2, (p2 + p0) / 2]
    np.testing.assert_allclose([clicked[key] for key in own], means)
    np.testing.assert_allclose([read[key] for key in own], [p2 + gone + p0] * 4)
    assert [column(rows, "best")[key] for key in own] == [[3, 3]] * 4
    assert [column(rows, "post_embed")[key] for key in own] == [[1, 0], [0, 0], [3, 3], [1, 0]]
    stranger = ("v", "p1", at(7, 10))
    assert [column(rows, name)[stranger] for name in ("clicked", "read", "best")] == [[0, 0]] * 3


def test_row_numbers_of_a_table_stand_for_the_same_vectors(tmp_path: Path) -> None:
    inline = dict(column_rows(vector_feed(tmp_path / "inline", "inline").run()["train"]))
    rows = dict(column_rows(vector_feed(tmp_path / "table", "table").run()["train"]))
    matrix = np.array([[0, 0], *VECTORS.values()])  # 0: none; the others in the order of the file
    assert rows.keys() == inline.keys()
    assert rows["u", at(7, 11)]["clicked"] == [1, 3]
    assert rows["u", at(7, 11)]["read"] == [3, 2, 1]
    assert rows["v", at(7, 10)]["read"] == [0, 0, 0]
    for key, row in rows.items():
        for name in ("best", "post_embed"):
            assert matrix[row[name]].tolist() == inline[key][name]
        assert matrix[row["read"]].sum(axis=0).tolist() == inline[key]["read"]
        found = np.array(row["clicked"])
        np.testing.assert_allclose(matrix[found].sum(axis=0) / max((found > 0).sum(), 1), inline[key]["clicked"])


def column_rows(rows: list[dict[str, Any]]) -> list[tuple[tuple[str, int], dict[str, Any]]]:
    return [((row[USER_ID], row[EVENT_TIME]), row) for row in rows]


# Files ---------------------------------------------------------------------------------------------------


def test_rows_are_spread_over_files_of_one_row_group(tmp_path: Path) -> None:
    events = [Event(f"u{number}", number % 3, at(9, 1) + number) for number in range(400)]
    feed = item_feed(tmp_path, events, samples={"rows_per_file": 40, "train_rows": "all"})
    feed.run()
    footers = [pq.ParquetFile(path).metadata for path in sorted((tmp_path / "built" / "train").glob("*"))]
    assert [footer.num_row_groups for footer in footers] == [1] * 10
    sizes = [footer.num_rows for footer in footers]
    assert sum(sizes) == 400
    # By chance: binomial with mean 40 and deviation 6.
    assert min(sizes) > 40 - 5 * 6
    assert max(sizes) < 40 + 5 * 6


def test_rows_are_shuffled_over_the_whole_dataset(tmp_path: Path) -> None:
    """The time of a row says nothing of its place."""
    events = [Event(f"u{number // 8}", number % 3, at(7, 1) + number * 60_000) for number in range(800)]
    rows = item_feed(tmp_path, events, samples={"rows_per_file": 100, "train_rows": "all"}).run()["train"]
    times = [row[EVENT_TIME] for row in rows]
    assert abs(np.corrcoef(np.arange(800), times)[0, 1]) < 4 / math.sqrt(800)
    users = [row[USER_ID] for row in rows]
    beside = np.mean([a == b for a, b in pairwise(users)])
    assert beside < 0.05  # 7 of 799 others are of the same user


def test_ids_of_posts_are_those_of_the_vocabulary(tmp_path: Path) -> None:
    made = item_feed(tmp_path, [Event("u", 2, at(9, 1)), Event("v", 0, at(9, 2))]).run()
    assert {row[ITEM_ID]: row["post_id"] for row in made["train"]} == {"p0": FIRST_TOKEN_ID, "p2": FIRST_TOKEN_ID + 2}
