"""What a training's time goes into, on request: TensorFlow's profile of some steps, and Horovod's timeline."""

from __future__ import annotations

import tensorflow as tf

FIRST, STEPS = 20, 20  # steps that are profiled: the first ones trace and warm up


class StepProfile:
    """Profiles steps FIRST to FIRST + STEPS − 1 of this process.

    Args: folder: TensorBoard's, whose Profile tab shows it; None: nothing is profiled.
    """

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._taken = 0
        self._runs = False

    def before_step(self) -> None:
        if self._folder is None:
            return
        if self._taken == FIRST:
            tf.profiler.experimental.start(self._folder)
            self._runs = True
        elif self._taken == FIRST + STEPS:
            self.stop()
        self._taken += 1

    @property
    def is_missing(self) -> bool:
        """Whether a profile was asked for, and no step came to it."""
        return self._folder is not None and self._taken <= FIRST

    def stop(self) -> None:
        """Writes what there is; a training of few steps ends before its last one."""
        if self._runs:
            tf.profiler.experimental.stop()
            self._runs = False
