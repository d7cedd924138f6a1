"""A loss that is no number on one of several ranks ends all of them, and the message tells where it came from."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssm.errors import UserError
from dssm.manifest import LABEL, read_manifest
from dssm.paths import RunPaths
from dssm.stream.plan import plan_epoch
from dssm.train.launch import train
from tests.datasets import write_run

pytestmark = pytest.mark.horovod

ROWS, BATCH = (7, 13, 5, 11), 4


def with_column(file: str, name: str, numbers: np.ndarray) -> None:
    table = pq.read_table(file)
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, pa.array(numbers)), file)


def test_a_row_that_is_no_target_is_told_by_the_step_after_it(tmp_path: Path):
    """It has no loss, but spoils the weights."""
    settings = write_run(tmp_path, train_rows=(13,), batch_size=BATCH, loss="in_batch_softmax")
    folder = RunPaths(settings.run_folder).part("train")
    file = f"{folder}/{read_manifest(folder, 'build_samples').files[0].name}"
    labels = pq.read_table(file)[LABEL].to_numpy()
    with_column(file, "age", np.where(labels > 0, np.float32(30), np.float32(np.nan)))
    with pytest.raises(UserError, match=r"^train: the loss is nan at step 2 of epoch 1; ") as caught:
        train(settings)
    assert re.search(r"^  rank 0: age.*, [123] of 4 not finite \(the step before\)$", str(caught.value), re.MULTILINE)


def test_two_ranks_tell_the_step_the_rank_and_the_feature(tmp_path: Path):
    """The last file that rank 1 reads has no number in `age`."""
    how = {"launch": "horovodrun", "ranks": 2, "batch_size": BATCH, "loss": "weighted_bce"}  # where every row counts
    settings = write_run(tmp_path, train_rows=ROWS, **how)
    *before, spoilt = plan_epoch(ROWS, settings.seed, epoch=0, ranks=2, batch_size=BATCH).files[1]
    folder = RunPaths(settings.run_folder).part("train")
    file = f"{folder}/{read_manifest(folder, 'build_samples').files[spoilt].name}"
    with_column(file, "age", np.full(ROWS[spoilt], np.nan, np.float32))

    steps, rows = divmod(sum(ROWS[number] for number in before), BATCH)
    assert steps > 0
    with pytest.raises(UserError, match=rf"^train: the loss is nan at step {steps + 1} of epoch 1; ") as caught:
        train(settings)
    told = str(caught.value).splitlines()
    assert "mend the feature" in told[0]
    assert [line for line in told if "not finite" in line] == [
        line for line in told if line.startswith("  rank 1: age") and line.endswith(f", {BATCH - rows} of 4 not finite")
    ]
    assert any(line.startswith("  rank 0: ") for line in told)
