"""Runs in every rank of a launch: trains until rank 1 is lost at its third step.

`python -m tests.train.losing SETTINGS HOW`; HOW: killed (no goodbye), silent (it stops stepping) or failed (it raises).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import horovod.tensorflow as hvd

from dssm.train import worker
from dssm.train.step import make_step


def lose_a_rank(how: str) -> None:
    def losing_make_step(*arguments):
        step, steps = make_step(*arguments), 0

        def losing_step(*batches):
            nonlocal steps
            steps += 1
            if steps == 3 and hvd.rank() == 1:
                print(f"rank 1 is {how}", flush=True)
                if how == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                if how == "silent":
                    time.sleep(600)
                raise MemoryError("no room for the batch")
            return step(*batches)

        return losing_step

    worker.make_step = losing_make_step


if __name__ == "__main__":
    lose_a_rank(sys.argv[2])
    worker.train_worker(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print("the training went on", flush=True)
