"""Real launches that lose a rank and go on: with the same ranks to the same bits, with others seeing each row once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dssm.config import Settings
from dssm.model.manifest import ModelManifest
from dssm.paths import RunPaths
from dssm.stream.plan import Leg, plan_epoch, rows_done
from dssm.train.checkpoint import CheckpointManifest, checkpoints_in, read_checkpoint
from dssm.train.launch import _environment
from dssm.train.result import TrainResult
from tests.datasets import write_run
from tests.train.conftest import Launched, launch

pytestmark = pytest.mark.horovod

ROWS = (37, 53, 29, 61)  # 180: 23 steps an epoch of two ranks
SHARDED: dict[str, Any] = {
    "model": {"embedding": {"placement": "sharded", "min_rows": 1}},
    "optimizer": "rowwise_adagrad",
}
HOW: dict[str, Any] = {
    "launch": "horovodrun", "epochs": 2, "deterministic": True, "start_timeout_s": 60, "stall_shutdown_s": 20,
    "checkpoint": {"every_steps": 5},
}  # fmt: skip


def start(settings: Settings, folder: Path, ranks: int, kill: str | None = None) -> Launched:
    settings = settings.model_copy(update={"train": settings.train.model_copy(update={"ranks": ranks})})
    (folder / "settings.json").write_text(settings.model_dump_json(), encoding="utf-8")
    if kill is not None:
        (folder / "kill").write_text(kill, encoding="utf-8")
    return launch(ranks, "tests.train.stepping", str(folder), **_environment(settings, report_to=""))


def result(folder: Path) -> ModelManifest:
    return TrainResult.model_validate_json((folder / "result.json").read_text(encoding="utf-8")).unwrap()


def newest(settings: Settings) -> CheckpointManifest:
    """Returns what says of the newest checkpoint whose files are whole."""
    (folder, *_) = checkpoints_in(RunPaths(settings.run_folder).checkpoints)
    return read_checkpoint(folder)[0]


def keys_by_step(folder: Path, steps: int | None = None) -> list[int]:
    """Returns the rows' keys of all ranks' first steps, all of them by default, and forgets them."""
    keys = []
    for path in folder.glob("keys-*"):
        lines = path.read_text(encoding="utf-8").splitlines()
        keys += [int(key) for line in lines[:steps] for key in line.split()]
        path.unlink()
    return keys


def test_a_sharded_training_resumes_to_the_same_bits(tmp_path: Path):
    """Rank 1's store takes longer than five steps: some checkpoints are replaced before they are begun, on both."""
    calm, hurt = tmp_path / "calm", tmp_path / "hurt"
    uninterrupted = write_run(calm, ROWS, **HOW, **SHARDED)
    (calm / "slow_store").write_text("0.2", encoding="utf-8")
    done = start(uninterrupted, calm, 2)
    assert done.code == 0, done.output
    assert "no checkpoint at step" not in done.output

    settings = write_run(hurt, ROWS, **HOW, **SHARDED)
    (hurt / "slow_store").write_text("0.2", encoding="utf-8")
    assert start(settings, hurt, 2, "rank 1 at step 18 after 5").code != 0
    found = newest(settings)
    assert found.place.steps in (5, 10, 15)
    assert len(found.files) == 2
    assert set(found.tables.values()) == {12, 20, 7}
    done = start(settings, hurt, 2)
    assert done.code == 0, done.output
    assert f"{found.place.steps} steps done" in done.output

    assert result(hurt).model_version == result(calm).model_version
    assert (result(hurt).loss, result(hurt).metrics) == (result(calm).loss, result(calm).metrics)
    one, other = (
        read_checkpoint(f"{RunPaths(run.run_folder).model}/checkpoint")[1] for run in (settings, uninterrupted)
    )
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


@pytest.mark.parametrize(("how", "ranks"), [("replicated", 1), ("sharded", 3)])
def test_other_ranks_see_the_rest_of_the_epoch_once(tmp_path: Path, how: str, ranks: int):
    """Ranks that have shards write together: here, where it is time, which they look at every ten steps."""
    if how == "sharded":
        by_time = {"checkpoint": {"every_minutes": 0.002, "epoch_minutes": 60}}  # 0.12 s
        settings = write_run(tmp_path, ROWS, **{**HOW, **by_time}, **SHARDED)
        (tmp_path / "slow").write_text("0.05", encoding="utf-8")
        assert start(settings, tmp_path, 2, "rank 0 at step 18 after 10").code != 0
        assert len(newest(settings).files) == 2
        (tmp_path / "slow").unlink()
    else:
        settings = write_run(tmp_path, ROWS, **HOW)
        assert start(settings, tmp_path, 2, "rank 0 at step 13 after 5").code != 0
    assert not (tmp_path / "kill").exists()
    kept = newest(settings).place.steps
    assert kept in ((10,) if how == "sharded" else (5, 10))
    seen = keys_by_step(tmp_path, kept)
    done = start(settings, tmp_path, ranks)
    assert done.code == 0, done.output

    # Of the interrupted epoch each row once, by two ranks or by the others; and of the next one.
    assert len(seen) == kept * 2 * settings.train.batch_size
    seen += keys_by_step(tmp_path)
    assert sorted(seen) == sorted([*range(1, sum(ROWS) + 1)] * 2)

    # The kept steps of two ranks; the others read what was left of the files, and then a whole epoch.
    before = [Leg(2, settings.train.batch_size, kept)]
    left = [rows - seen for rows, seen in zip(ROWS, rows_done(ROWS, settings.seed, 0, before), strict=True)]
    assert sum(ROWS) - sum(left) == kept * 2 * settings.train.batch_size
    rest = plan_epoch(left, settings.seed, 0, ranks, settings.train.batch_size, leg=1).steps
    whole = plan_epoch(ROWS, settings.seed, 1, ranks, settings.train.batch_size).steps
    assert (result(tmp_path).ranks, result(tmp_path).steps) == (ranks, kept + rest + whole)
    assert np.isfinite(result(tmp_path).loss).all()
