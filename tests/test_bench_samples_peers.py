from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.samples import duckdb_peer, numpy_peer, pandas_peer, spark_alone
from benchmarks.samples.arrays import (
    drawn_negatives,
    encoded_column,
    encoded_lists,
    histories,
    history_bounds,
    ids_by_frequency,
    packed,
)
from benchmarks.samples.feed import EVENTS, ITEMS, USER_STEP, FeedSpec, made_feed
from benchmarks.samples.task import HISTORY, SPLIT_MS
from tests.kuairand import write_kuairand

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow

EXACT = ["row_user", "row_item", "row_time", "row_label", "row_weight", "register_days", "video_duration"]


@pytest.fixture
def kuairand(tmp_path: Path) -> Path:
    return write_kuairand(tmp_path / "kuairand")


# NumPy -------------------------------------------------------------------------------------------------

user_time_click = st.tuples(st.integers(0, 3), st.integers(0, 6), st.booleans())


def last_clicks(rows: list[tuple[int, int, bool]], item: np.ndarray, row: int, last: int) -> list[int]:
    """Items of the row's user at earlier times, newest first; rows are sorted by user and time."""
    user, time_ms, _ = rows[row]
    before = [item[n] for n, (u, t, click) in enumerate(rows) if click and u == user and t < time_ms]
    return [int(n) for n in before[::-1][:last]]


@given(st.lists(user_time_click, min_size=1), st.integers(1, 4))
def test_a_history_holds_the_last_clicks_strictly_before(rows: list[tuple[int, int, bool]], last: int) -> None:
    rows = sorted(rows, key=lambda row: row[:2])
    user, time_ms, click = (np.array(column) for column in zip(*rows, strict=True))
    item = np.arange(len(rows)) + 2
    found = histories(item[click], *history_bounds(user, time_ms, click, last), last)

    for row, history in enumerate(found):
        newest = last_clicks(rows, item, row, last)
        assert history.tolist() == newest + [0] * (last - len(newest))


def test_tokens_are_numbered_by_frequency_and_rare_and_null_ones_are_unknown() -> None:
    assert ids_by_frequency(np.array([5, 9, 1, 5]), min_count=2).tolist() == [3, 2, 1, 4]
    column = pd.Series(["a", None, "b", "a", "c"])

    assert encoded_column(column, np.array([1, 9, 5, 2, 0])).tolist() == [3, 1, 2, 3, 1]


def test_lists_are_cut_and_padded() -> None:
    found = encoded_lists(pd.Series(["39,43,1", None, "43", "7"]), np.array([1, 5, 2, 0]), kept=2)

    assert found.tolist() == [[3, 2], [0, 0], [2, 0], [1, 0]]


def test_negatives_follow_popularity_and_are_never_positives_of_the_user() -> None:
    rng = np.random.default_rng(1)
    clicks = np.array([16, 81, 1, 0])  # of items 0…3; ^0.75: 8, 27, 1 and none
    item = np.concatenate([np.repeat(np.arange(4), clicks), np.full(400, 1)])
    positive = np.arange(len(item)) < clicks.sum()
    user = np.arange(len(item))
    drawn, chances = drawn_negatives(user, item, positive, 4, rng)

    assert (drawn[~positive] == -1).all()
    assert (chances[~positive] == 0).all()
    assert (drawn[positive] != item[positive, None]).all()
    assert np.unique(chances[drawn >= 0]).tolist() == pytest.approx([1 / 36, 8 / 36, 27 / 36])


def test_negatives_are_drawn_in_proportion_to_popularity_to_the_power_of_three_quarters() -> None:
    item = np.repeat([0, 1, 2], [16_000, 81_000, 1_000])  # ^0.75: 8, 27, 1
    drawn, _ = drawn_negatives(np.arange(len(item)), item, np.ones(len(item), bool), 4, np.random.default_rng(1))
    of_rarest = np.bincount(drawn[item == 2].ravel(), minlength=4)

    assert of_rarest[2:].tolist() == [0, 0]
    assert of_rarest[0] / of_rarest[1] == pytest.approx(8 / 27, rel=0.1)


