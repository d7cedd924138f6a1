"""A store that has no rename, as an object store, and that may die before any change of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

ROOT = "dying://root"
FOREVER = 1_000_000_000


class KilledError(BaseException):
    """Nothing that handles errors stops it."""


class DyingStore(MemoryFileSystem):
    """Attributes: left: changes until it dies; each one after that raises, so that nothing cleans up."""

    protocol = "dying"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    left: ClassVar[int] = FOREVER

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(path.removeprefix("dying://"))

    def _change(self) -> None:
        if type(self).left <= 0:
            raise KilledError
        type(self).left -= 1

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        self._change()
        super().cp_file(path1, path2, **options)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self._change()
        super().pipe_file(path, value, mode, **options)

    def rm_file(self, path: str) -> None:
        self._change()
        super().rm_file(path)


def empty_store() -> None:
    fsspec.register_implementation("dying", DyingStore, clobber=True)
    DyingStore.store.clear()
    DyingStore.pseudo_dirs[:] = [""]
    DyingStore.left = FOREVER


@contextmanager
def dying_after(changes: int) -> Iterator[list[bool]]:
    """Yields what holds afterwards whether the block was ended by the store's death."""
    died: list[bool] = []
    DyingStore.left = changes
    try:
        yield died
    except KilledError:
        died.append(True)
    finally:
        DyingStore.left = FOREVER
