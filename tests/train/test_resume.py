"""A training that is broken off anywhere ends as one that was not."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dssm import storage
from dssm.model.export import LoadedTower
from dssm.model.manifest import ModelManifest
from dssm.paths import RunPaths
from dssm.train import checkpoint, curves, state, worker
from dssm.train.checkpoint import DamagedCheckpointError, checkpoints_in, read_checkpoint, write_checkpoint
from dssm.train.place import Best, Place
from dssm.train.result import TrainResult
from dssm.train.step import make_step
from tests.datasets import make_catalogue, make_settings, write_run
from tests.train.conftest import ROOT

pytestmark = [pytest.mark.usefixtures("single_rank"), pytest.mark.slow]

ROWS = (17, 23, 9, 31)  # 80 rows, 20 batches of 4 an epoch
DROPOUT = {"user_tower": {"layers": [8], "dropout": 0.3}, "item_tower": {"layers": [6]}}
EACH_EPOCH = {"checkpoint": {"every_steps": 3, "epoch_minutes": 0}}
CASES: dict[str, dict[str, Any]] = {
    "adam": {"model": DROPOUT},
    "streaming": {"loss": {"logq": "streaming", "frequency": {"buckets": 64}}, "optimizer": "lazy_adam"},
    "mixed": {"loss": {"kind": "mixed_negative", "uniform": 8}, "optimizer": "rowwise_adagrad", "model": DROPOUT},
    "last_pass": {"recent": {"days": 3, "epochs": 1}, "schedule": {"kind": "cosine", "warmup_steps": 3}, **EACH_EPOCH},
    "validation": {
        "validation": {"days": 1, "metric": "recall@5", "patience": 1},
        "recent": {"days": 2},
        "learning_rate": 0.1,
        "epochs": 4,
        **EACH_EPOCH,
    },
}


class BrokenOffError(Exception):
    """Raised in the place of a step."""


def train(settings: Any, monkeypatch: pytest.MonkeyPatch, steps: int | None = None) -> ModelManifest:
    """Trains; with `steps`, until so many have been taken."""
    taken = 0

    def make(*arguments: Any) -> Any:
        step = make_step(*arguments)

        def counted(*batches: Any) -> Any:
            nonlocal taken
            if taken == steps:
                raise BrokenOffError
            taken += 1
            return step(*batches)

        return counted

    monkeypatch.setattr(worker, "make_step", make)
    try:
        return worker.train_here(settings, lambda report: None)
    finally:  # what is being written when the training breaks off is there afterwards
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()


@pytest.mark.parametrize("case", CASES)
def test_broken_off_again_and_again_the_weights_are_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
):
    how = {"checkpoint": {"every_steps": 3}, "epochs": 2, **CASES[case]}
    uninterrupted = write_run(tmp_path / "whole", ROWS, **how)
    whole = train(uninterrupted, monkeypatch)

    settings = write_run(tmp_path / "broken", ROWS, **how)
    paths = RunPaths(settings.run_folder)
    for steps in (1, 7, 16):  # before a checkpoint, in the first epoch, in the second
        with pytest.raises(BrokenOffError):
            train(settings, monkeypatch, steps)
    end = train(settings, monkeypatch)

    assert end.model_version == whole.model_version
    assert (end.loss, end.steps, end.best_epoch) == (whole.loss, whole.steps, whole.best_epoch)
    assert (end.metrics, end.validation) == (whole.metrics, whole.validation)
    assert not Path(paths.checkpoints).exists()
    one, other = (
        read_checkpoint(f"{RunPaths(run.run_folder).model}/checkpoint")[1] for run in (settings, uninterrupted)
    )
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_a_run_in_a_store_is_trained_as_one_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Samples, items, vectors, checkpoints, the model and the curves lie in a store that TensorFlow does not know."""
    how = {"checkpoint": {"every_steps": 3}, "epochs": 2, **CASES["mixed"], "profile": True}
    on_disk = write_run(tmp_path, ROWS, storage="table", **how)
    whole = train(on_disk, monkeypatch)
    away = on_disk.model_copy(update={"root": f"memory://{tmp_path.name}"})
    paths = RunPaths(away.run_folder)
    storage.put_folder(RunPaths(on_disk.run_folder).samples, paths.samples)
    monkeypatch.setattr(curves, "COPY_EVERY_S", 0)
    with pytest.raises(BrokenOffError):
        train(away, monkeypatch, 16)
    monkeypatch.undo()
    assert checkpoints_in(paths.checkpoints)
    end = train(away, monkeypatch)
    assert (end.model_version, end.loss, end.metrics) == (whole.model_version, whole.loss, whole.metrics)
    assert not storage.exists(paths.checkpoints)
    with storage.local_copy(paths.logs) as logs:
        assert len(list(Path(logs).glob("events.*.v2"))) == 2  # of both processes
        assert list(Path(logs).glob("plugins/profile/*/*.xplane.pb"))
    with storage.local_copy(f"{paths.model}/item_tower") as tower:
        assert LoadedTower(tower).inputs == LoadedTower(f"{RunPaths(on_disk.run_folder).model}/item_tower").inputs
    storage.remove(away.root)


