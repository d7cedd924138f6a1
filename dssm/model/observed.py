"""Numbers that a layer or a loss has at hand and a reader of the training's curves wants to see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import tensorflow as tf

_OBSERVED: ContextVar[dict[str, tf.Tensor] | None] = ContextVar("observed", default=None)
_PART: ContextVar[str] = ContextVar("part", default="")


@contextmanager
def observing() -> Iterator[dict[str, tf.Tensor]]:
    """Yields what is observed inside, scalars by name; it grows while the step is traced."""
    found: dict[str, tf.Tensor] = {}
    token = _OBSERVED.set(found)
    try:
        yield found
    finally:
        _OBSERVED.reset(token)


@contextmanager
def observing_part(name: str) -> Iterator[None]:
    """Adds `/name` to what is observed inside, where each of several parts observes the same."""
    token = _PART.set(f"/{name}")
    try:
        yield
    finally:
        _PART.reset(token)


def observe(name: str, value: Callable[[], tf.Tensor]) -> None:
    """Notes a number. Args: value: makes it, and is called where somebody observes."""
    found = _OBSERVED.get()
    if found is not None:
        found[f"{name}{_PART.get()}"] = value()
