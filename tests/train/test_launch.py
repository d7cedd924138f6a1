from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from dssm.config import Settings
from dssm.errors import UserError
from dssm.manifest import MANIFEST, read_manifest, write_manifest
from dssm.model.export import LoadedTower
from dssm.model.manifest import ModelManifest, read_model_manifest
from dssm.paths import RunPaths
from dssm.train import launch
from dssm.train.launch import train
from dssm.train.progress import ProgressView
from tests.datasets import make_rows, write_run

pytestmark = pytest.mark.horovod


def _trained(settings: Settings) -> ModelManifest:
    train(settings)
    return read_model_manifest(RunPaths(settings.run_folder).model)


def test_the_same_settings_give_the_same_bits_twice_in_one_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = write_run(tmp_path, epochs=2)
    first = _trained(settings)
    shown = capsys.readouterr().out
    again = _trained(settings)
    assert first.model_version == again.model_version
    assert (first.loss, first.auc) == (again.loss, again.auc)
    assert (first.steps, first.rows_per_epoch, first.ranks, first.samples_build) == (18, 36, 1, "tiny")
    assert first.loss[1] < first.loss[0]
    assert re.search(rf"epoch 2/2  loss {first.loss[1]:.4f}  .* samples/s  AUC {first.auc[1]:.4f}", shown)
    assert first.model_version in shown

    other = _trained(settings.model_copy(update={"seed": 1}))
    assert other.model_version != first.model_version


def test_horovodrun_starts_two_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = write_run(tmp_path, launch="horovodrun", ranks=2, epochs=2)
    model = _trained(settings)
    shown = capsys.readouterr().out
    assert (model.ranks, model.steps, len(model.loss)) == (2, 10, 2)
    assert "36 rows in 4 files, 2 rank(s) by horovodrun" in shown
    for epoch, (loss, auc) in enumerate(zip(model.loss, model.auc, strict=True), start=1):
        assert re.search(rf"epoch {epoch}/2  loss {loss:.4f}  .* samples/s  AUC {auc:.4f}", shown)
    tower = LoadedTower(f"{RunPaths(settings.run_folder).model}/item_tower")
    vectors = tower.vectors(make_rows(settings, 5))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_fewer_files_than_ranks_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    def not_started(*_: object) -> None:
        raise UserError("not started")

    monkeypatch.setattr("dssm.train.launch._by_horovodrun", not_started)
    with pytest.raises(UserError, match="not started"):
        train(write_run(tmp_path, train_rows=(5,), launch="horovodrun", ranks=2))
    assert "1 sample files for 2 ranks: some ranks have nothing to read" in capsys.readouterr().out


def test_test_samples_without_rows_leave_the_auc_out(tmp_path: Path):
    model = _trained(write_run(tmp_path, test_rows=(0,)))
    assert model.auc == [None]
    assert np.isfinite(model.loss).all()


def test_training_samples_without_rows_are_an_error(tmp_path: Path):
    with pytest.raises(UserError, match=r"samples/train: no rows"):
        train(write_run(tmp_path, train_rows=(0, 0)))


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_rate(tmp_path: Path):
    settings = write_run(tmp_path, loss="weighted_bce", learning_rate=0.25, optimizer="adagrad")
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"temperature": 1e-39})})
    with pytest.raises(
        UserError, match=r"the loss is (nan|inf) at step \d+ of epoch 1; .* lower train.learning_rate \(0.25\)"
    ):
        train(settings)


def test_samples_of_other_settings_are_refused(tmp_path: Path):
    settings = write_run(tmp_path)
    folder = RunPaths(settings.run_folder).part("train")
    manifest = read_manifest(folder, "build_samples")
    columns = {name: spec for name, spec in manifest.columns.items() if name != "liked__weight"}
    write_manifest(folder, manifest.model_copy(update={"columns": columns}))
    with pytest.raises(UserError, match="column 'liked__weight': found none, the settings expect float32"):
        train(settings)


def test_samples_that_are_not_finished_are_refused(tmp_path: Path):
    settings = write_run(tmp_path)
    Path(RunPaths(settings.run_folder).part("test"), MANIFEST).unlink()
    with pytest.raises(UserError, match="run build_samples for this date first"):
        train(settings)


def test_the_curves_are_written_for_tensorboard(tmp_path: Path):
    settings = write_run(tmp_path, epochs=2)
    model = _trained(settings)
    curves: dict[str, list[float]] = {}
    (events,) = Path(RunPaths(settings.run_folder).logs).glob("events.*")
    for event in tf.compat.v1.train.summary_iterator(str(events)):
        for value in event.summary.value:
            curves.setdefault(value.tag, []).append(float(tf.make_ndarray(value.tensor)))
    np.testing.assert_allclose(curves["test_auc"], model.auc, rtol=1e-6)
    assert curves["loss"][-1] == pytest.approx(model.loss[-1], rel=1e-6)
    assert min(curves["samples_per_s"]) > 0


class _Context:
    """A Spark context whose executors register one after the other."""

    def __init__(self, master: str, slots: list[int]) -> None:
        self.master, self._slots = master, slots
        scala = SimpleNamespace(
            maxNumConcurrentTasks=lambda _: self._slots.pop(0) if len(self._slots) > 1 else self._slots[0],
            resourceProfileManager=lambda: SimpleNamespace(defaultResourceProfile=lambda: None),
        )
        self._jsc = SimpleNamespace(sc=lambda: scala)


def test_ranks_wait_for_executors_to_register(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dssm.train.launch.time.sleep", lambda _: None)
    context = _Context("spark://127.0.0.1:7077", [0, 1, 3])
    launch._wait_for_slots(context, 3)
    assert context._slots == [3]


def test_too_few_slots_are_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dssm.train.launch.SLOTS_LIMIT_S", 0)
    for master in ("local[2]", "spark://127.0.0.1:7077"):
        with pytest.raises(UserError, match=r"train.ranks: 3 ranks, but Spark's master .* has 2 slots"):
            launch._wait_for_slots(_Context(master, [2]), 3)


def test_a_training_goes_on_without_live_progress(capsys: pytest.CaptureFixture[str]):
    with launch._listener(ProgressView(), "192.0.2.1") as address:
        assert address == ""
    assert "no live progress: 192.0.2.1" in capsys.readouterr().out


def test_a_relative_root_is_this_process_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = write_run(tmp_path, launch="horovodrun", ranks=2)
    given: list[Settings] = []

    def launched(passed: Settings, _: ProgressView) -> SimpleNamespace:
        given.append(passed)
        return SimpleNamespace(model_version="0", rows_per_s=1.0)

    monkeypatch.setattr("dssm.train.launch._by_horovodrun", launched)
    monkeypatch.chdir(tmp_path)
    train(settings.model_copy(update={"root": str(Path(settings.root).relative_to(tmp_path))}))
    assert given[0].root == str(Path(settings.root).absolute())
