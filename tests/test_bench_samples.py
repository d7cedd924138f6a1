from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.samples import __main__ as bench
from benchmarks.samples.feed import EVENTS, ITEM_STEP, ITEMS, USER_STEP, USERS, FeedSpec, made_feed, replicated
from benchmarks.samples.measured import measured
from benchmarks.samples.pipeline import seconds_in_session, write_settings
from benchmarks.samples.stages import Stage, slowest, stages
from benchmarks.samples.task import ALL, POSITIVES, SPLIT_MS
from dssm.config import load_settings
from tests.kuairand import a_log, write_kuairand


@pytest.fixture
def kuairand(tmp_path: Path) -> Path:
    return write_kuairand(tmp_path / "kuairand")


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


@pytest.mark.slow
def test_memory_and_time_are_those_of_the_whole_process_tree(tmp_path: Path) -> None:
    hold = "held = b'x' * (100 << 20); import time; time.sleep(4)"
    both = f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {hold!r}]); {hold}; child.wait()"
    found = measured([sys.executable, "-c", f"{both}; print('done')"], tmp_path)

    assert found.output == "done\n"
    assert found.wall_s > 4
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
    runs |= {bench.NUMPY: a_run(5, 1), bench.SPARK: a_run(16, 4)}
    growth = {bench.FIFTH: a_run(4, 2, events=1_000_000), bench.TWICE: a_run(36, 2, events=10_000_000)}

    assert bench.ratios(runs) == {
        "vs_pandas": 0.5,
        "memory_vs_pandas": 0.25,
        "vs_numpy": 0.25,
        "memory_vs_numpy": 2.0,
        "vs_spark_alone": 0.8,
        "memory_vs_spark_alone": 0.5,
        "spark_alone_vs_pandas": 0.625,
        "memory_spark_alone_vs_pandas": 0.5,
        "skewed_vs_even": 1.25,
    }
    assert bench.ratios(growth) == {"growth_1m_to_10m": 9.0}
    assert bench.ratios({bench.OURS: a_run(20, 2)}) == {}


def test_sides_that_made_other_rows_are_not_compared() -> None:
    bench.check_same_work({bench.OURS: a_run(1, 1), bench.DUCKDB: a_run(2, 1), bench.SKEWED: a_run(2, 1, train_rows=8)})
    with pytest.raises(RuntimeError, match="training rows"):
        bench.check_same_work({bench.OURS: a_run(1, 1), bench.NUMPY: a_run(2, 1, train_rows=8)})


def test_without_the_data_one_line_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["--data", "/nowhere"])

    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "bench-samples: '/nowhere' holds no events.csv.gz; name the folder with KuaiRand: --data, or DATA=folder.\n"
    )
