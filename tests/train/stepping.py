"""Runs in every rank of a launch (`python -m tests.train.stepping FOLDER`): a training that can be watched and hurt.

FOLDER/settings.json holds the settings. Each process notes "RANKS RANK" a step in FOLDER/steps-PID,
and the keys of the step's rows in FOLDER/keys-PID. FOLDER/slow has
seconds to sleep before a step, by rank; the last number is of the ranks after it too. FOLDER/kill, "rank R at step S",
makes that rank kill itself there, once: the file goes; "rank R at step S after C" lets the checkpoint of step C, which
a thread writes, become whole first.
FOLDER/kill_meeting, "rank R", makes that rank kill itself, once, when the ranks that are left meet again.
FOLDER/slow_store has seconds that a rank other than 0 needs to put a file into the store.
The result comes into FOLDER/result.json.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import horovod.tensorflow as hvd
import horovod.tensorflow.elastic as horovods_elastic

from dssm import storage
from dssm.config import Settings
from dssm.manifest import USER_KEY, WEIGHT
from dssm.paths import RunPaths
from dssm.train import worker
from dssm.train.step import make_step

FOLDER = Path(sys.argv[1])
taken = 0


def kill_order() -> list[int]:
    """Returns the numbers in FOLDER/kill; two that no rank and step have where it is not there, or was just taken."""
    try:
        return [int(number) for number in re.findall(r"\d+", (FOLDER / "kill").read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return [-1, -1]


def wait_for_checkpoint(steps: int, limit_s: float = 15) -> None:
    """Returns when there is one of so many steps, or a later one: only the newest are kept."""
    settings = Settings.model_validate_json((FOLDER / "settings.json").read_text(encoding="utf-8"))
    checkpoints = Path(RunPaths(settings.run_folder).checkpoints)
    until = time.monotonic() + limit_s
    while not any(int(path.name.split("-")[1]) >= steps for path in checkpoints.glob("step-*-*")):
        assert time.monotonic() < until, f"no checkpoint of step {steps} after {limit_s} s"
        time.sleep(0.02)


def watched_make_step(*arguments: Any) -> Any:
    step = make_step(*arguments)

    def watched(*batches: Any) -> Any:
        global taken
        taken += 1
        rank, number, *checkpoint = kill_order()
        if (hvd.rank(), taken) == (rank, number):
            for steps in checkpoint:
                wait_for_checkpoint(steps)
            (FOLDER / "kill").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if (FOLDER / "slow").exists():
            seconds = (FOLDER / "slow").read_text(encoding="utf-8").split()
            time.sleep(float(seconds[min(hvd.rank(), len(seconds) - 1)]))
        losses = step(*batches)
        with (FOLDER / f"steps-{os.getpid()}").open("a", encoding="utf-8") as steps:
            steps.write(f"{hvd.size()} {hvd.rank()}\n")
        batch = batches[0]
        with (FOLDER / f"keys-{os.getpid()}").open("a", encoding="utf-8") as keys:
            keys.write(" ".join(map(str, batch[USER_KEY][batch[WEIGHT] > 0].numpy())) + "\n")
        return losses

    return watched


def watched_shutdown() -> None:
    """Horovod's elastic loop begins with it after a loss."""
    order = FOLDER / "kill_meeting"
    if order.exists() and order.read_text(encoding="utf-8") == f"rank {hvd.rank()}":
        order.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    hvd.shutdown()


def slow_put_file(*given: str) -> None:
    if (FOLDER / "slow_store").exists() and hvd.rank():
        time.sleep(float((FOLDER / "slow_store").read_text(encoding="utf-8")))
    put_file(*given)


put_file, storage.put_file = storage.put_file, slow_put_file
horovods_elastic.shutdown = watched_shutdown

if __name__ == "__main__":
    worker.make_step = watched_make_step
    worker.train_worker((FOLDER / "settings.json").read_text(encoding="utf-8"), str(FOLDER / "result.json"))
