from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.samples import __main__ as bench
from benchmarks.samples import duckdb_peer, pandas_peer
from benchmarks.samples.arrays import (
    drawn_negatives,
    encoded_column,
    encoded_lists,
    histories,
    history_bounds,
    ids_by_frequency,
    packed,
)
from benchmarks.samples.feed import EVENTS, ITEM_STEP, ITEMS, USER_STEP, USERS, FeedSpec, made_feed, replicated
from benchmarks.samples.measured import measured
from benchmarks.samples.pipeline import seconds_in_session, write_settings
from benchmarks.samples.stages import Stage, slowest, stages
from benchmarks.samples.task import ALL, POSITIVES, SPLIT_MS
from dssm.config import load_settings


def a_log(rows: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user_id": rng.integers(0, 9, rows),
            "video_id": rng.integers(0, 30, rows),
            "time_ms": np.sort(SPLIT_MS + rng.integers(-10_000_000, 1_000_000, rows)),
            "is_click": rng.integers(0, 2, rows),
            "long_view": 0,
        }
    )


@pytest.fixture
def kuairand(tmp_path: Path) -> Path:
    """A folder with files of KuaiRand's columns: user 0 clicks 80 times at distinct times, the others meet ties."""
    folder = tmp_path / "kuairand"
    folder.mkdir()
    log = a_log(300)
    log["time_ms"] = log["time_ms"] // 2_000_000 * 2_000_000
    log["user_id"] += 1
    heavy = pd.DataFrame({"user_id": 0, "video_id": np.arange(80) * 7 % 30, "is_click": 1, "long_view": 0})
    heavy["time_ms"] = SPLIT_MS - 9_000_000 + 1_000 * np.arange(80)
    pd.concat([log, heavy]).sort_values("time_ms").to_csv(folder / "events.csv.gz", index=False)
    texts = {name: ["a", None, "b"] * 4 for name in bench_user_columns()}
    pd.DataFrame({"user_id": range(12), "register_days": range(12), **texts}).to_csv(
        folder / "users.csv.gz", index=False
    )
    pd.DataFrame(
        {
            "video_id": range(30),
            "author_id": np.arange(30) // 3,
            "upload_type": ["Web", "Kmovie", None] * 10,
            "music_type": [9.0, None, 4.0] * 10,
            "video_duration": [1000.0, None, 5000.0] * 10,
            "tag": ["39", "2,1,39,7", None] * 10,
        }
    ).to_csv(folder / "videos.csv", index=False)
    return folder


def bench_user_columns() -> tuple[str, ...]:
    return ("user_active_degree", "follow_user_num_range", "fans_user_num_range", "register_days_range")


# The feed ----------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 200), st.integers(1, 5))
def test_a_feed_has_as_many_events_as_asked_for_whatever_the_stretches(rows: int, total: int, stretches: int) -> None:
    log = a_log(rows)
    edges = np.linspace(0, rows, stretches + 1).astype(int)
    made = [replicated(log, begin, end, total) for begin, end in itertools.pairwise(edges)]

    assert sum(map(len, made)) == total
    assert all(part["time_ms"].is_monotonic_increasing for part in made)


