"""How long a step waits for what other ranks send."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import tensorflow as tf

_WAITS: ContextVar[list[tf.Tensor] | None] = ContextVar("waits", default=None)


@contextmanager
def timing_waits(is_timed: bool) -> Iterator[list[tf.Tensor]]:
    """Yields the waits noted inside, in seconds, scalars; the list grows while the step is traced."""
    waits: list[tf.Tensor] = []
    token = _WAITS.set(waits if is_timed else None)
    try:
        yield waits
    finally:
        _WAITS.reset(token)


def note_wait(own: Any, made: Any) -> None:
    """Notes the time from this rank's part of a collective to the others', where a step is timed.

    No second counts twice: clocks have no inputs, and a graph reads them in the order in which they stand in it, so
    that a wait begins when the one noted before it has ended. What the rank computes meanwhile is not told apart.

    Args: own: what the rank has to have made before it has nothing to do but wait; made: what came of it. Tensors,
      slices, or lists of them, None among them.
    """
    waits = _WAITS.get()
    if waits is not None:
        start = _time_of(own)
        waits.append(_time_of(made) - start)


def _time_of(made: Any) -> tf.Tensor:
    """Returns the time when all of it is there, in seconds; nothing of it waits for the rest."""
    known = [part for part in tf.nest.flatten(made, expand_composites=True) if part is not None]
    with tf.control_dependencies(known):
        return tf.timestamp()
