"""What this rank's watchdog expects of it: steps, a pause that is not too long, or nothing."""

from __future__ import annotations

import horovod.tensorflow as hvd

from dssm.config import Settings
from dssm.train.watchdog import Watchdog

_WATCHDOG = Watchdog()  # of this process, which is one rank


def expect_progress(settings: Settings, more_s: int = 0) -> None:
    """Ends this rank, and so the job, unless it is called again in time: another rank may have fallen silent.

    Args: more_s: seconds beside train.stall_shutdown_s.

    Horovod's stall inspector is there for this, but in 0.28.1 under Gloo it does not end the job (measured).
    """
    if hvd.size() > 1:
        _WATCHDOG.expect(settings.train.stall_shutdown_s + more_s, hvd.rank(), "train.stall_shutdown_s")


def expect_pause(settings: Settings) -> None:
    """As `expect_progress`, where no steps are taken: while ranks set up, write what they wait for, or save."""
    if hvd.size() > 1:
        _WATCHDOG.expect(settings.train.pause_limit_s, hvd.rank(), "train.pause_limit_s")


def expect_nothing() -> None:
    """Lets this rank take its time until `expect_progress` is called again."""
    _WATCHDOG.rest()
