"""Two that write at the same moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dssm import storage


@contextmanager
def meanwhile(patched: pytest.MonkeyPatch, other: Callable[..., None], *given: Any) -> Iterator[None]:
    """Lets another write in a thread when the block is about to write its first file: it begins, and ends if it can."""
    second, write_text = threading.Thread(target=other, args=given), storage.write_text

    def written(path: str, text: str) -> None:
        if second.ident is None:
            second.start()
            second.join(0.5)
        write_text(path, text)

    patched.setattr(storage, "write_text", written)
    yield
    second.join(60)
    assert not second.is_alive()
