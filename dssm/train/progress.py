"""Progress of a training: rank 0 reports lines, whoever started it draws the bar."""

from __future__ import annotations

import json
import logging
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import IO

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from dssm.console import log, measured, out

MARK = "@dssm-progress "
LAST_REPORTS_S = 5  # wait for them at the end
REPORT_TO = "DSSM_REPORT_TO"  # environment: where the launcher listens for reports


@dataclass(frozen=True)
class Report:
    """The state after a step.

    Attributes:
      step: steps done in the epoch; `steps` in all.
      rows_per_s: rows of data, padding not counted, of all ranks over this process's training.
      loss: mean over the steps since the last report.
      seconds: since the epoch's start.
      input_wait: share of the time since the last report that was spent waiting for batches.
      exchange: share of the time since the last report that went into the ranks' exchange, waiting for a slower rank
        included; None of one rank, and where it is not timed.
      learning_rate: of the last step.
      auc: on the test samples; given with the epoch's last report.
      validation: the metric that chooses the best epoch, and its value; likewise.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    rows_per_s: float
    loss: float
    seconds: float
    auc: float | None = None
    validation: str | None = None
    input_wait: float = 0.0
    exchange: float | None = None
    learning_rate: float = 0.0


@dataclass(frozen=True)
class Note:
    """Text that is shown once, before or between reports."""

    note: str


Show = Callable[[Report | Note], None]


def as_line(report: Report | Note) -> str:
    return MARK + json.dumps(asdict(report))


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """Returns a table as lines of aligned columns, the first to the left and others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        return "  ".join(["", first.strip().ljust(widths[0]), *others]).rstrip()

    return "\n".join(map(line, rows))


class ProgressView:
    """Draws reports: a bar with ETA on a terminal, and a line an epoch everywhere."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.fields[epoch]}"),
            BarColumn(20, table_column=Column(no_wrap=True)),
            TextColumn("ETA"),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[state]}", table_column=Column(overflow="fold")),  # the one to wrap if it's narrow
            console=out,
            transient=True,
            disable=not out.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, epoch="starting the ranks", state="")
        self._shown = time.monotonic()

    def __enter__(self) -> ProgressView:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, report: Report | Note) -> None:
        if isinstance(report, Note):
            out.print(report.note, style="dim", markup=False, highlight=False)
            return
        total = report.epochs * report.steps
        done = (report.epoch - 1) * report.steps + report.step
        epoch = f"{report.epoch}/{report.epochs}"
        state = f"loss {report.loss:.4f}  {report.rows_per_s:,.0f} samples/s"
        steps = f"step {report.step}/{report.steps}  {state}  input wait {report.input_wait:.0%}"
        if report.exchange is not None:
            steps += f"  exchange {report.exchange:.0%}"
        steps += f"  learning rate {report.learning_rate:.3g}"
        self._bar.update(self._task, completed=done, total=total, epoch=f"epoch {epoch}", state=steps)
        if report.auc is not None:
            validation = f"  validation {report.validation}" if report.validation else ""
            told = f"  epoch {epoch}  {state}  test AUC {report.auc:.4f}{validation}"
            out.print(told, level=None)
        elif not out.is_terminal and time.monotonic() - self._shown > 10:  # a log file wants a sign of life
            left = report.seconds / report.step * (total - done)
            told = f"  epoch {epoch}  {steps}  ETA {left:.0f} s"
            out.print(told, level=None)
        else:
            self._log(f"epoch {epoch}  {steps}", report, logging.DEBUG)
            return
        self._log(told.strip(), report)
        self._shown = time.monotonic()

    @staticmethod
    def _log(told: str, report: Report, level: int = logging.INFO) -> None:
        measures = {"loss": report.loss, "samples_per_s": report.rows_per_s, "input_wait": report.input_wait}
        measured(told, measures, level)


class ReportListener:
    """Listens for rank 0's reports: Horovod forwards the ranks' output in blocks, minutes late.

    Only who knows the token, which goes to the ranks with their settings, is listened to. Each connection has a thread:
    an elastic training's first rank 0 may have been cut off, which closes nothing, before another reports.
    """

    def __init__(self, show: Show, host: str) -> None:
        self._show = show
        self._token = secrets.token_hex(16)
        self._server = socket.create_server((host, 0))
        self.address = f"{host}:{self._server.getsockname()[1]}:{self._token}"

    def __enter__(self) -> ReportListener:
        self._threads = [threading.Thread(target=self._listen, name="progress", daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)  # closing alone does not end a waiting accept
        limit = time.monotonic() + LAST_REPORTS_S  # rank 0 has closed its end
        for thread in self._threads:
            thread.join(timeout=max(0.0, limit - time.monotonic()))
        self._server.close()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:  # shut down: the training is over
                return
            self._threads.append(threading.Thread(target=self._hear, args=(connection,), name="reports", daemon=True))
            self._threads[-1].start()

    def _hear(self, connection: socket.socket) -> None:
        with connection, connection.makefile(encoding="utf-8", errors="replace") as lines:
            if lines.readline().strip() != self._token:
                return
            for line in lines:
                if report := _parsed(line):
                    self._show(report)


def reporter(address: str | None) -> Show:
    """Returns what rank 0 calls with its reports: they go to a listener or, where none answers, to the output."""
    if address:
        host, port, token = address.rsplit(":", 2)
        try:
            connection = socket.create_connection((host, int(port)), timeout=10)
            connection.sendall(f"{token}\n".encode())
        except OSError as error:
            print(f"progress: no answer from {host}:{port} ({error}); reports go to the output", flush=True)
        else:
            return _Sender(connection)
    return _print


class _Sender:
    def __init__(self, connection: socket.socket) -> None:
        self._connection: socket.socket | None = connection

    def __call__(self, report: Report | Note) -> None:
        if self._connection is not None:
            try:
                self._connection.sendall(f"{as_line(report)}\n".encode())
            except OSError:  # the listener is gone; a training does not end for that
                self._connection = None
        if self._connection is None:
            _print(report)


def _print(report: Report | Note) -> None:
    print(as_line(report), flush=True)


def _parsed(line: str) -> Report | Note | None:
    """Returns a line's report or note; None where it has none, or other output has run into it."""
    try:
        found = json.loads(line.partition(MARK)[2])
        return Note(**found) if "note" in found else Report(**found)
    except (ValueError, TypeError):
        return None


class ReportStream:
    """A text stream for the output of other processes: reports go to a view, other lines are kept or passed on."""

    def __init__(self, show: Show, passed: IO[str] | None = None) -> None:
        self._show, self._passed = show, passed or sys.stderr
        self._held = ""

    def write(self, text: str) -> int:
        *lines, self._held = (self._held + text).split("\n")
        for line in lines:
            if report := _parsed(line):
                self._show(report)
            elif line.strip():
                self._passed.write(line + "\n")
                log(line)
        return len(text)

    def flush(self) -> None:
        self._passed.flush()
