"""What the time of a training goes into."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from dssm.stream.batches import Batch


@dataclass(frozen=True)
class TimeShares:
    """Attributes: input_wait, exchange: shares of a time; the latter is None with one rank."""

    input_wait: float
    exchange: float | None


@dataclass(frozen=True)
class OwnTime:
    """One rank's steps.

    Attributes:
      rows: of this rank, those with a weight.
      seconds: that they took.
      exchange_s: of those, in the exchange, waiting for other ranks included; NaN where that is not timed.
    """

    rows: float = 0.0
    seconds: float = 0.0
    exchange_s: float = 0.0


class Clock:
    """Measures steps: all of this process, and those since the last look at it."""

    def __init__(self) -> None:
        self._trained_s = self._rows = self._waited_s = self._bytes = self._counted = 0.0
        self._seconds = self._steps = 0.0
        self._wait = self._span = 0.0
        self._rows_per_step = 0.0
        self._own = OwnTime()
        self._last = time.monotonic()

    def start(self, rows_per_step: float) -> None:
        """Begins a pass. Args: rows_per_step: of all ranks, padding not counted, on the mean."""
        self._rows_per_step = rows_per_step
        self._seconds = self._steps = 0.0
        self._wait = self._span = 0.0
        self._own = OwnTime()
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

    def look(self, exchange_s: float | None, received_bytes: float | None, steps: int, rows: int) -> TimeShares:
        """Returns where the time since the last look went.

        Args:
          exchange_s, received_bytes: of a step, on the mean; None with one rank.
          steps, rows: since the last look, the rows of this rank.
        """
        exchanged_s = None if exchange_s is None else exchange_s * steps
        shares = TimeShares(self._wait / self._span, None if exchanged_s is None else exchanged_s / self._span)
        waited_s = float("nan") if exchanged_s is None else exchanged_s
        own = self._own
        self._own = OwnTime(own.rows + rows, own.seconds + self._span, own.exchange_s + waited_s)
        self._waited_s += self._wait
        self._wait = self._span = 0.0
        if received_bytes is not None:
            self._bytes += received_bytes * steps
            self._counted += steps
        return shares

    def take_own(self) -> OwnTime:
        """Returns this rank's steps since it was last asked in this pass, as far as they were looked at."""
        own, self._own = self._own, OwnTime()
        return own

    @property
    def waited(self) -> float:
        """Share of this process's training that was spent waiting for batches."""
        return self._waited_s / self._trained_s if self._trained_s else 0.0

    @property
    def bytes_per_step(self) -> float | None:
        return self._bytes / self._counted if self._counted else None
