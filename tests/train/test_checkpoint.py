"""Checkpoints on disk: whole or passed over, and no more of them than are kept."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dssm import storage
from dssm.errors import UserError
from dssm.manifest import MANIFEST
from dssm.model.shards import Shard
from dssm.stream.plan import Leg
from dssm.train.checkpoint import (
    Arrays,
    CheckpointFile,
    CheckpointManifest,
    CheckpointWriter,
    DamagedCheckpointError,
    TakenOverError,
    checkpoints_in,
    latest,
    opened_checkpoint,
    read_checkpoint,
    remove_unfinished,
    step_folder,
    training_digest,
    unique_names,
    write_checkpoint,
)
from dssm.train.place import Place
from tests.datasets import make_settings

ARRAYS = {"a/kernel:0": np.arange(6, dtype=np.float32).reshape(2, 3), "iteration:0": np.int64(7)}


def manifest(steps: int, files: int = 1, build: str = "b", settings: str = "s") -> CheckpointManifest:
    place = Place(
        epoch=1, legs=(Leg(2, 4, 3),), steps=steps, loss_sum=0.1 + 0.2, losses=(1 / 3,), metrics=({"auc": None},)
    )
    named = [CheckpointFile(name=f"{number}.npz", bytes=0, sha256="") for number in range(files)]
    return CheckpointManifest(settings=settings, samples_build=build, ranks=2, place=place, files=named)


def write(folder: Path, steps: int, **how: str) -> str:
    made = step_folder(str(folder), manifest(steps).place)
    write_checkpoint(made, ARRAYS, manifest(steps, **how))
    return made


def test_what_was_written_is_read_to_the_bit(tmp_path: Path):
    found, arrays = read_checkpoint(write(tmp_path, 20))
    assert found.place == manifest(20).place
    assert found.place.loss_sum == 0.1 + 0.2
    assert arrays.keys() == ARRAYS.keys()
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], values)
        assert arrays[name].dtype == values.dtype
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000000020-000001"]


def test_on_any_store(tmp_path: Path):
    folder = f"memory://{tmp_path.name}/checkpoints"
    write_checkpoint(step_folder(folder, manifest(5).place), ARRAYS, manifest(5))
    found, _ = latest(folder, "b", "s")
    assert found == step_folder(folder, manifest(5).place)
    np.testing.assert_array_equal(read_checkpoint(found)[1]["a/kernel:0"], ARRAYS["a/kernel:0"])


def _cut(folder: str) -> None:
    path = Path(folder, "0.npz")
    path.write_bytes(path.read_bytes()[:-9])


def _flip(folder: str) -> None:
    path = Path(folder, "0.npz")
    damaged = bytearray(path.read_bytes())
    damaged[150] ^= 1
    path.write_bytes(damaged)


DAMAGES = {
    "cut": _cut,
    "flipped": _flip,
    "file gone": lambda folder: Path(folder, "0.npz").unlink(),
    "no manifest": lambda folder: Path(folder, MANIFEST).unlink(),
    "no text": lambda folder: Path(folder, MANIFEST).write_bytes(b"\xff\xfe"),
    "half a manifest": lambda folder: Path(folder, MANIFEST).write_text('{"settings": "s"', encoding="utf-8"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path: Path, damage: str):
    good, bad = write(tmp_path, 10), write(tmp_path, 20)
    DAMAGES[damage](bad)
    with pytest.raises(DamagedCheckpointError):
        read_checkpoint(bad)
    found, passed = latest(str(tmp_path), "b", "s")
    assert found == good
    assert list(passed) == [bad]


def test_those_of_other_trainings_are_not_taken(tmp_path: Path):
    write(tmp_path, 10, build="other")
    write(tmp_path, 20, settings="other")
    found, passed = latest(str(tmp_path), "b", "s")
    assert found is None
    assert [reason.split(" (")[0] for reason in passed.values()] == [
        "belongs to a training with other settings", "belongs to other samples"
    ]  # fmt: skip
    assert latest(str(tmp_path / "none"), "b", "s") == (None, {})


def test_ranks_write_a_file_each_and_rank_0_commits(tmp_path: Path):
    folder = step_folder(str(tmp_path), manifest(3).place)
    parts = [{f"shard{rank}": np.full(3, rank)} for rank in range(3)]
    threads = [
        threading.Thread(target=write_checkpoint, args=(folder, parts[rank], manifest(3, files=3), rank))
        for rank in (0, 2, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    found, arrays = read_checkpoint(folder)
    assert [file.name for file in found.files] == ["0.npz", "1.npz", "2.npz"]
    assert {name: values.tolist() for name, values in arrays.items()} == {
        f"shard{rank}": [rank] * 3 for rank in range(3)
    }


def test_without_a_ranks_file_there_is_no_checkpoint(tmp_path: Path):
    with pytest.raises(UserError, match=r"/1\.npz: not there after 0 s; expected .* name a root that all hosts share"):
        write_checkpoint(step_folder(str(tmp_path), manifest(3).place), ARRAYS, manifest(3, files=2), limit_s=0.2)
    assert latest(str(tmp_path), "b", "s") == (None, {})
    remove_unfinished(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def steps_in(folder: str) -> list[int]:
    """Returns the steps of the checkpoints that are whole, newest first."""
    return [read_checkpoint(found)[0].place.steps for found in checkpoints_in(folder)]


def begin(writer: CheckpointWriter, steps: int, arrays: Callable[[], Arrays] = lambda: ARRAYS) -> None:
    writer.copy(arrays, manifest(steps))
    writer.begin()


def test_the_newest_are_kept(tmp_path: Path):
    writer = CheckpointWriter(str(tmp_path), keep=2)
    for steps in (1, 2, 3, 11):
        begin(writer, steps)
        writer.finish()
    assert steps_in(str(tmp_path)) == [11, 3]


@pytest.fixture
def store_answers(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A store that takes nothing before this is set."""
    answers, put_file = threading.Event(), storage.put_file

    def slow(*given: str) -> None:
        assert answers.wait(20)
        put_file(*given)

    monkeypatch.setattr(storage, "put_file", slow)
    return answers


