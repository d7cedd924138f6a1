"""What a person sees on the terminal: steps with their time, tables, errors."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

WIDTH_OF_A_FILE = 120  # rich takes 80 where there is no terminal, too few for the tables
TERMINAL = "DSSM_TERMINAL"


def terminal_environment() -> dict[str, str]:
    """Returns what tells a job under spark-submit where this process's terminal is, if it has one.

    spark-submit pipes the output of a Python driver through its JVM: without this, a person would see
    neither colours nor progress bars.
    """
    if not sys.stdout.isatty():
        return {}
    size = shutil.get_terminal_size()
    return {TERMINAL: os.ttyname(sys.stdout.fileno()), "COLUMNS": str(size.columns), "LINES": str(size.lines)}


def _console(stderr: bool) -> Console:
    terminal = os.environ.get(TERMINAL)
    if terminal:
        try:
            return Console(file=Path(terminal).open("w", encoding="utf-8"), force_terminal=True, highlight=False)
        except OSError:  # the terminal has been closed since
            pass
    console = Console(highlight=False, soft_wrap=True, stderr=stderr)
    return (
        console
        if console.is_terminal
        else Console(highlight=False, soft_wrap=True, stderr=stderr, width=WIDTH_OF_A_FILE)
    )


out, err = _console(stderr=False), _console(stderr=True)


@contextlib.contextmanager
def step(title: str) -> Iterator[list[str]]:
    """Shows a step while it runs (where there is a terminal) and its time when it is done.

    Yields: a list for remarks, such as counts, that the closing line shows.
    """
    remarks: list[str] = []
    started = time.monotonic()
    with out.status(title) if out.is_terminal else contextlib.nullcontext():
        yield remarks
    seconds = time.monotonic() - started
    remark = f"  [dim]{', '.join(remarks)}[/dim]" if remarks else ""
    out.print(f"[green]✓[/green] {title} [dim]{seconds:.1f} s[/dim]{remark}")


def heading(text: str) -> None:
    out.print(f"[bold]{text}[/bold]")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[int] = (0,)) -> None:
    """Prints a table. Args: texts: places of the columns of text; the others are numbers."""
    drawn = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        drawn.add_column(column, justify="left" if place in texts else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    out.print(drawn)
