"""What a job says: steps with their time, tables, lines. A person sees it on the terminal; the log keeps it.

Whatever is printed here is also a record of the logger `dssm`, which has a file while a job runs (`dssm.observe`). What
a record holds beside its text, such as counts and seconds, stands in its `fields`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.control import Control
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from dssm.narrow_tables import drawn_table

WIDTH_OF_A_FILE = 120  # rich takes 80 where there is no terminal, too few for the tables
TERMINAL = "DSSM_TERMINAL"
LOGGER = logging.getLogger("dssm")
LOGGER.propagate = False  # the terminal has it already
OFF = logging.CRITICAL + 1  # while no log is open: a logger without a file would print warnings itself
LOGGER.setLevel(OFF)
STAGE: ContextVar[str | None] = ContextVar("stage", default=None)  # that goes on in this thread


def terminal_environment() -> dict[str, str]:
    """Returns what tells a job under spark-submit where this process's terminal is, if it has one.

    spark-submit pipes the output of a Python driver through its JVM: without this, a person would see
    neither colours nor progress bars.
    """
    if not sys.stdout.isatty():
        return {}
    size = shutil.get_terminal_size()
    return {TERMINAL: os.ttyname(sys.stdout.fileno()), "COLUMNS": str(size.columns), "LINES": str(size.lines)}


class LoggedConsole(Console):
    """A console whose output is logged, too, without its styles."""

    def print(self, *objects: Any, level: int | None = logging.INFO, **options: Any) -> None:
        """Prints as rich does. Args: level: of the record; None: none is made."""
        super().print(*objects, **options)
        if (
            level is not None
            and LOGGER.isEnabledFor(level)
            and not any(isinstance(shown, Control) for shown in objects)
        ):
            markup = options.get("markup", True)
            for line in "\n".join(_plain(shown, markup) for shown in objects).splitlines():
                if line.strip():
                    log(line.strip(), level)


def _plain(shown: RenderableType, markup: bool) -> str:
    if isinstance(shown, str):
        return Text.from_markup(shown).plain if markup else shown
    if isinstance(shown, Text):
        return shown.plain
    drawn = io.StringIO()
    Console(file=drawn, width=WIDTH_OF_A_FILE, highlight=False).print(shown)
    return drawn.getvalue()


def log(message: str, level: int = logging.INFO, **fields: Any) -> None:
    """Makes a record that nobody sees on the terminal. Args: fields: what it holds beside the text."""
    LOGGER.log(level, "%s", message, extra={"fields": {"stage": STAGE.get(), **fields}})


def _console(stderr: bool) -> LoggedConsole:
    terminal = os.environ.get(TERMINAL)
    if terminal:
        try:
            return LoggedConsole(file=Path(terminal).open("w", encoding="utf-8"), force_terminal=True, highlight=False)
        except OSError:  # the terminal has been closed since
            pass
    console = LoggedConsole(highlight=False, soft_wrap=True, stderr=stderr)
    return (
        console
        if console.is_terminal
        else LoggedConsole(highlight=False, soft_wrap=True, stderr=stderr, width=WIDTH_OF_A_FILE)
    )


out, err = _console(stderr=False), _console(stderr=True)


class Remarks(list[str]):
    """What the closing line of a step says, and the counts among it."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def counted(self, what: str, number: int, shown: str | None = None) -> None:
        """Adds a count. Args: shown: the remark; default: `what 1,234`."""
        self.counts[what] = number
        self.append(shown if shown is not None else f"{what} {number:,}")


class _Display:
    """The steps that go on, where there is a terminal: rich draws one display at a time, and dates run side by side."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._shown: set[TaskID] = set()

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        if not out.is_terminal:
            yield
            return
        with self._lock:
            if self._progress is None:
                self._progress = Progress(
                    SpinnerColumn(),
                    TextColumn("{task.description}", markup=False),
                    BarColumn(20),
                    TextColumn("{task.fields[state]}"),
                    TimeElapsedColumn(),
                    console=out,
                    transient=True,
                )
                self._progress.start()
            progress = self._progress
            task = progress.add_task(title, total=None, state="")
            self._shown.add(task)
        try:
            yield
        finally:
            with self._lock:
                self._shown.remove(task)
                progress.remove_task(task)
                if not self._shown:
                    progress.stop()
                    self._progress = None

    def tell(self, done: int, total: int, state: str) -> None:
        with self._lock:
            for task in self._shown:
                assert self._progress is not None
                self._progress.update(task, completed=done, total=total or None, state=state)


_display = _Display()


def show_progress(done: int, total: int, state: str) -> None:
    """Shows beside the steps that go on how far the work is; total 0: nobody knows. Needs a terminal."""
    _display.tell(done, total, state)


@contextlib.contextmanager
def step(title: str, stage: str | None = None) -> Iterator[Remarks]:
    """Shows a step while it runs (where there is a terminal) and its time when it is done.

    Args:
      stage: its name in the log and the metrics, the same each day; default: the title.
    Yields: a list for remarks, such as counts, that the closing line shows.
    """
    remarks, started = Remarks(), time.monotonic()
    token = STAGE.set(stage or title)
    try:
        log(f"{title}: begins", logging.DEBUG)
        with _display.step(title):
            yield remarks
        seconds = time.monotonic() - started
        remark = f"  [dim]{', '.join(remarks)}[/dim]" if remarks else ""
        out.print(f"[green]✓[/green] {title} [dim]{seconds:.1f} s[/dim]{remark}", level=None)
        told = f": {', '.join(remarks)}" if remarks else ""
        log(f"{title} done{told}", seconds=round(seconds, 3), counts=remarks.counts)
    except BaseException as error:
        seconds = time.monotonic() - started
        log(f"{title} failed: {type(error).__name__}", logging.ERROR, seconds=round(seconds, 3), failed=True)
        raise
    finally:
        STAGE.reset(token)


def measured(message: str, measures: Mapping[str, float], level: int = logging.INFO) -> None:
    """Logs numbers of the moment, such as a training's loss: the last of each goes into the job's metrics."""
    log(message, level, measures=dict(measures))


def warn(text: str) -> None:
    """Prints a line that someone should read."""
    out.print(text, style="yellow", markup=False, level=logging.WARNING)


@functools.lru_cache(maxsize=64)
def warn_once(text: str) -> None:
    """Prints a line as `warn` does, unless it was said lately: for what is looked at again and again."""
    warn(text)


def heading(text: str) -> None:
    out.print(f"[bold]{text}[/bold]")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[int] = (0,)) -> None:
    """Prints a table. Args: texts: places of the columns of text; the others are numbers."""
    out.print(drawn_table(title, columns, rows, out.width, texts), level=None, crop=False)
    log(title, columns=list(columns), rows=[list(row) for row in rows])  # lines of a drawing are no use to a reader
