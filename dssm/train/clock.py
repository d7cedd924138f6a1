"""What the time of a training goes into."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from dssm.stream.batches import Batch


@dataclass(frozen=True)
class Shares:
    """Attributes: input_wait, exchange: shares of a time; the latter is None with one rank."""

    input_wait: float
    exchange: float | None


class Clock:
    """Measures steps: all of this process, and those since the last look at it."""

    def __init__(self) -> None:
        self._trained_s = self._rows = self._waited_s = self._bytes = self._counted = 0.0
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

    def look(self, exchange_s: float | None, received_bytes: float | None, steps: int) -> Shares:
        """Returns where the time since the last look went.

        Args: exchange_s, received_bytes: of a step, on the mean; None with one rank; steps: since the last look.
        """
        shares = Shares(self._wait / self._span, None if exchange_s is None else exchange_s * steps / self._span)
        self._waited_s += self._wait
        self._wait = self._span = 0.0
        if received_bytes is not None:
            self._bytes += received_bytes * steps
            self._counted += steps
        return shares

    @property
    def waited(self) -> float:
        """Share of this process's training that was spent waiting for batches."""
        return self._waited_s / self._trained_s if self._trained_s else 0.0

    @property
    def bytes_per_step(self) -> float | None:
        return self._bytes / self._counted if self._counted else None
