"""Imports of large libraries, in less time."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Keeps the garbage collector off the modules that are imported in its body, then and later.

    TensorFlow's are a million objects, made in 4 s, that live to the end; the collector walked them again and again,
    for more than a second of these (measured, TensorFlow 2.15), and at each later collection.
    """
    enabled, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:  # else nothing was imported, and what lives may be garbage soon
            gc.freeze()
        if enabled:
            gc.enable()