def test_a_user_with_a_click_on_every_item_gets_no_negative() -> None:
    drawn, chances = drawn_negatives(np.zeros(2), np.arange(2), np.ones(2, bool), 2, np.random.default_rng(0))

    assert drawn.tolist() == [[-1] * 4] * 2
    assert chances.tolist() == [[0] * 4] * 2


def test_a_matrix_is_packed_row_by_row() -> None:
    matrix = np.arange(6, dtype=np.int32).reshape(3, 2)

    assert [np.frombuffer(row, np.int32).tolist() for row in packed(matrix).to_pylist()] == matrix.tolist()


# pandas ------------------------------------------------------------------------------------------------


@given(st.lists(user_time_click, min_size=1))
def test_a_history_of_lists_holds_the_last_clicks_strictly_before(rows: list[tuple[int, int, bool]]) -> None:
    rows = sorted(rows, key=lambda row: row[:2])
    frame = pd.DataFrame(rows, columns=["row_user", "row_time", "row_label"])
    frame["video_id"] = np.arange(len(rows), dtype="int32") + 2
    by_time = frame.sort_values("row_time", kind="stable", ignore_index=True)
    by_time["clicks"] = pandas_peer.histories(by_time)

    item = frame["video_id"].to_numpy()
    found = [list(history) for history in by_time.sort_values("video_id")["clicks"]]
    assert found == [last_clicks(rows, item, n, HISTORY) for n in range(len(rows))]


def test_a_history_ends_after_fifty_clicks() -> None:
    rows = pd.DataFrame({"row_user": 7, "row_time": np.arange(60), "row_label": 1.0})
    rows["video_id"] = np.arange(60, dtype="int32") + 2
    found = pandas_peer.histories(rows)

    assert list(found[59]) == list(range(60, 10, -1))
    assert list(found[1]) == [2]


def test_a_tables_tokens_are_numbered_by_frequency_and_rare_and_null_ones_are_unknown() -> None:
    column, rows = pd.Series(["a", None, "b", "a", "c"]), pd.Series([1, 9, 5, 2, 0])

    assert pandas_peer.encoded(column, rows).tolist() == [3, 1, 2, 3, 1]
    assert pandas_peer.encoded(column, rows, min_count=4).tolist() == [1, 1, 2, 1, 1]


def test_tags_are_lists_of_their_own_length_cut_after_three() -> None:
    found = pandas_peer.encoded_tags(pd.Series(["39,43,1,7", None, "43", "39"]), pd.Series([1, 5, 3, 5]))

    assert [list(ids) for ids in found] == [[2, 3, 4], [], [3], [2]]


def test_negatives_in_lists_follow_popularity_and_are_never_positives_of_the_user() -> None:
    item = np.repeat([0, 1, 2], [1_600, 8_100, 100])  # ^0.75: 8 to 27 to 1
    rows = pd.DataFrame({"row_user": np.arange(len(item)), "item": item, "row_label": 1.0, "row_time": SPLIT_MS - 1})
    others = pd.DataFrame({"row_user": 0, "item": 3, "row_label": [0.0, 1.0], "row_time": [SPLIT_MS - 1, SPLIT_MS]})
    made = pandas_peer.negatives(pd.concat([rows, others], ignore_index=True), 4, np.random.default_rng(1))
    drawn, chances = (np.concatenate(column.to_numpy()[: len(item)]) for column in made)
    counts = np.array([len(items) for items in made[0]])
    positive = np.repeat(item, counts[: len(item)])
    of_rarest = np.bincount(drawn[positive == 2], minlength=4)
    weights = np.array([1_600, 8_100, 100, 0]) ** 0.75

    assert (counts[: len(item)][item == 2] == 4).all()
    assert 3.9 < counts[: len(item)].mean() <= counts.max() == 4  # 20 draws of the same item leave a place empty
    assert counts[len(item) :].tolist() == [0, 0]
    assert (drawn != positive).all()
    assert np.allclose(chances, (weights / weights.sum())[drawn])
    assert of_rarest[0] / of_rarest[1] == pytest.approx(8 / 27, rel=0.3)


