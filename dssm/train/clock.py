"""What the time of a training goes into."""

from __future__ import annotations

import time
from collections.abc import Iterator

from dssm.stream.batches import Batch


class Clock:
    """Measures steps: all of this process, and those since the last look at it."""

    def __init__(self) -> None:
        self._trained_s = self._rows = 0.0
        self._seconds = self._steps = 0.0
        self._wait = self._span = 0.0
        self._rows_per_step = 0.0
        self._last = time.monotonic()

    def start(self, rows_per_step: float) -> None:
        """Begins a pass. Args: rows_per_step: of all ranks, padding not counted, on the mean."""
        self._rows_per_step = rows_per_step
        self._seconds = self._steps = 0.0
        self._wait = self._span = 0.0
        self._last = time.monotonic()

    def waited_for(self, batches: Iterator[Batch]) -> Batch:
        started = time.monotonic()
        batch = next(batches)
        self._wait += time.monotonic() - started
        return batch

    def stepped(self) -> None:
        now = time.monotonic()
        passed, self._last = now - self._last, now
        self._span += passed
        self._seconds += passed
        self._trained_s += passed
        self._steps += 1
        self._rows += self._rows_per_step

    @property
    def seconds(self) -> float:
        """Of this process in the pass."""
        return self._seconds

    @property
    def rows_per_s(self) -> float:
        """Of all ranks, over this process's training."""
        return self._rows / self._trained_s if self._trained_s else 0.0

    @property
    def input_wait(self) -> float:
        """Returns the share of the time since the last call that was spent waiting for batches."""
        share = self._wait / self._span if self._span else 0.0
        self._wait = self._span = 0.0
        return share
