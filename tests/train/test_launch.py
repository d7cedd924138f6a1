from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dssm import storage
from dssm.config import Settings
from dssm.errors import UserError
from dssm.manifest import MANIFEST, read_manifest, write_manifest
from dssm.model.export import LoadedTower
from dssm.model.manifest import ModelManifest, read_model_manifest
from dssm.model.two_tower import TwoTowerModel
from dssm.paths import RunPaths
from dssm.train import launch, worker
from dssm.train.checkpoint import checkpoints_in
from dssm.train.inputs import frozen_matrices
from dssm.train.launch import _environment, _limits_of, train
from dssm.train.progress import ProgressView
from dssm.train.state import TrainingState
from dssm.train.worker import _Trainer
from tests.datasets import NEGATIVE_KINDS, VECTORS, make_rows, make_settings, write_items, write_run, write_vectors
from tests.train.events import Curves, curves_of

pytestmark = pytest.mark.slow


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
    assert re.search(rf"epoch 2/2  loss {first.loss[1]:.4f}  .* samples/s  test AUC {first.auc[1]:.4f}", shown)
    assert first.model_version in shown

    other = _trained(settings.model_copy(update={"seed": 1}))
    assert other.model_version != first.model_version


@pytest.mark.horovod
def test_horovodrun_starts_two_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = write_run(tmp_path, launch="horovodrun", ranks=2, epochs=2, profile=True)
    model = _trained(settings)
    shown = capsys.readouterr().out
    assert (model.ranks, model.steps, len(model.loss)) == (2, 10, 2)
    assert "36 rows in 4 files, 2 rank(s) by horovodrun" in shown
    line = " ".join(shown.split())
    assert "no step ends for 100 s (train.stall_shutdown_s) ends the training; Gloo waits 300 s for another" in line
    assert "N = 2 ranks, U rows expected of a table's R, D wide: sparse (N − 1) U (4 D + 4), dense" in line
    assert re.search(r"table +rows × dim +look-ups +expected rows +sparse +dense +goes", shown)
    assert re.search(r"embedding_\w+ +[\d,]+ × \d+ .*(sparse|dense), [\d.]+ k?B", shown)
    assert "no TensorFlow profile: it begins after 20 steps of a process" in line
    assert "profile: its Profile tab" not in line
    assert "timeline.json" in line
    assert re.search(r"gradients and rows: [\d.]+ kB a step received, [\d.]+ kB planned at most on average", shown)
    for epoch, (loss, auc) in enumerate(zip(model.loss, model.auc, strict=True), start=1):
        assert re.search(rf"epoch {epoch}/2  loss {loss:.4f}  .* samples/s  test AUC {auc:.4f}", shown)
    tower = LoadedTower(f"{RunPaths(settings.run_folder).model}/item_tower")
    vectors = tower.vectors(make_rows(settings, 5))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    _assert_speeds_of_two_ranks(curves_of(settings), [5, 10])
    timeline = json.loads(Path(RunPaths(settings.run_folder).timeline).read_text(encoding="utf-8"))
    seen = {event["name"] for event in timeline if "name" in event}
    assert {"NEGOTIATE_ALLREDUCE", "ALLREDUCE", "ALLGATHER", "REDUCESCATTER", "BROADCAST"} <= seen
    named = {event["args"]["name"] for event in timeline if event.get("ph") == "M" and "name" in event["args"]}
    assert any("gradients_dense" in name for name in named), named


def _assert_speeds_of_two_ranks(curves: Curves, looks: list[int]) -> None:
    for rank in range(2):
        plain, own = (curves[f"{name}/rank_{rank}"] for name in ("samples_per_s", "own_samples_per_s"))
        assert list(plain) == list(own) == looks
        for step in looks:
            assert 0.1 < plain[step] < own[step] < 1e6
    assert "samples_per_s/rank_2" not in curves
    assert list(curves["exchange"]) == looks
    assert all(0 < share < 1 for share in curves["exchange"].values())


@pytest.mark.parametrize(
    ("elastic", "told"),
    [
        ({}, r"no step ends for 90 s \(.*\) ends the training; Gloo waits 300 s"),
        ({"elastic": {"min_ranks": 1, "max_ranks": 2, "hosts_script": "x"}}, r"is given up, .* reached after 60 s$"),
    ],
)
def test_the_limits_that_are_told_are_those_that_are_set(tmp_path: Path, elastic: dict[str, Any], told: str):
    settings = make_settings(tmp_path, launch="horovodrun", ranks=2, stall_shutdown_s=90, **elastic)
    assert re.search(told, _limits_of(settings.train))
    set_for_ranks = _environment(settings, report_to="")
    assert set_for_ranks["HOROVOD_GLOO_TIMEOUT_SECONDS"] == ("60" if elastic else "300")
    assert set_for_ranks["HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"] == "90"


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


