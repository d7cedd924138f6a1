"""Runs in every rank of a launch: trains until a rank is lost.

`python -m tests.train.losing SETTINGS HOW`; HOW, of rank 1 at its third step: killed (no goodbye), silent (it stops
stepping) or failed (it raises). Or where a rank falls silent: setting_up (rank 1), saving (rank 0).
slow_best: no rank is lost, but rank 0's store needs 12 s for the best epoch.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import horovod.tensorflow as hvd

from dssm.model.towers import build_towers
from dssm.train import state, worker
from dssm.train.checkpoint import write_checkpoint
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


def setting_up(*_):
    if hvd.rank() == 1:
        time.sleep(600)
    return build_towers(*_)


def slow_best(folder, *others):
    if "best-" in folder:
        time.sleep(12)
    return write_checkpoint(folder, *others)


def saving(*_):
    time.sleep(600)


if __name__ == "__main__":
    if sys.argv[2] == "setting_up":
        worker.build_towers = setting_up
    elif sys.argv[2] == "saving":
        worker.save_model = saving  # rank 0's alone
    elif sys.argv[2] == "slow_best":
        state.write_checkpoint = slow_best  # rank 0's alone: the tables are whole on each
    else:
        lose_a_rank(sys.argv[2])
    worker.train_worker(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print("the training went on", flush=True)