def test_each_copy_has_its_own_users_and_four_copies_share_their_items() -> None:
    log = a_log(50)
    made = replicated(log, 0, 50, 50 * 6)
    copy = made["user_id"] // USER_STEP

    assert Counter(copy) == dict.fromkeys(range(6), 50)
    assert (made["video_id"] // ITEM_STEP == copy // 4).all()
    for number, events in made.groupby(copy):
        assert (np.sort(events["time_ms"]) == log["time_ms"] + number * 7_919).all()
        assert Counter(events["user_id"] % USER_STEP) == Counter(log["user_id"])


def test_in_a_skewed_feed_one_user_and_one_item_have_a_hundredth_of_the_events_each(
    kuairand: Path, tmp_path: Path
) -> None:
    even, skewed = (
        pq.read_table(made_feed(kuairand, tmp_path, FeedSpec(20_000, skew)) / EVENTS).to_pandas()
        for skew in (False, True)
    )
    more = {
        column: int(Counter(skewed[column]).most_common(1)[0][1]) - int((even[column] == even[column].iloc[0]).sum())
        for column in ("user_id", "video_id")
    }

    assert len(skewed) == 20_000
    assert more == {"user_id": pytest.approx(200, abs=10), "video_id": pytest.approx(200, abs=20)}


def test_a_feed_is_made_once_and_its_profiles_and_items_hold_all_ids(kuairand: Path, tmp_path: Path) -> None:
    folder = made_feed(kuairand, tmp_path, FeedSpec(2_000))
    events = pq.read_table(folder / EVENTS).to_pandas()
    users, items = (pq.read_table(folder / name).to_pandas() for name in (USERS, ITEMS))
    (folder / "mark").touch()

    assert set(events["user_id"]) <= set(users["user_id"])
    assert set(events["video_id"]) <= set(items["video_id"])
    assert (len(users), len(items)) == (6 * 12, 2 * 30)
    assert users["user_id"].is_unique
    assert items["video_id"].is_unique
    assert (made_feed(kuairand, tmp_path, FeedSpec(2_000)) / "mark").exists()


# The peers ---------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.booleans()), min_size=1), st.integers(1, 4))
def test_a_history_holds_the_last_clicks_strictly_before(rows: list[tuple[int, int, bool]], last: int) -> None:
    rows = sorted(rows, key=lambda row: row[:2])
    user, time_ms, click = (np.array(column) for column in zip(*rows, strict=True))
    item = np.arange(len(rows)) + 2
    found = histories(item[click], *history_bounds(user, time_ms, click, last), last)

    for row, history in enumerate(found):
        before = [item[n] for n in range(len(rows)) if click[n] and user[n] == user[row] and time_ms[n] < time_ms[row]]
        newest = before[::-1][:last]
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


@pytest.mark.parametrize("clicks_only", [True, False])
def test_the_peers_agree(kuairand: Path, tmp_path: Path, clicks_only: bool) -> None:
    feed = made_feed(kuairand, tmp_path, FeedSpec(1_500))
    frames = {}
    for peer in (pandas_peer, duckdb_peer):
        out = tmp_path / f"{peer.__name__}.parquet"
        rows = peer.build(feed, out, clicks_only)
        frame = pq.read_table(out).to_pandas()
        assert rows == (frame["row_time"] < SPLIT_MS).sum()
        frames[peer] = frame.sort_values(["row_user", "row_time", "row_item", "row_label"], ignore_index=True)
    ours, theirs = frames[pandas_peer], frames[duckdb_peer]
    for name in ("clicks", "tag", "row_negatives"):
        ours[name] = [
            [n for n in np.frombuffer(row, np.int32) if n > 0 or name == "row_negatives"] for row in ours[name]
        ]
    exact = ["row_user", "row_item", "row_time", "row_label", "row_weight", "register_days", "video_duration"]

    pd.testing.assert_frame_equal(ours[exact], theirs[exact], check_dtype=False)
    assert np.allclose(ours["row_item_probability"], theirs["row_item_probability"])
    assert decoded(ours) == decoded(theirs)
    assert same_partition(ours["user_active_degree"], theirs["user_active_degree"])
    assert same_partition(ours["author_id"], theirs["author_id"])
    assert same_partition(ours["tag"].map(tuple), theirs["tag"].map(tuple))
    trains = (ours["row_label"] > 0) & (ours["row_time"] < SPLIT_MS)
    clicked = ours[trains].groupby("row_user")["row_item"].agg(set)
    items = pq.read_table(feed / ITEMS).to_pandas()["video_id"]
    for frame in (ours, theirs):
        drawn = frame[trains].apply(lambda row: {items[n] for n in row["row_negatives"] if n >= 0}, axis=1)
        assert sum(map(len, drawn)) > 0
        assert not any(found & clicked[user] for user, found in zip(frame["row_user"][trains], drawn, strict=True))


def decoded(frame: pd.DataFrame) -> list[list[int]]:
    """Returns the histories as item ids: in order for the users without ties, else sorted; 1 is an unknown item."""
    known = frame[frame["video_id"] > 1]
    item = dict(zip(known["video_id"], known["row_item"], strict=True))
    found = []
    for user, history in zip(frame["row_user"], frame["clicks"], strict=True):
        items = [int(item.get(n, -1)) for n in history]
        found.append(items if user % USER_STEP == 0 else sorted(items))
    assert max(map(len, found)) == 50
    return found


def same_partition(one: pd.Series, other: pd.Series) -> bool:
    """Whether two encodings say the same, up to the numbers of tokens that are equally frequent."""
    pairs = set(zip(one, other, strict=True))
    return len(pairs) == one.nunique() == other.nunique() and one.nunique() > 1


# This project's side -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [POSITIVES, ALL])
def test_the_settings_of_the_run_are_valid(tmp_path: Path, rows: str) -> None:
    found = load_settings(str(write_settings(tmp_path / "feed", tmp_path / "work", rows)))

    assert found.samples.train_rows == rows
    assert found.histories["clicks"].last == 50
    assert found.samples.negatives["popular"].count == 4
    assert found.day_start_ms(0) == SPLIT_MS
    assert found.spark.conf["spark.eventLog.enabled"] == "true"
    assert (tmp_path / "work" / "log").is_dir()


@pytest.mark.parametrize(("seconds", "expected"), [("46", 46.0), ("46.3", 46.3)])
def test_the_seconds_of_the_job_are_read(seconds: str, expected: float) -> None:
    line = f"✓ users 1.0 s\nbuild_samples: {seconds} s, largest process 1.20 GiB (java)\n"

    assert seconds_in_session(line) == expected
    with pytest.raises(RuntimeError, match="no seconds"):
        seconds_in_session("build_samples bench 2022-05-08")


def a_task(stage: int, begin: int, end: int, reason: str = "Success") -> str:
    info = {"Launch Time": begin, "Finish Time": end}
    event = {"Event": "SparkListenerTaskEnd", "Stage ID": stage, "Task End Reason": {"Reason": reason}}
    return json.dumps(event | {"Task Info": info})


def test_stages_of_an_event_log() -> None:
    log = [
        json.dumps({"Event": "SparkListenerApplicationStart"}),
        a_task(3, 1_000, 2_000),
        a_task(3, 1_000, 9_000, reason="ExceptionFailure"),
        a_task(3, 2_000, 4_000),
        a_task(3, 2_000, 8_000),
        a_task(1, 5, 5),
        json.dumps(
            {"Event": "SparkListenerStageCompleted", "Stage Info": {"Stage ID": 3, "Stage Name": "count at x.py:1"}}
        ),
    ]
    found = stages(log)

    assert found == [Stage(1, "", (0.001,)), Stage(3, "count at x.py:1", (1.0, 2.0, 6.0))]
    assert (found[1].median_s, found[1].longest_s, found[1].straggling) == (2.0, 6.0, 3.0)
    assert slowest([*found, Stage(4, "", (1.0, 9.0))], 1) == [Stage(4, "", (1.0, 9.0))]
    assert slowest(found, 9) == [found[1]]


# The measure -------------------------------------------------------------------------------------------


def test_memory_and_time_are_those_of_the_whole_process_tree(tmp_path: Path) -> None:
    hold = "held = b'x' * (100 << 20); import time; time.sleep(1.2)"
    both = f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {hold!r}]); {hold}; child.wait()"
    found = measured([sys.executable, "-c", f"{both}; print('done')"], tmp_path)

    assert found.output == "done\n"
    assert found.wall_s > 1.2
    assert 200 << 20 < found.peak_bytes < 300 << 20
    assert 100 << 20 < found.largest_bytes < 160 << 20
    assert found.largest_name.startswith("python")


