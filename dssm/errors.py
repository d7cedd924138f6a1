"""Errors that end a job with a message instead of a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class UserError(Exception):
    """Something that the user can mend: a setting, a path, the data. Exit code 2."""

    exit_code = 2


class GateError(UserError):
    """A quality gate refused to publish; what was published before stays. Exit code 3."""

    exit_code = 3

    def __init__(self, told: str, decisions: Sequence[Any] = ()) -> None:
        """Args: decisions: GateDecision of each gate that had looked by then, of a published table."""
        super().__init__(told)
        self.decisions = decisions


class LostRankError(UserError):
    """A rank or its host was lost; the same command goes on. Exit code 1, after which a scheduler tries again."""

    exit_code = 1

    def __init__(self, found: str) -> None:
        """Args: found: how the launcher noticed."""
        super().__init__(
            f"train: a rank was lost: {found}; the same command goes on from the last checkpoint "
            "(train.checkpoint says when one is written)"
        )


class ReplacedError(UserError):
    """Another job replaced what this one was reading; the same command takes what is there now. Exit code 1.

    After that a scheduler tries again.
    """

    exit_code = 1


INTERRUPTED = 130


def exit_code_of(error: BaseException) -> int:
    """Returns the exit code of a job that an error ends."""
    if isinstance(error, UserError):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ` (did you mean 'x'?)` for the nearest known word, else the known words.

    >>> did_you_mean("topicid", ["topic_id", "client_id"])
    " (did you mean 'topic_id'?)"
    >>> did_you_mean("zzz", ["a", "b"])
    ' (known: a, b)'
    """
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1)
    if near:
        return f" (did you mean '{near[0]}'?)"
    return f" (known: {', '.join(words)})" if words else ""


def no_objective(objective: str, known: Iterable[str]) -> str:
    """Returns what is told where a model has no such objective. Args: known: those it has, none where it has one."""
    return f"no objective is named '{objective}'{did_you_mean(objective, known) or ' (the model has one only)'}"
