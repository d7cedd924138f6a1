"""Processes of a training are killed again and again, at any moment; the same command ends with the same weights."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from dssm.config import Settings
from dssm.paths import RunPaths
from dssm.train.checkpoint import read_checkpoint
from dssm.train.launch import _environment
from dssm.train.result import TrainResult
from tests.datasets import write_run
from tests.train.conftest import ROOT

pytestmark = [pytest.mark.horovod, pytest.mark.timeout(1800)]

ROWS = (90, 70, 110, 50)
KILLS = 20
HOW = {
    "ranks": 2, "epochs": 4, "launch": "horovodrun", "deterministic": True, "start_timeout_s": 60,
    "checkpoint": {"every_steps": 4, "epoch_minutes": 0}, "loss": {"logq": "streaming", "frequency": {"buckets": 64}},
    "optimizer": "lazy_adam", "model": {"user_tower": {"layers": [8], "dropout": 0.3}}, "stall_shutdown_s": 20,
}  # fmt: skip


def start(settings: Settings, folder: Path) -> subprocess.Popen[str]:
    (folder / "settings.json").write_text(settings.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "dssm.train.horovodrun", "-np", "2", "--gloo", "--start-timeout", "60"]
    environment = {**os.environ, **_environment(settings, report_to=""), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with (folder / "output").open("a", encoding="utf-8") as output:  # a pipe would be read until the last orphan's end
        return subprocess.Popen(
            [*command, sys.executable, "-m", "tests.train.rank", "tests.train.stepping", str(folder)],
            cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip


def steps_in(folder: Path) -> int:
    return sum(path.read_text(encoding="utf-8").count("\n") for path in folder.glob("steps-*"))


def ranks_of(process: subprocess.Popen[str], folder: Path) -> list[psutil.Process]:
    """Returns this launch's ranks that have stepped and live; those of an earlier one may live on for a moment."""
    stepped = {int(path.name.removeprefix("steps-")) for path in folder.glob("steps-*")}
    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [child for child in below if child.pid in stepped]


def kill_one(process: subprocess.Popen[str], folder: Path, choice: random.Random) -> bool:
    """Kills a rank, the launcher or all, after so many more steps or while the ranks start.

    Returns: whether the launch was still running, and ended by this.
    """
    before, wanted = steps_in(folder), choice.choice([0, 1, 3, 8, 21, 40])
    until = time.monotonic() + 60
    while steps_in(folder) < before + wanted and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    if not wanted:
        time.sleep(choice.random() * 4)
    victim = choice.choice(["rank", "rank", "launcher", "all"])
    ranks = ranks_of(process, folder)
    if process.poll() is not None:
        return False
    if victim == "rank" and ranks:
        hurt = [choice.choice(ranks)]
    else:
        hurt = [*(ranks if victim != "launcher" else []), psutil.Process(process.pid)]
    for one in hurt:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended: the exit code tells
            one.kill()
    return process.wait(timeout=240) != 0


def test_twenty_kills_and_the_weights_are_those_of_a_run_that_nothing_interrupted(tmp_path: Path):
    calm, hurt = tmp_path / "calm", tmp_path / "hurt"
    for folder in (calm, hurt):
        folder.mkdir()
    uninterrupted = write_run(calm, ROWS, **HOW)
    process = start(uninterrupted, calm)
    assert process.wait(timeout=300) == 0, (calm / "output").read_text(encoding="utf-8")
    expected = TrainResult.model_validate_json((calm / "result.json").read_text(encoding="utf-8")).unwrap()

    settings, choice = write_run(hurt, ROWS, **HOW), random.Random(5)
    (hurt / "slow").write_text("0.02", encoding="utf-8")
    killed = 0
    while killed < KILLS and not (hurt / "result.json").exists():
        killed += kill_one(start(settings, hurt), hurt, choice)
    assert killed == KILLS, "the training ended before it had been hurt enough"
    (hurt / "slow").unlink()
    process = start(settings, hurt)
    assert process.wait(timeout=300) == 0, (hurt / "output").read_text(encoding="utf-8")
    found = TrainResult.model_validate_json((hurt / "result.json").read_text(encoding="utf-8")).unwrap()

    ends = (f"{RunPaths(run.run_folder).model}/checkpoint" for run in (settings, uninterrupted))
    one, other = (read_checkpoint(end)[1] for end in ends)
    assert one.keys() == other.keys()
    for name, values in one.items():  # the optimizer's state and the frequencies among them
        np.testing.assert_array_equal(values, other[name], err_msg=name)
    assert found.model_version == expected.model_version
    assert (found.loss, found.metrics, found.steps) == (expected.loss, expected.metrics, expected.steps)
