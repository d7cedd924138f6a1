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
    for more than a second of these, and at each later collection (measured, TensorFlow 2.15: the time of
    `python -c "import gc; gc.disable(); import tensorflow"` beside that of the import alone).
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
