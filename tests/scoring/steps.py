"""Faults at a step: what changes something outside the process is counted, and one of the steps fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileOpener, LocalFileSystem

from dssm import storage

FAULTS = (("before", True), ("before", False), ("after", True), ("after", False), ("midway", True))
"""(when, dead) of `Steps`."""


class KilledError(BaseException):
    """As KeyboardInterrupt: nothing that handles errors stops it."""


class Steps:
    """Everything that changes something outside the process, counted; one of the steps fails.

    Args:
      at: which one, from 0; −1: none.
      when: before it has an effect, after it, or in the midst of it where it is a removal.
      dead: whether the process is gone from then on, so that nothing it would clean up gets done.
      but: what is done to paths with this in them is no step.
      kill: whether the process is killed at the step, in earnest.

    Attributes:
      names: of the steps, in their order.
    """

    def __init__(
        self, at: int = -1, when: str = "before", dead: bool = False, but: str | None = None, kill: bool = False
    ) -> None:
        self.at, self.when, self.dead, self.but, self.kill, self.failed = at, when, dead, but, kill, False
        self.names: list[str] = []

    @property
    def count(self) -> int:
        return len(self.names)

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            if self.failed and self.dead:
                raise KilledError
            if self.but is not None and any(self.but in str(argument) for argument in args):
                return function(*args, **kwargs)
            number = self.count
            self.names.append(function.__name__)
            if number != self.at:
                return function(*args, **kwargs)
            self.failed = True
            if self.when == "midway" and function.__name__ == "remove":
                for path in sorted(Path(args[0]).rglob("*.json"))[:1]:
                    path.unlink()
            if self.when == "after":
                function(*args, **kwargs)
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KilledError if self.dead else OSError(28, "No space left on device")

        step.__name__ = function.__name__
        return step

    def in_storage(self, patched: pytest.MonkeyPatch) -> None:
        """Counts folders made, small files written, renames and removals."""
        for name in ("_rename", "remove", "make_folder"):
            patched.setattr(storage, name, self.wrap(getattr(storage, name)))
        patched.setattr(LocalFileSystem, "pipe_file", self.wrap(LocalFileSystem.pipe_file))

    def in_files(self, patched: pytest.MonkeyPatch) -> None:
        """Counts what a task does: folders made, files opened, each write, removals."""
        for name in ("remove", "make_folder"):
            patched.setattr(storage, name, self.wrap(getattr(storage, name)))
        patched.setattr(LocalFileSystem, "open", self.wrap(LocalFileSystem.open))
        patched.setattr(LocalFileOpener, "write", self.wrap(LocalFileOpener.write))

    def in_metastore(self, patched: pytest.MonkeyPatch, metastore: Any) -> None:
        for name in ("prepare", "move", "describe", "rows"):
            patched.setattr(metastore, name, self.wrap(getattr(metastore, name)))
