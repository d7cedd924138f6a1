from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dssm.train.launch import tensorboard


def test_the_command_is_the_environments_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "project" / ".venv" / "bin"
    programs.mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.chdir(tmp_path)
    assert tensorboard() == "tensorboard"  # it is not installed there: PATH has to do
    (programs / "tensorboard").touch()
    assert tensorboard() == "project/.venv/bin/tensorboard"
    monkeypatch.chdir(tmp_path / "project")
    assert tensorboard() == ".venv/bin/tensorboard"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert tensorboard() == str(programs / "tensorboard")