def test_arrays_are_copied_before_the_next_step(tmp_path: Path, store_answers: threading.Event):
    values = np.zeros(3)
    writer = CheckpointWriter(str(tmp_path), keep=2)
    begin(writer, 1, lambda: {"values": np.array(values)})
    values += 5
    assert writer.is_writing
    store_answers.set()
    writer.finish()
    assert read_checkpoint(step_folder(str(tmp_path), manifest(1).place))[1]["values"].tolist() == [0, 0, 0]


def test_a_slow_store_gets_the_newest_and_nobody_waits_for_it(tmp_path: Path, store_answers: threading.Event):
    folder, copies = f"memory://{tmp_path.name}/checkpoints", []

    def copied() -> Arrays:
        assert sum(copy() is not None for copy in copies) <= 1  # beside the one that is made now
        values = np.zeros(3)
        copies.append(weakref.ref(values))
        return {"values": values}

    writer = CheckpointWriter(folder, keep=9)
    for steps in (1, 2, 3, 4):
        begin(writer, steps, copied)
    assert [unfinished.place.steps for unfinished in writer.unfinished] == [1, 4]
    assert steps_in(folder) == []
    store_answers.set()
    writer.finish()
    assert steps_in(folder) == [4, 1]
    assert (writer.unfinished, writer.is_writing, writer.has_pending) == ([], False, False)


def test_ranks_that_write_together_begin_together(tmp_path: Path, store_answers: threading.Event):
    """Rank 1 is done with its file of step 1 long before rank 0 has committed that, and must not go on alone."""
    writers = [CheckpointWriter(str(tmp_path), keep=9, alone=False) for _ in range(2)]
    for steps in (1, 2, 3):
        for rank in (1, 0) if steps == 1 else (0, 1):
            writers[rank].copy(lambda: ARRAYS, manifest(steps, files=2), rank)
            if steps == 1:
                writers[rank].begin()
    store_answers.set()
    until = time.monotonic() + 20
    while any(writer.is_writing for writer in writers) and time.monotonic() < until:
        time.sleep(0.01)
    assert steps_in(str(tmp_path)) == [1]
    assert [w.has_pending for w in writers] == [True, True]
    for writer in reversed(writers):
        writer.finish()
    assert steps_in(str(tmp_path)) == [3, 1]


def test_a_training_that_was_taken_over_writes_no_more(tmp_path: Path):
    def taken_over() -> None:
        raise TakenOverError("another start")

    writer = CheckpointWriter(str(tmp_path), keep=2, check_owner=taken_over)
    begin(writer, 1)
    with pytest.raises(TakenOverError, match="another start"):
        writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_rank_that_owns_the_folder_again_writes_again(tmp_path: Path):
    """Of an elastic training: ranks were lost, and what this one found of another start is of before."""
    owners = iter(["another", "this"])

    def check_owner() -> None:
        if next(owners) != "this":
            raise TakenOverError("another start")

    writer = CheckpointWriter(str(tmp_path), keep=2, check_owner=check_owner)
    begin(writer, 1)
    with pytest.raises(TakenOverError):
        writer.finish()
    writer.copy(lambda: ARRAYS, manifest(2))
    writer.forget()
    assert not writer.has_pending
    begin(writer, 3)
    writer.finish()
    assert steps_in(str(tmp_path)) == [3]


def test_a_store_that_fails_costs_a_checkpoint_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("dssm.train.checkpoint.write_checkpoint", fail)
    writer = CheckpointWriter(str(tmp_path), keep=2)
    begin(writer, 4)
    writer.finish()
    assert "no checkpoint at step 4: no space left" in capsys.readouterr().err


def test_the_digest_is_of_what_is_computed(tmp_path: Path):
    digest = training_digest(make_settings(tmp_path))
    assert training_digest(make_settings("elsewhere", ranks=1, prefetch=9, checkpoint={"keep": 5})) == digest
    assert training_digest(make_settings(tmp_path, learning_rate=0.02)) != digest
    assert training_digest(make_settings(tmp_path, model={"vector_dim": 6})) != digest
    weights = [
        training_digest(
            make_settings(tmp_path, loss="weighted_bce", negatives={"any": {"kind": "uniform", "weight": weight}})
        )
        for weight in (1.0, 0.5)
    ]
    assert len({digest, *weights}) == 3


def test_names_are_unique():
    assert unique_names(["a", "b", "a", "a"]) == ["a", "b", "a#2", "a#3"]


@pytest.mark.parametrize("wanted", [1, 2, 3, 5])
def test_a_table_is_read_by_any_number_of_ranks(tmp_path: Path, wanted: int):
    table, folder = np.arange(22).reshape(11, 2), step_folder(str(tmp_path), manifest(4).place)
    for rank in (1, 0):
        of_rank = {"table": table[rank::2]} | ({"bias": np.float32(3)} if rank == 0 else {})
        write_checkpoint(folder, of_rank, manifest(4, files=2).model_copy(update={"tables": {"table": 11}}), rank)
    with opened_checkpoint(folder) as opened:
        for rank in range(wanted):
            np.testing.assert_array_equal(opened.shard("table", Shard(rank, wanted)), table[rank::wanted])
        np.testing.assert_array_equal(opened.array("table"), table)
        assert opened.array("bias") == 3
        assert opened.names == {"table", "bias"}