def test_a_store_that_fails_hides_no_loss_that_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(_: object) -> str:
        raise OSError("the store is gone")

    monkeypatch.setattr(TrainingState, "last_good", property(broken))
    settings = write_run(tmp_path, loss="weighted_bce", learning_rate=0.25, optimizer="adagrad")
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"temperature": 1e-39})})
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step (.|\n)*unknown, .* \(the store is gone\)"):
        train(settings)


def test_the_last_good_checkpoint_is_one_whose_weights_are_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Step 4's update spoils a weight though its loss is finite; its checkpoint is written before step 5 tells."""
    make = worker.make_step

    def spoiling(settings: Settings, model: TwoTowerModel, optimizer: Any, *others: Any) -> Any:
        step, taken = make(settings, model, optimizer, *others), 0

        def spoilt(*batches: Any) -> Any:
            nonlocal taken
            taken += 1
            losses = step(*batches)
            if taken == 4:
                model.trainable_variables[0].assign(model.trainable_variables[0] * float("nan"))
            return losses

        return spoilt

    monkeypatch.setattr(worker, "make_step", spoiling)
    settings = write_run(tmp_path, checkpoint={"every_steps": 2})
    with pytest.raises(UserError, match=r"at step 5 of epoch 1") as caught:
        train(settings)
    newest, good = checkpoints_in(RunPaths(settings.run_folder).checkpoints)
    assert "step-0000000004-" in newest
    assert "step-0000000002-" in good
    told, *columns, last = str(caught.value).split("\n")[1:]
    assert told == "in that step's batch:"
    number = r"-?\d+(\.\d+)?(e[+-]\d+)?"
    for column in columns[:5]:
        assert re.fullmatch(rf"  rank 0: \w+: {number}…{number}, mean {number}", column), column
    assert len(columns[5:]) >= 3
    for column in columns[5:]:
        assert re.fullmatch(r"  rank 0: \w+: ids \d+…\d+, \d+% padding, \d+% unknown", column), column
    assert last == f"last good checkpoint: {good}"


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


def _weights(settings: Settings) -> dict[str, np.ndarray]:
    trainer = _Trainer(settings)
    trainer.run(lambda report: None)
    return {variable.name: variable.numpy() for variable in trainer.towers.trained_variables}


