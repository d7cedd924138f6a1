"""Runs in every rank of a launch (`python -m tests.train.stepping FOLDER`): a training that can be watched and hurt.

FOLDER/settings.json holds the settings. Each process notes "RANKS RANK" a step in FOLDER/steps-PID. FOLDER/slow has
seconds to sleep before a step. FOLDER/kill, "rank R at step S", makes that rank kill itself there, once: the file goes.
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

from dssm.train import worker
from dssm.train.step import make_step

FOLDER = Path(sys.argv[1])
taken = 0


def watched_make_step(*arguments: Any) -> Any:
    step = make_step(*arguments)

    def watched(*batches: Any) -> Any:
        global taken
        taken += 1
        kill = FOLDER / "kill"
        if kill.exists():
            rank, number = map(int, re.findall(r"\d+", kill.read_text(encoding="utf-8")))
            if (hvd.rank(), taken) == (rank, number):
                kill.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        if (FOLDER / "slow").exists():
            time.sleep(float((FOLDER / "slow").read_text(encoding="utf-8")))
        losses = step(*batches)
        with (FOLDER / f"steps-{os.getpid()}").open("a", encoding="utf-8") as steps:
            steps.write(f"{hvd.size()} {hvd.rank()}\n")
        return losses

    return watched


if __name__ == "__main__":
    worker.make_step = watched_make_step
    worker.train_worker((FOLDER / "settings.json").read_text(encoding="utf-8"), str(FOLDER / "result.json"))
