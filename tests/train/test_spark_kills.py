"""Processes of a training are killed, or interrupted; the same command ends with the weights of a calm one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from dssm import storage
from dssm.config import Settings
from dssm.errors import INTERRUPTED
from dssm.paths import RunPaths
from dssm.train.checkpoint import checkpoints_in, manifest_of, read_checkpoint
from dssm.train.launch import train
from tests.datasets import write_run
from tests.train.conftest import ROOT

pytestmark = [pytest.mark.horovod, pytest.mark.spark]

ROWS = (90, 70, 110, 50)
HOW: dict[str, Any] = {
    "launch": "spark", "ranks": 2, "epochs": 10, "deterministic": True, "stall_shutdown_s": 20,
    "checkpoint": {"every_steps": 10, "epoch_minutes": 0}, "optimizer": "lazy_adam",
}  # fmt: skip
BROKEN_OFF = "train: broken off; the same command goes on from the last checkpoint, if that is of these settings"
MARK = "DSSM_TRAINING_UNDER_TEST"  # all processes of the command inherit it


def heed_interrupts() -> None:
    """Tests that a shell runs in its background ignore Ctrl-C, and all that they start would, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Command:
    """`./spark-submit.sh train`, and all processes that it starts."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._mark = str(folder)
        config = folder / f"{settings.name}.yaml"
        config.write_text(
            yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=True), sort_keys=False), encoding="utf-8"
        )
        self._output = (folder / "output").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [ROOT / "spark-submit.sh", "train", "--config", config],
            cwd=folder, env={**os.environ, MARK: self._mark}, stdout=self._output, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=heed_interrupts,
        )  # fmt: skip

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def alive(self, part: str = "", **told: str) -> list[psutil.Process]:
        """Returns its processes whose command holds a text, and whose environment so much.

        One that executes another program at this moment has neither, and is not among them.
        """
        found, told = [], {MARK: self._mark, **told}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # it has just ended
                holds = told.items() <= process.environ().items() and part in " ".join(process.cmdline())
                if holds and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def kill(self, part: str, **told: str) -> None:
        found = self.alive(part, **told)
        assert found, f"no process with {part}: {self.output}"
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):  # the one before has taken it along
                process.send_signal(signal.SIGKILL)

    def interrupt(self) -> None:
        """Is Ctrl-C: the terminal signals the whole group."""
        os.killpg(self._process.pid, signal.SIGINT)

    def wait(self, limit_s: float = 240) -> int:
        """Returns the exit code, when no process is left."""
        until = time.monotonic() + limit_s
        code = self._process.wait(timeout=limit_s)
        while self.alive():
            assert time.monotonic() < until, self.alive()
            time.sleep(0.1)
        return code

    @property
    def output(self) -> str:
        return Path(self._output.name).read_text(encoding="utf-8")

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.alive():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._output.close()


def steps_kept(settings: Settings) -> int:
    folders = checkpoints_in(RunPaths(settings.run_folder).checkpoints)
    return manifest_of(folders[0]).place.steps if folders else 0


def wait_until(holds: Callable[[], bool], command: Command, limit_s: float = 240) -> None:
    until = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < until, command.output
        assert command.running, command.output
        time.sleep(0.05)


@pytest.mark.timeout(1800)
def test_a_rank_and_then_the_driver_are_killed_and_then_it_is_interrupted(tmp_path: Path):
    calm, hurt = (write_run(tmp_path / launch, ROWS, **{**HOW, "launch": launch}) for launch in ("horovodrun", "spark"))
    train(calm)

    with Command(hurt, tmp_path) as command:
        wait_until(lambda: steps_kept(hurt) > 0, command)
        command.kill("gloo_exec_fn", HOROVOD_RANK="1")
        assert command.wait() == 1
        assert "Traceback" not in command.output
        assert "the same command goes on from the last checkpoint" in command.output
    kept = steps_kept(hurt)
    with Command(hurt, tmp_path) as command:
        wait_until(lambda: steps_kept(hurt) > kept, command)
        command.kill("org.apache.spark.deploy.SparkSubmit")
        assert command.wait() != 0
    kept = steps_kept(hurt)
    with Command(hurt, tmp_path) as command:
        wait_until(lambda: steps_kept(hurt) > kept, command)
        command.interrupt()
        assert command.wait() == INTERRUPTED, command.output
        # The JVM that the output goes through is interrupted too, and may be gone before the line.
        assert command.output.count(BROKEN_OFF) <= 1
        assert "a rank was lost" not in command.output
        # Horovod's thread in Spark's task has closed its pipe when a rank's last words come, and says so.
        assert command.output.count("Traceback") == command.output.count("RuntimeError: Pipe is closed")
    assert not storage.exists(RunPaths(hurt.run_folder).model)
    kept = steps_kept(hurt)
    with Command(hurt, tmp_path) as command:
        assert command.wait() == 0, command.output
        assert f"{kept:,} steps done" in command.output

    one, other = (read_checkpoint(f"{RunPaths(run.run_folder).model}/checkpoint")[1] for run in (hurt, calm))
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_a_training_in_one_process_is_interrupted(tmp_path: Path):
    # So many epochs that it has not ended by itself when a busy machine comes to send the signal.
    settings = write_run(tmp_path / "single", ROWS, **{**HOW, "launch": "single", "ranks": 1, "epochs": 200})
    with Command(settings, tmp_path) as command:
        wait_until(lambda: steps_kept(settings) > 0, command)
        command.interrupt()
        assert command.wait() == INTERRUPTED, command.output
        assert command.output.count(BROKEN_OFF) == 1
        assert "Traceback" not in command.output
    assert steps_kept(settings) > 0