@pytest.mark.usefixtures("single_rank")
@pytest.mark.parametrize("negatives", [{}, NEGATIVE_KINDS], ids=["without negatives", "with negatives"])
def test_both_storages_of_vectors_train_to_the_same_weights(tmp_path: Path, negatives: dict[str, Any]):
    how = {"negatives": negatives, "loss": "weighted_bce", "optimizer": "adagrad", "learning_rate": 0.05, "epochs": 2}
    inline = _weights(write_run(tmp_path / "inline", storage="inline", **how))
    table = _weights(write_run(tmp_path / "table", storage="table", **how))
    assert list(table) == list(inline)
    assert len(inline) == 11
    for name, values in inline.items():
        np.testing.assert_allclose(table[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.usefixtures("single_rank")
def test_negatives_change_what_is_learnt(tmp_path: Path):
    plain = _weights(write_run(tmp_path / "plain", loss="weighted_bce"))
    drawn = _weights(write_run(tmp_path / "drawn", loss="weighted_bce", negatives=NEGATIVE_KINDS))
    assert np.abs(plain["item.projection/kernel:0"] - drawn["item.projection/kernel:0"]).max() > 1e-3


@pytest.mark.usefixtures("single_rank")
def test_a_frozen_table_is_neither_broadcast_nor_given_to_the_optimizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sent: list[tf.Variable] = []
    monkeypatch.setattr("dssm.train.state.broadcast_variables", sent.extend)
    trainer = _Trainer(write_run(tmp_path, storage="table"))
    model = trainer.run(lambda report: None)
    table = trainer.towers.frozen["post"].table
    assert len(sent) == 11 + len(trainer.optimizer.variables)
    assert not any(variable is table for variable in sent)
    assert all(tuple(variable.shape) != tuple(table.shape) for variable in trainer.optimizer.variables)
    np.testing.assert_array_equal(table[1:], VECTORS)
    assert model.frozen_vectors == ["post"]


def test_saved_towers_hold_their_vectors(tmp_path: Path):
    settings = write_run(tmp_path, storage="table")
    model = _trained(settings)
    paths = RunPaths(settings.run_folder)
    rows = make_rows(settings, 20, seed=3)
    before = LoadedTower(f"{paths.model}/item_tower").vectors(rows)
    for part in ("vectors", "items", "train"):
        storage.remove(paths.part(part))
    tower = LoadedTower(f"{paths.model}/item_tower")
    assert tower.inputs["image"].dtype == tf.int32
    np.testing.assert_array_equal(tower.vectors(rows), before)
    moved = tower.vectors({**rows, "image": np.where(rows["image"] == 1, 2, 1).astype(np.int32)})
    assert np.abs(moved - before).max() > 1e-3
    assert model.item_columns["image"].dtype == "int32"


def test_vectors_of_another_width_are_refused(tmp_path: Path):
    settings = write_run(tmp_path, storage="table")
    write_vectors(settings, VECTORS[:, :3])
    with pytest.raises(UserError, match=r"^vectors.post.width: 4, but .*/post/vectors.parquet holds vectors of 3 num"):
        train(settings)


def test_a_table_without_vectors_is_no_fault(tmp_path: Path):
    settings = write_run(tmp_path, storage="table")
    write_vectors(settings, VECTORS[:0])
    matrix = frozen_matrices(settings, RunPaths(settings.run_folder))["post"]
    assert (matrix.shape, matrix.dtype) == ((0, 4), np.float32)


def test_negatives_of_other_samples_are_refused(tmp_path: Path):
    settings = write_run(tmp_path, negatives=NEGATIVE_KINDS, loss="weighted_bce")
    folder = RunPaths(settings.run_folder).part("items")
    storage.remove(folder)
    write_items(settings, build="later")
    with pytest.raises(UserError, match="samples/items: of build later, but the training samples are of build tiny"):
        train(settings)
    plain = write_run(tmp_path / "plain", loss="weighted_bce")
    asking = plain.model_copy(update={"samples": settings.samples})
    with pytest.raises(UserError, match=r"^samples.negatives: .* column 'row__negatives': found none"):
        train(asking)


OBJECTIVES: dict[str, Any] = {
    "user_tower": {"kind": "multi_objective", "shared": {"layers": [6]}, "head": {"layers": []}},
    "item_tower": {"kind": "multi_objective", "shared": {"layers": [6]}, "head": {"layers": []}},
    "objectives": {"click": {}, "order": {"loss": {"kind": "hinge", "negatives": "batch"}}},
}


def test_what_the_curves_and_the_profile_show(tmp_path: Path):
    settings = write_run(tmp_path, train_rows=(60, 60), batch_size=8, epochs=2, profile=True, model=OBJECTIVES)
    model = _trained(settings)
    curves = curves_of(settings)
    last = {name: points[max(points)] for name, points in curves.items()}
    assert model.steps == 30
    for name in ("loss", "loss/click", "loss/order", "accidental_hits/click", "accidental_hits/order", "input_wait"):
        assert list(curves[name]) == [10, 15, 25, 30], name
    assert last["loss"] == pytest.approx(last["loss/click"] + last["loss/order"], rel=1e-5)
    assert {name: last[f"test_{name}"] for name in model.metrics[-1]} == pytest.approx(model.metrics[-1], rel=1e-6)
    for tower in ("user", "item", "tables"):
        assert list(curves[f"gradient_norm/{tower}"]) == [10, 25, 30]  # of steps 10, 20 and 30
        assert 0.01 < last[f"gradient_norm/{tower}"] < 100
    for name in ("user_id", "item_id", "topic_id"):
        assert 0.1 < last[f"embedding_norm/{name}"] < 10
    hits = curves["accidental_hits/click"]
    assert curves["accidental_hits/order"] == pytest.approx(hits)  # of the same rows
    assert 0 < max(hits.values()) < 0.5
    assert 0 <= last["input_wait"] < 1
    assert last["temperature"] == pytest.approx(settings.model.tau)
    assert last["learning_rate"] == pytest.approx(settings.train.learning_rate)
    assert last["samples_per_s"] == pytest.approx(model.rows_per_s, rel=1e-3)
    assert 1 < last["samples_per_s/rank_0"] < 1e7
    assert not {"exchange", "own_samples_per_s/rank_0"} & last.keys()  # nobody to wait for
    (profile,) = Path(RunPaths(settings.run_folder).logs, "plugins", "profile").glob("*/*.xplane.pb")
    assert profile.stat().st_size > 0


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

    def launched(passed: Settings, *_: object) -> SimpleNamespace:
        given.append(passed)
        return SimpleNamespace(model_version="0", rows_per_s=1.0)

    monkeypatch.setattr("dssm.train.launch._by_horovodrun", launched)
    monkeypatch.chdir(tmp_path)
    train(settings.model_copy(update={"root": str(Path(settings.root).relative_to(tmp_path))}))
    assert given[0].root == str(Path(settings.root).absolute())
