"""How often each item is drawn in a pass; the last pass over the newest rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from dssm.manifest import EVENT_TIME, ITEM_KEY, ITEM_PROBABILITY, ITEM_ROWS, LABEL, USER_KEY, WEIGHT, read_manifest
from dssm.paths import RunPaths
from dssm.stream.batches import Batch, Span
from dssm.train import worker
from dssm.train.shares import ITEM_ROW_PROBABILITY, ItemShares, catalogue_shares, rows_within, with_shares
from dssm.train.step import make_step
from tests.datasets import DAY_MS, draw_files, make_settings, write_items, write_run

ROWS = (7, 13, 5, 11)


def test_rows_of_a_span_are_counted_by_file_and_by_item(tmp_path: Path):
    settings = write_run(tmp_path, ROWS)
    folder = RunPaths(settings.run_folder).part("train")
    since = settings.day_start_ms(-2)
    found = rows_within(folder, read_manifest(folder, "build_samples"), Span(since=since))

    files = draw_files(settings, ROWS, seed=100)
    recent = [rows[EVENT_TIME] >= since for rows in files]
    assert found.files == [int(kept.sum()) for kept in recent]
    assert 3 < sum(found.files) < sum(ROWS)
    for name, any_label in ((ITEM_PROBABILITY, False), (ITEM_ROW_PROBABILITY, True)):
        drawn = np.concatenate(
            [rows[ITEM_KEY][kept & ((rows[LABEL] > 0) | any_label)] for rows, kept in zip(files, recent, strict=True)]
        )
        expected = {int(key): float((drawn == key).mean()) for key in drawn}
        shares = found.shares[name]
        assert dict(zip(shares.keys.tolist(), shares.share.tolist(), strict=True)) == pytest.approx(expected)


def test_shares_of_all_rows_are_the_catalogues(tmp_path: Path):
    settings = make_settings(tmp_path)
    items = write_items(settings)
    folder = RunPaths(settings.run_folder).part("items")
    found = catalogue_shares(folder, read_manifest(folder, "build_samples"))
    expected = {
        int(key): float(items[ITEM_ROWS][items[ITEM_KEY] == key].sum() / items[ITEM_ROWS].sum())
        for key in items[ITEM_KEY]
    }
    assert dict(zip(found.keys.tolist(), found.share.tolist(), strict=True)) == pytest.approx(expected)


def test_an_item_that_was_not_drawn_has_no_share():
    shares = ItemShares.of_counts(np.array([7, 3, 7]), np.array([1, 1, 2]))
    assert shares.of(np.array([7, 5, 3, 9, -1])).tolist() == [0.75, 0, 0.25, 0, 0]
    assert ItemShares.of_counts(np.zeros(0, np.int64), np.zeros(0)).of(np.array([7, 5])).tolist() == [0, 0]
    rows = {ITEM_KEY: tf.constant([3, 4], tf.int64), ITEM_PROBABILITY: tf.constant([0.9, 0.9])}
    assert with_shares(rows, {ITEM_PROBABILITY: shares})[ITEM_PROBABILITY].numpy().tolist() == [0.25, 0.0]
    assert with_shares({}, {ITEM_PROBABILITY: shares}) == {}
    assert with_shares(rows, {}) is rows


@pytest.mark.slow
@pytest.mark.usefixtures("single_rank")
def test_the_last_pass_steps_over_the_newest_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    how = {"recent": {"days": 2, "epochs": 2}, "half_life_days": 3.0, "loss": {"impression_weight": 0.5}}
    settings = write_run(tmp_path, ROWS, **how)
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
    whole = seen[: -2 * -(-len(newest) // settings.train.batch_size)]
    keys = [np.concatenate([b[USER_KEY].numpy()[b[WEIGHT].numpy() > 0] for b in part]) for part in (whole, seen)]
    assert sorted(keys[0].tolist()) == list(range(1, sum(ROWS) + 1))
    last = keys[1][sum(ROWS) :].tolist()
    assert sorted(last) == sorted([*newest] * 2)
