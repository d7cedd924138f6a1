"""What a training says before its ranks start."""

from __future__ import annotations

from pathlib import Path

import pytest

from dssm import storage
from dssm.config import Settings
from dssm.errors import UserError
from dssm.paths import RunPaths
from dssm.train.launch import train
from tests.datasets import write_run


@pytest.fixture
def not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training ends before its ranks start."""

    def not_started(*_: object) -> None:
        raise UserError("not started")

    monkeypatch.setattr("dssm.train.launch._by_horovodrun", not_started)


def _said_before_the_start(settings: Settings, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(UserError, match="not started"):
        train(settings)
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("not_launched")
def test_fewer_files_than_ranks_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    said = _said_before_the_start(write_run(tmp_path, train_rows=(5,), launch="horovodrun", ranks=2), capsys)
    assert "1 sample files for 2 ranks: some ranks have nothing to read; lower train.ranks, or samples.row" in said


@pytest.mark.usefixtures("not_launched")
@pytest.mark.parametrize(("rows", "is_told"), [(72, True), (76, False)])
def test_a_training_of_few_steps_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: int, is_told: bool
):
    """Two epochs by two ranks of 4 rows a step: 18 steps, and 20."""
    settings = write_run(tmp_path, (rows,), launch="horovodrun", ranks=2, epochs=2)
    assert settings.train.batch_size == 4
    told = "18 steps in all: lower train.batch_size or raise train.epochs"
    assert (told in _said_before_the_start(settings, capsys)) == is_told


@pytest.mark.usefixtures("not_launched")
@pytest.mark.parametrize(
    ("left", "resume", "is_told"),
    [("owner", True, True), ("owner", False, False), ("step-0000000010-000000/x", True, False), ("", True, False)],
    ids=["no checkpoint", "not asked to go on", "a checkpoint", "no start before"],
)  # fmt: skip
def test_a_start_after_one_that_left_no_checkpoint_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], left: str, resume: bool, is_told: bool
):
    settings = write_run(tmp_path, launch="horovodrun", ranks=2, resume=resume)
    if left:
        storage.write_text(f"{RunPaths(settings.run_folder).checkpoints}/{left}", "")
    told = "the start before left no checkpoint: it begins at the first step"
    assert (told in _said_before_the_start(settings, capsys)) == is_told
