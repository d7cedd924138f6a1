"""The last pass over the newest rows: which rows it reads, and how often each item is drawn there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from dssm.manifest import EVENT_TIME, ITEM_KEY, ITEM_PROBABILITY, LABEL, USER_KEY, WEIGHT, read_manifest
from dssm.paths import RunPaths
from dssm.stream.batches import Batch
from dssm.train import worker
from dssm.train.recent import RecentRows, recent_rows, with_share
from dssm.train.step import make_step
from tests.datasets import DAY_MS, draw_files, make_settings, write_run

ROWS = (7, 13, 5, 11)


@pytest.mark.parametrize("all_rows", [False, True])
def test_recent_rows_are_counted_by_file_and_by_item(tmp_path: Path, all_rows: bool):
    settings = write_run(tmp_path, ROWS)
    folder = RunPaths(settings.run_folder).part("train")
    since = settings.day_start_ms(-2)
    found = recent_rows(folder, read_manifest(folder, "build_samples"), since, all_rows)

    files = draw_files(settings, ROWS, seed=100)
    recent = [rows[EVENT_TIME] >= since for rows in files]
    assert found.files == [int(kept.sum()) for kept in recent]
    assert 3 < sum(found.files) < sum(ROWS)
    drawn = np.concatenate(
        [rows[ITEM_KEY][kept & ((rows[LABEL] > 0) | all_rows)] for rows, kept in zip(files, recent, strict=True)]
    )
    expected = {int(key): float((drawn == key).mean()) for key in drawn}
    assert dict(zip(found.keys.tolist(), found.share.tolist(), strict=True)) == pytest.approx(expected)


def test_an_item_that_was_not_drawn_has_no_share():
    recent = RecentRows(0, [], np.array([3, 7]), np.array([0.25, 0.75]))
    assert recent.share_of(np.array([7, 5, 3, 9, -1])).tolist() == [0.75, 0, 0.25, 0, 0]
    assert RecentRows(0, [], np.zeros(0, np.int64), np.zeros(0)).share_of(np.array([7, 5])).tolist() == [0, 0]
    rows = {ITEM_KEY: tf.constant([3, 4], tf.int64), ITEM_PROBABILITY: tf.constant([0.9, 0.9])}
    assert with_share(rows, recent)[ITEM_PROBABILITY].numpy().tolist() == [0.25, 0.0]
    assert with_share({}, recent) == {}


@pytest.mark.usefixtures("single_rank")
def test_the_last_pass_steps_over_the_newest_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = write_run(tmp_path, ROWS, recent={"days": 2, "epochs": 2}, half_life_days=3.0)
    seen: list[Batch] = []

    def recording_make_step(*arguments):
        step = make_step(*arguments)

        def recording_step(batch: Batch, catalogue: Batch):
            seen.append(batch)
            return step(batch, catalogue)

        return recording_step

    monkeypatch.setattr(worker, "make_step", recording_make_step)
    manifest = worker.train_here(settings, lambda report: None)
    assert (manifest.epochs, len(manifest.loss)) == (3, 3)

    since = settings.day_start_ms(0) - 2 * DAY_MS
    files = draw_files(settings, ROWS, seed=100)
    newest = {int(key) for rows in files for key in rows[USER_KEY][rows[EVENT_TIME] >= since]}
    whole = [batch for batch in seen[: -2 * -(-len(newest) // settings.train.batch_size)]]
    keys = [np.concatenate([b[USER_KEY].numpy()[b[WEIGHT].numpy() > 0] for b in part]) for part in (whole, seen)]
    assert sorted(keys[0].tolist()) == list(range(1, sum(ROWS) + 1))
    last = keys[1][sum(ROWS) :].tolist()
    assert sorted(last) == sorted([*newest] * 2)
    assert make_settings("unused", recent={"days": 2}).train.recent.epochs == 1
