"""Progress of a training: rank 0 reports lines, whoever started it draws the bar."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import IO

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from dssm.console import out

MARK = "@dssm-progress "


@dataclass(frozen=True)
class Report:
    """The state after a step.

    Attributes:
      step: steps done in the epoch; `steps` in all.
      rows_per_s: rows of data, padding not counted, of all ranks since the epoch's start.
      loss: mean over the steps since the last report.
      seconds: since the epoch's start.
      auc: on the test samples; given with the epoch's last report.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    rows_per_s: float
    loss: float
    seconds: float
    auc: float | None = None


def as_line(report: Report) -> str:
    return MARK + json.dumps(asdict(report))


class ProgressView:
    """Draws reports: a bar with ETA on a terminal, and a line an epoch everywhere."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("step {task.completed}/{task.total}  {task.fields[state]}  ETA"),
            TimeRemainingColumn(),
            console=out,
            transient=True,
            disable=not out.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, epoch="", state="")
        self._shown = time.monotonic()

    def __enter__(self) -> ProgressView:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, report: Report) -> None:
        total = report.epochs * report.steps
        done = (report.epoch - 1) * report.steps + report.step
        epoch = f"{report.epoch}/{report.epochs}"
        state = f"loss {report.loss:.4f}  {report.rows_per_s:,.0f} samples/s"
        self._bar.update(self._task, completed=done, total=total, epoch=epoch, state=state)
        if report.auc is not None:
            out.print(f"  epoch {epoch}  {state}  AUC {report.auc:.4f}")
        elif not out.is_terminal and time.monotonic() - self._shown > 10:  # a log file wants a sign of life
            left = report.seconds / report.step * (total - done)
            out.print(f"  epoch {epoch}  step {report.step}/{report.steps}  {state}  ETA {left:.0f} s")
        else:
            return
        self._shown = time.monotonic()


class ReportStream:
    """A text stream for the output of other processes: reports go to a view, other lines are kept or passed on."""

    def __init__(self, show: Callable[[Report], None], passed: IO[str] | None = None) -> None:
        self._show, self._passed = show, passed or sys.stderr
        self._held = ""

    def write(self, text: str) -> int:
        *lines, self._held = (self._held + text).split("\n")
        for line in lines:
            _, mark, report = line.partition(MARK)
            if mark:
                self._show(Report(**json.loads(report)))
            elif line.strip():
                self._passed.write(line + "\n")
        return len(text)

    def flush(self) -> None:
        self._passed.flush()