def test_a_store_that_takes_no_curves_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    on_disk = write_run(tmp_path, ROWS)
    away = on_disk.model_copy(update={"root": f"memory://{tmp_path.name}"})
    storage.put_folder(RunPaths(on_disk.run_folder).samples, RunPaths(away.run_folder).samples)
    put_file = storage.put_file

    def refused(local: str, path: str) -> None:
        if "/logs/" in path:
            raise PermissionError("no such bucket")
        put_file(local, path)

    monkeypatch.setattr(curves, "COPY_EVERY_S", 0)
    monkeypatch.setattr(storage, "put_file", refused)
    assert train(away, monkeypatch).steps == 20
    told = f"curves not written to {RunPaths(away.run_folder).logs} (PermissionError: no such bucket)"
    assert told in capfd.readouterr().err
    storage.remove(away.root)


def test_a_slow_store_stops_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The checkpoint of step 3 is being written until step 19 is reached; that of step 18 is the newest then."""
    reached, written = threading.Event(), []

    def slow(folder: str, arrays: Any, manifest: Any, *more: Any) -> None:
        written.append(manifest.place.steps)
        assert reached.wait(60)
        write_checkpoint(folder, arrays, manifest, *more)

    def make(*arguments: Any) -> Any:
        step, taken = make_step(*arguments), itertools.count(1)

        def counted(*batches: Any) -> Any:
            if next(taken) == 19:
                reached.set()
            return step(*batches)

        return counted

    monkeypatch.setattr(checkpoint, "write_checkpoint", slow)
    monkeypatch.setattr(worker, "make_step", make)
    made = worker.train_here(write_run(tmp_path, ROWS, checkpoint={"every_steps": 3}), lambda report: None)
    assert (made.steps, written) == (20, [3, 18])


@pytest.mark.usefixtures("deterministic_training")
def test_a_process_that_is_killed_again_and_again_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """By SIGKILL: after a checkpoint was written, and while one may be."""
    how = {"checkpoint": {"every_steps": 5}, "epochs": 2, "deterministic": True, **CASES["streaming"]}
    whole = train(write_run(tmp_path / "whole", ROWS, **how), monkeypatch)

    settings, folder = write_run(tmp_path / "killed", ROWS, **how), tmp_path / "killed"
    (folder / "settings.json").write_text(settings.model_dump_json(), encoding="utf-8")
    for order, said in (("12 after 10", ""), ("6", "10 steps done"), (None, "steps done")):
        if order is not None:
            (folder / "kill").write_text(f"rank 0 at step {order}", encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "tests.train.rank", "tests.train.stepping", str(folder)],
            cwd=ROOT, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == (0 if order is None else -signal.SIGKILL), done.stdout + done.stderr
        assert said in done.stdout + done.stderr
    end = TrainResult.model_validate_json((folder / "result.json").read_text(encoding="utf-8")).unwrap()

    assert end.model_version == whole.model_version
    assert (end.loss, end.metrics, end.steps) == (whole.loss, whole.metrics, whole.steps)


def test_a_rerun_after_the_end_trains_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = write_run(tmp_path, ROWS)
    assert train(settings, monkeypatch).model_version == train(settings, monkeypatch).model_version


def test_other_settings_do_not_go_on_from_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    how = {"checkpoint": {"every_steps": 2}}
    settings = write_run(tmp_path, ROWS, **how)
    with pytest.raises(BrokenOffError):
        train(settings, monkeypatch, 5)
    assert checkpoints_in(RunPaths(settings.run_folder).checkpoints)
    other = make_settings(tmp_path, **how, learning_rate=0.5)
    with pytest.raises(BrokenOffError):
        train(other, monkeypatch, 1)
    assert "belongs to a training with other settings" in capfd.readouterr().err
    assert not checkpoints_in(RunPaths(settings.run_folder).checkpoints)


def test_resume_false_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    how = {"checkpoint": {"every_steps": 2}, "resume": False}
    settings = write_run(tmp_path, ROWS, **how)
    with pytest.raises(BrokenOffError):
        train(settings, monkeypatch, 5)
    with pytest.raises(BrokenOffError):
        train(settings, monkeypatch, 1)
    assert not checkpoints_in(RunPaths(settings.run_folder).checkpoints)


def test_the_best_epochs_weights_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With a learning rate that spoils the model, the first epochs are the best, and the epochs end early."""
    how = {"validation": {"days": 1, "metric": "loss", "patience": 2}, "epochs": 9, "learning_rate": 0.01}
    settings = write_run(tmp_path, ROWS, **how)
    made = train(settings, monkeypatch)
    assert made.best_epoch == int(np.argmin(made.loss)) + 1
    assert len(made.validation) == made.epochs
    state, _ = read_checkpoint(f"{RunPaths(settings.run_folder).model}/checkpoint")
    assert state.place.took_best
    tower = LoadedTower(f"{RunPaths(settings.run_folder).model}/item_tower")
    catalogue = make_catalogue(settings)
    assert np.isfinite(tower.vectors({name: catalogue[name] for name in tower.inputs})).all()