# All ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clicks_only", [True, False])
def test_the_peers_agree(kuairand: Path, tmp_path: Path, clicks_only: bool) -> None:
    feed = made_feed(kuairand, tmp_path, FeedSpec(1_500))
    frames = []
    for peer in (numpy_peer, pandas_peer, duckdb_peer):
        out = tmp_path / f"{peer.__name__}.parquet"
        rows = peer.build(feed, out, clicks_only)
        frame = pq.read_table(out).to_pandas()
        assert rows == (frame["row_time"] < SPLIT_MS).sum()
        frames.append(frame.sort_values(["row_user", "row_time", "row_item", "row_label"], ignore_index=True))
    packed, lists, _ = frames
    for name in ("clicks", "tag", "row_negatives"):
        packed[name] = [
            [n for n in np.frombuffer(row, np.int32) if n > 0 or name == "row_negatives"] for row in packed[name]
        ]
    items = pq.read_table(feed / ITEMS).to_pandas()["video_id"]
    trains = (packed["row_label"] > 0) & (packed["row_time"] < SPLIT_MS)
    clicked = packed[trains].groupby("row_user")["row_item"].agg(set)

    assert lists.columns.sort_values().equals(packed.columns.sort_values())
    assert history_items(packed) == history_items(lists)
    for frame in frames:
        pd.testing.assert_frame_equal(packed[EXACT], frame[EXACT], check_dtype=False)
        assert np.allclose(packed["row_item_probability"], frame["row_item_probability"])
        assert without_ties(packed) == without_ties(frame)
        assert same_partition(packed["user_active_degree"], frame["user_active_degree"])
        assert same_partition(packed["author_id"], frame["author_id"])
        assert same_partition(packed["tag"].map(tuple), frame["tag"].map(tuple))
        drawn = frame[trains].apply(lambda row: {items[n] for n in row["row_negatives"] if n >= 0}, axis=1)
        assert sum(map(len, drawn)) > 0
        assert not any(found & clicked[user] for user, found in zip(frame["row_user"][trains], drawn, strict=True))


@pytest.mark.spark
@pytest.mark.parametrize("clicks_only", [True, False])
def test_spark_alone_sends_each_row_to_its_user_once(
    spark: SparkSession, kuairand: Path, tmp_path: Path, clicks_only: bool
) -> None:
    feed = made_feed(kuairand, tmp_path, FeedSpec(1_500))
    count = spark_alone.count_and_send(spark, feed, tmp_path / "out", clicks_only)
    log = pq.read_table(feed / EVENTS, columns=["user_id", "video_id", "time_ms", "is_click"]).to_pandas()
    log = log[log["is_click"] == 1] if clicks_only else log
    files = [pq.read_table(path).to_pandas() for path in (tmp_path / "out").iterdir()]
    sent, columns = pd.concat(files), list(log.columns)

    assert count == (log["time_ms"] < SPLIT_MS).sum()
    assert sent.sort_values(columns).to_numpy().tolist() == log.sort_values(columns).to_numpy().tolist()
    assert sum(file["user_id"].nunique() for file in files) == log["user_id"].nunique()


def history_items(frame: pd.DataFrame) -> list[list[int]]:
    """Returns the histories as item ids; −1 is an unknown item."""
    known = frame[frame["video_id"] > 1]
    item = dict(zip(known["video_id"], known["row_item"], strict=True))
    found = [[int(item.get(n, -1)) for n in history] for history in frame["clicks"]]
    assert max(map(len, found)) == 50
    return found


def without_ties(frame: pd.DataFrame) -> list[list[int]]:
    """Returns the histories in order for the users whose clicks have distinct times, else sorted."""
    pairs = zip(frame["row_user"], history_items(frame), strict=True)
    return [items if user % USER_STEP == 0 else sorted(items) for user, items in pairs]


def same_partition(one: pd.Series, other: pd.Series) -> bool:
    """Whether two encodings say the same, up to the numbers of tokens that are equally frequent."""
    pairs = set(zip(one, other, strict=True))
    return len(pairs) == one.nunique() == other.nunique() and one.nunique() > 1
