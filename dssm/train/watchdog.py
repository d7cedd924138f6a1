"""Ends a rank in which no step ends for too long: another has fallen silent, and would hold all of them for ever."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
import traceback
from pathlib import Path

SILENT = 97  # the exit code of such an end, which no signal and no interpreter has
LOOK_S = 0.5
LAST_WORDS_S = 2.0  # in which the other ranks, whose time is up as well, say where they stand
GRACE_S = 10  # after which an end is forced on a process whose native code lets no Python run
PACKAGE = Path(__file__).parents[1]


class Watchdog:
    """Watches one thread of this process."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._watched = 0
        self._rank = 0
        self._limit_s = 0.0
        self._setting = ""
        self._ends_at: float | None = None

    def expect(self, limit_s: float, rank: int, setting: str) -> None:
        """Ends the process unless this or `rest` is called within `limit_s`. Costs next to nothing: call it at will.

        Args: setting: that the limit is of.
        """
        self._rank, self._limit_s, self._setting = rank, limit_s, setting
        self._watched = threading.get_ident()
        self._ends_at = time.monotonic() + limit_s
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)
            self._thread.start()

    def rest(self) -> None:
        """Expects nothing until `expect` is called again."""
        self._ends_at = None
        faulthandler.cancel_dump_traceback_later()

    def _look(self) -> None:
        while True:
            time.sleep(LOOK_S)
            ends_at = self._ends_at
            if ends_at is None:
                faulthandler.cancel_dump_traceback_later()  # `rest` may have come between the look and what follows it
                continue
            left = ends_at - time.monotonic()
            if left <= 0 and ends_at == self._ends_at:
                self._end()
            faulthandler.dump_traceback_later(left + GRACE_S, exit=True)

    def _end(self) -> None:
        """Says where the watched thread stands, for the rank that fell silent stands elsewhere than those that wait."""
        print(
            f"rank {self._rank}: no step for {self._limit_s:g} s ({self._setting}); "
            f"it stands at {standing_at(self._watched)}",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(LAST_WORDS_S)  # the first to end makes the launcher end them all
        os._exit(SILENT)  # a rank that waits in a collective hears no exception


def standing_at(thread: int) -> str:
    """Returns the innermost line of this package that a thread is in, and the innermost of all."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "its end"
    stack = traceback.extract_stack(frame)
    own = [entry for entry in stack if PACKAGE in Path(entry.filename).parents]
    shown = dict.fromkeys(
        f"{Path(entry.filename).name}:{entry.lineno} {entry.name}" for entry in [*own[-1:], stack[-1]]
    )
    return ", in ".join(shown)


def how_it_ended(code: int) -> str:
    """Returns what the exit code of the first rank to end tells.

    >>> how_it_ended(137)
    'it ended with exit code 137, its output is above'
    """
    if code == SILENT:
        return "no step was taken in time; where each rank stood, and the limit, is above"
    return f"it ended with exit code {code}, its output is above"