@pytest.mark.parametrize(("minutes", "written"), [(0, 1), (1, 0)])
def test_an_epochs_end_is_written_where_the_last_write_is_long_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: float, written: int
):
    settings = write_run(tmp_path, ROWS, checkpoint={"epoch_minutes": minutes}, epochs=2)
    with pytest.raises(BrokenOffError):
        train(settings, monkeypatch, 25)  # 20 steps an epoch
    assert len(checkpoints_in(RunPaths(settings.run_folder).checkpoints)) == written


@pytest.mark.parametrize(("minutes", "written"), [(1e-9, [10]), (60, [])])
def test_a_checkpoint_is_written_so_many_minutes_after_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: float, written: list[int]
):
    """The time is looked at where the loss is: every ten steps."""
    settings = write_run(tmp_path, ROWS, checkpoint={"every_minutes": minutes})
    with pytest.raises(BrokenOffError):
        train(settings, monkeypatch, 15)
    found = checkpoints_in(RunPaths(settings.run_folder).checkpoints)
    assert [read_checkpoint(folder)[0].place.steps for folder in found] == written


def test_a_damaged_checkpoint_is_removed_and_the_one_before_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    how = {"checkpoint": {"every_steps": 3, "keep": 2}}
    settings = write_run(tmp_path, ROWS, **how)
    with pytest.raises(BrokenOffError):
        train(settings, monkeypatch, 8)
    newest, before = checkpoints_in(RunPaths(settings.run_folder).checkpoints)
    Path(newest, "rank-0-of-1.npz").write_bytes(b"nothing")
    with pytest.raises(BrokenOffError):
        train(settings, monkeypatch, 0)
    assert f"{newest} is damaged and passed over" in (said := capfd.readouterr().err)
    assert f"resumed from {before}, 3 steps done" in said
    assert checkpoints_in(RunPaths(settings.run_folder).checkpoints) == [before]


def test_a_schedule_ends_with_the_last_step_whatever_the_batches_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """80 rows: 6 steps of 4 rows, then 7 of 8: the learning rate falls in a line over 13 steps."""
    how = {"checkpoint": {"every_steps": 3}, "schedule": {"kind": "linear"}, "learning_rate": 0.13}
    settings = write_run(tmp_path, ROWS, **how)
    with pytest.raises(BrokenOffError):
        train(settings, monkeypatch, 8)
    rates: list[float] = []
    make = worker.planned_rate

    def recorded(*arguments: Any) -> Any:
        rate = make(*arguments)
        rates[:] = [float(rate(step)) for step in (6, 12)]
        return rate

    monkeypatch.setattr(worker, "planned_rate", recorded)
    model = train(make_settings(tmp_path, **how, batch_size=8), monkeypatch)
    assert model.steps == 6 + 7
    assert rates == pytest.approx([0.13 * (1 - 6 / 12), 0.0])


def test_a_schedule_ends_with_the_last_pass_where_the_epochs_end_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No epoch gains 9 on the first, so the second is the last of six; the rate falls to 0 with the pass after it."""
    how = {
        "validation": {"days": 1, "metric": "auc", "patience": 1, "min_gain": 9.0},
        "recent": {"days": 2}, "epochs": 6, "schedule": {"kind": "linear"}, "learning_rate": 0.1, **EACH_EPOCH,
    }  # fmt: skip
    settings = write_run(tmp_path / "whole", ROWS, **how)
    planned: list[Any] = []
    make = worker.planned_rate

    def recorded(*arguments: Any) -> Any:
        planned.append(make(*arguments))
        return planned[-1]

    monkeypatch.setattr(worker, "planned_rate", recorded)
    whole = train(settings, monkeypatch)
    assert (whole.epochs, whole.best_epoch) == (3, 1)
    first, *_, last = planned
    assert float(last(whole.steps - 1)) == pytest.approx(0.0, abs=1e-8)
    assert float(first(whole.steps - 1)) > 1e-4
    assert float(last(whole.steps - 2)) > 1e-4

    broken = write_run(tmp_path / "broken", ROWS, **how)
    with pytest.raises(BrokenOffError):
        train(broken, monkeypatch, whole.steps - 2)  # in the last pass
    assert train(broken, monkeypatch).model_version == whole.model_version


def test_the_best_weights_stay_where_a_checkpoint_can_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It may name them."""
    run = worker._Trainer(write_run(tmp_path)).state
    run.claim()

    def bests(epoch: int) -> list[str]:
        place = Place(best=Best(epoch=epoch, value=0.5), steps=epoch + 1)
        run.write_best(place)
        if epoch == 0:
            run.write(place)
            run.end()
        return sorted(path.name for path in Path(run.folder).glob("best-*"))

    def no_answer(_: str) -> None:
        raise DamagedCheckpointError("the store does not answer")

    (first,) = bests(0)
    with monkeypatch.context() as patched:
        patched.setattr(state, "manifest_of", no_answer)
        _, second = bests(1)
    assert bests(2)[0] == first
    assert second not in bests(2)
