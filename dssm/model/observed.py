"""Numbers that a layer or a loss has at hand and a reader of the training's curves wants to see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import tensorflow as tf

_OBSERVED: ContextVar[dict[str, tf.Tensor] | None] = ContextVar("observed", default=None)


@contextmanager
def observing() -> Iterator[dict[str, tf.Tensor]]:
    """Yields what is observed inside, scalars by name; it grows while the step is traced."""
    found: dict[str, tf.Tensor] = {}
    token = _OBSERVED.set(found)
    try:
        yield found
    finally:
        _OBSERVED.reset(token)


def observe(name: str, value: Callable[[], tf.Tensor]) -> None:
    """Notes a number. Args: value: makes it, and is called where somebody observes."""
    found = _OBSERVED.get()
    if found is not None:
        found[name] = value()