def test_the_variables_are_set_and_a_failure_shows_its_output(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os, sys; print(os.environ['GREETING']); sys.exit(3)"]

    with pytest.raises(RuntimeError, match=r"exit code 3\nhello"):
        measured(command, tmp_path, {"GREETING": "hello"})


# The figures -------------------------------------------------------------------------------------------


def a_run(seconds: float, peak: int, largest: int = 1, events: int = 5_000_000, train_rows: int = 7) -> bench.Run:
    return bench.Run("side", events, train_rows, seconds, 2.0, 9.0, peak, largest, "java")


def test_the_fastest_round_counts_with_the_largest_memory() -> None:
    assert bench.best([a_run(3.0, 10, 5), a_run(2.0, 8, 7)]) == a_run(2.0, 10, 7)


def test_ratios_are_of_the_runs_that_were_made() -> None:
    runs = {bench.OURS: a_run(20, 2), bench.PANDAS: a_run(10, 8), bench.SKEWED: a_run(25, 2)}
    growth = {bench.FIFTH: a_run(4, 2, events=1_000_000), bench.TWICE: a_run(36, 2, events=10_000_000)}

    assert bench.ratios(runs) == {"vs_pandas": 0.5, "memory_vs_pandas": 0.25, "skewed_vs_even": 1.25}
    assert bench.ratios(growth) == {"growth_1m_to_10m": 9.0}
    assert bench.ratios({bench.OURS: a_run(20, 2)}) == {}


def test_sides_that_made_other_rows_are_not_compared() -> None:
    bench.check_same_work({bench.OURS: a_run(1, 1), bench.DUCKDB: a_run(2, 1), bench.SKEWED: a_run(2, 1, train_rows=8)})
    with pytest.raises(RuntimeError, match="training rows"):
        bench.check_same_work({bench.OURS: a_run(1, 1), bench.PANDAS: a_run(2, 1, train_rows=8)})


def test_without_the_data_one_line_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["--data", "/nowhere"])

    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "bench-samples: '/nowhere' holds no events.csv.gz; name the folder with KuaiRand: --data, or DATA=folder.\n"
    )
