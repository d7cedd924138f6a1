from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import horovod.tensorflow as hvd
import pytest
from tensorflow.python.framework.config import disable_op_determinism

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Launched:
    """A launch that has ended: its exit code and all that its ranks printed."""

    code: int
    output: str


def launch(
    ranks: int, module: str, *arguments: str, limit_s: float = 240, within: Sequence[str] = (), **environment: str
) -> Launched:
    """Runs `python -m module arguments` as ranks of horovodrun; fails where it does not end in time.

    Args: within: the command that runs the launch's own.
    """
    command = [sys.executable, "-m", "dssm.train.horovodrun", "-np", str(ranks), "--gloo", "--start-timeout", "60"]
    done = subprocess.run(
        [*within, *command, sys.executable, "-m", "tests.train.rank", module, *arguments],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "HOROVOD_GLOO_TIMEOUT_SECONDS": "60", **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=limit_s,
    )
    return Launched(done.returncode, done.stdout)


@pytest.fixture(scope="session")
def single_rank() -> None:
    """Makes this process Horovod's only rank."""
    hvd.init()
    assert hvd.size() == 1


@pytest.fixture
def deterministic_training() -> Iterator[None]:
    """Ends what a training with `train.deterministic` leaves behind: operations such as clocks refuse to run then."""
    yield
    disable_op_determinism()
