from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.samples.measured import Measured, measured
from benchmarks.train.__main__ import PROJECT, Run, as_run, best, last_json, ratios
from benchmarks.train.data import draw_log, write_arrays, write_run
from benchmarks.train.task import FIRST_ID, HISTORY, HISTORY_IDS, HISTORY_LENGTH, ITEM_ID, SIZES, USER_ID, USER_SIZES
from dssm.config import load_settings
from dssm.manifest import ITEM_KEY, ITEM_PROBABILITY, USER_KEY, data_files, read_manifest
from dssm.packing import unpack
from dssm.paths import RunPaths


def a_run(seconds: Sequence[float], rows: int = 1000, batch: int = 100, peak: int = 1, **told: float) -> Run:
    return Run("a side", rows, batch, tuple(seconds), peak, told)


@given(seed=st.integers(0, 50), events=st.integers(1, 3000))
def test_a_history_is_what_the_user_did_before_the_newest_first(seed: int, events: int) -> None:
    log = draw_log(events, seed)
    chosen = np.random.default_rng(seed).integers(0, events, 20)
    rows = log.rows(chosen)
    for row, event in enumerate(chosen):
        own = np.flatnonzero(log.users[:event] == log.users[event])
        expected = log.items[own[::-1][:HISTORY]]
        assert rows[HISTORY_IDS][row].tolist() == [*expected, *[0] * (HISTORY - len(expected))]
        assert rows[HISTORY_LENGTH][row] == len(expected)
    assert rows[ITEM_ID].tolist() == log.items[chosen].tolist()


def test_ids_lie_in_their_tables_and_a_users_profile_is_always_the_same() -> None:
    log = draw_log(5000)
    rows = log.rows(np.arange(5000))
    for name, size in SIZES.items():
        assert rows[name].min() >= FIRST_ID
        assert rows[name].max() < size + FIRST_ID
    profiles = np.unique(np.stack([rows[name] for name in USER_SIZES], axis=1), axis=0)
    assert len(profiles) == len(np.unique(rows[USER_ID]))


def test_popularity_is_that_of_movielens() -> None:
    counts = np.sort(draw_log(1_000_000).item_counts())[::-1][: SIZES[ITEM_ID]]
    assert 3_400 < counts[0] < 4_600  # 3,428 in MovieLens 1M
    assert 115 < counts[SIZES[ITEM_ID] // 2] < 145  # 123


def test_another_number_of_users_changes_their_ids_alone() -> None:
    few, many = draw_log(2000, shown_users=50), draw_log(2000, shown_users=90_000)
    chosen = np.arange(2000)
    assert few.users.max() < 50 + FIRST_ID < many.users.max() < 90_000 + FIRST_ID
    assert (few.rows(chosen)[HISTORY_LENGTH] == many.rows(chosen)[HISTORY_LENGTH]).all()
    assert len(np.unique(few.users)) == 50


def test_both_sides_are_given_the_same_rows(tmp_path: Path) -> None:
    log = draw_log(500)
    settings = load_settings(str(write_run(tmp_path, log, 400, rows_per_file=150)))
    write_arrays(tmp_path / "rows.npz", log, 400)
    folder = RunPaths(settings.run_folder).part("train")
    manifest = read_manifest(folder, "build_samples")
    tables = [pq.read_table(path).combine_chunks() for path in data_files(folder, manifest)]
    assert [len(table) for table in tables] == [150, 150, 100]
    with np.load(tmp_path / "rows.npz") as arrays:
        for name in (*SIZES, HISTORY_IDS):
            read = [unpack(table[name].chunk(0), manifest.columns[name]) for table in tables]
            np.testing.assert_array_equal(np.concatenate(read), arrays[name])
        share = np.concatenate([table[ITEM_PROBABILITY].to_numpy() for table in tables])
        np.testing.assert_allclose(share, arrays["item_counts"][arrays[ITEM_ID]] / 500, rtol=1e-6)
        keys = np.concatenate([table[USER_KEY].to_numpy() for table in tables])
        np.testing.assert_array_equal(keys, arrays[USER_ID])
    assert manifest.vocabularies[ITEM_ID].size == SIZES[ITEM_ID] + FIRST_ID
    assert read_manifest(RunPaths(settings.run_folder).part("test"), "build_samples").rows == 100
    assert ITEM_KEY in manifest.columns


def test_the_first_epoch_does_not_count() -> None:
    run = a_run([1.0, 5.0, 4.0], rows=950, batch=100)
    assert run.rows_per_s == 950 / 4
    assert run.step_s == 4 / 10
    assert a_run([3.0]).steady_s == 3


def test_the_fastest_round_counts() -> None:
    assert best([a_run([1, 9]), a_run([9, 2]), a_run([1, 3])]).seconds == (9, 2)


def test_ratios_are_of_the_runs_that_were_made() -> None:
    runs = {"deepmatch_256": a_run([9, 6]), "ours_256": a_run([9, 2], input_wait=0.01)}
    assert ratios(runs) == {"vs_deepmatch_256": pytest.approx(3), "input_wait": 0.01}
    runs = {
        "one_rank": a_run([4, 3]),
        "two_ranks": a_run([3, 2]),
        "deepmatch_4096": a_run([2]),
        "ours_4096": a_run([1]),
    }
    assert ratios(runs) == {"vs_deepmatch_4096": 2, "two_ranks": 1.5}
    runs = {"small_table": a_run([2, 1]), "big_table": a_run([4, 1.1])}
    assert ratios(runs) == {"big_table_step": pytest.approx(1.1)}
    runs = {"rows": a_run([1], peak=100), "rows_times_4": a_run([4], rows=4000, peak=105)}
    assert ratios(runs) == {"memory_4x_rows": 1.05}


def test_a_row_leaves_out_what_a_side_does_not_tell() -> None:
    assert a_run([1, 0.5], peak=2**30).row() == ["a side", "2,000", "50.00", "", "", "", "1.00"]
    told = a_run([1, 0.5], peak=2**30, input_wait=0.02, exchange=[0.5, 0.25], bytes_per_step=4096.0)
    assert told.row()[3:6] == ["2.0 %", "25 %", "4,096"]


def test_the_last_json_line_is_found_behind_a_launchers_prefix() -> None:
    output = 'noise {"a": 1}\n[1,0]<stdout>:{"seconds": [2, 1], "loss": [0.5]}\n[1,1]<stderr>:bye\n'
    assert last_json(output) == {"seconds": [2, 1], "loss": [0.5]}
    run = as_run("x", 10, 5, Measured(output, 1, 1, 7, 7, "python"))
    assert run == Run("x", 10, 5, (2, 1), 7, {"loss": [0.5]})
    with pytest.raises(RuntimeError, match="no JSON line"):
        last_json("nothing")


@pytest.mark.slow
def test_a_rank_trains_on_the_rows_and_tells_its_epochs(tmp_path: Path) -> None:
    config = write_run(tmp_path, draw_log(96), 64)
    changes = ["--set", "train.batch_size=32", "--set", "train.epochs=2"]
    command = [sys.executable, "-m", "benchmarks.train.rank", str(config), "--cores", "0", *changes]
    told = json.loads(measured(command, PROJECT, {"TF_CPP_MIN_LOG_LEVEL": "3"}).output.splitlines()[-1])
    assert len(told["seconds"]) == 2
    assert told["steps"] == [2, 2]
    assert told["rows_per_epoch"] == 64
    assert all(np.isfinite(told["loss"]))
