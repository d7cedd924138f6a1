"""Staging: a remote store's files on local disk, fetched in reading order ahead of the reader.

A copy is deleted as soon as it is read. Every epoch reads each file once, in a new order and often at another
rank, so copies kept for the next epoch would save only the share of the data that the bound holds, and would have
to be checked for being stale; without them the disk in use is the look-ahead alone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import posixpath
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import fsspec
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from dssm import storage
from dssm.errors import UserError
from dssm.manifest import FileSpec
from dssm.sections import Staging

CHUNK_BYTES = 4 << 20  # read from the store at a time: a close is seen between two chunks
CLOSE_S = 5.0  # a fetch that hangs in the store for longer is left behind; its thread ends with the process


class Closed(Exception):  # noqa: N818  (no error: the reading was ended early)
    """What was waited for does not come any more."""


class Files(Protocol):
    """Where a list's files lie on local disk."""

    def path(self, place: int) -> str:
        """Waits for the file at this place of the list. Raises: UserError where it can't be had, Closed."""

    def done(self, place: int) -> None:
        """Says that the file has been read."""

    def close(self) -> None:
        """Ends all waiting and fetching."""


@contextlib.contextmanager
def local_files(folder: str, files: Sequence[FileSpec], staging: Staging) -> Iterator[Files]:
    """Yields the files of a dataset on local disk: themselves where the folder is local, else staged.

    Args:
      folder: of the dataset, on any store that fsspec reads.
      files: in reading order.
      staging: how remote ones are fetched.
    Raises: UserError where the store lacks a file, or `staging.cache_bytes` is less than one takes.
    """
    system, root = storage.filesystem(folder)
    if isinstance(system, LocalFileSystem):
        yield _InPlace(root, files)
        return
    staged = StagedFiles(folder, files, staging)
    try:
        yield staged
    finally:
        staged.close()


class _InPlace:
    def __init__(self, root: str, files: Sequence[FileSpec]) -> None:
        self._paths = [f"{root}/{file.name}" for file in files]

    def path(self, place: int) -> str:
        return self._paths[place]

    def done(self, place: int) -> None:
        pass

    def close(self) -> None:
        pass


class StagedFiles:
    """Copies of remote files, fetched by threads of its own in the order of the list.

    Fetched, being fetched and being read together never take more than `staging.cache_bytes`: a fetch waits until
    what has been read makes room. Files are let in strictly in their order, so the reader's next file is never
    kept out by later ones.
    """

    def __init__(self, folder: str, files: Sequence[FileSpec], staging: Staging) -> None:
        self._folder, self._files, self._staging = folder, files, staging
        self._system, self._root = storage.filesystem(folder)
        self._sizes = self._known_sizes()
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._admitted = 0
        self._held_bytes = 0
        self._found: dict[int, str | Exception] = {}
        self._copies = _make_folder(staging.folder)
        self._threads = [
            threading.Thread(target=self._run, name=f"staging-{number}", daemon=True)
            for number in range(min(staging.threads, len(files)))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def held_bytes(self) -> int:
        """Bytes of the copies that are on disk, or that there is room held for."""
        return self._held_bytes

    def path(self, place: int) -> str:
        with self._changed:
            self._changed.wait_for(lambda: place in self._found or self._closed.is_set())
            if self._closed.is_set():
                raise Closed
            found = self._found[place]
        if isinstance(found, Exception):
            raise found
        return found

    def done(self, place: int) -> None:
        Path(self.path(place)).unlink()
        with self._changed:
            self._held_bytes -= self._sizes[place]
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(CLOSE_S)
        shutil.rmtree(self._copies, ignore_errors=True)

    def _known_sizes(self) -> list[int]:
        """Returns the bytes of each file, of one listing of the folder: a request for each would be many."""
        self._system.invalidate_cache(self._root)
        try:
            entries = self._system.ls(self._root, detail=True)
        except Exception as error:
            raise UserError(f"{self._folder}: can't be listed ({_reason(error)}); check the store") from error
        listed = {posixpath.basename(entry["name"].rstrip("/")): entry["size"] for entry in entries}
        for file in self._files:
            size, bound = listed.get(file.name), self._staging.cache_bytes
            if size is None:
                raise UserError(f"{self._folder}/{file.name}: not in the store; run build_samples again")
            if size > bound:
                raise UserError(
                    f"train.staging.cache_bytes: {bound:,}, but {self._folder}/{file.name} alone takes {size:,} bytes; "
                    f"give it at least twice as much, so that a file is fetched while another is read"
                )
        return [listed[file.name] for file in self._files]

    def _run(self) -> None:
        while (place := self._admit()) is not None:
            try:
                found: str | Exception = self._fetch(place)
            except Closed:
                return
            except Exception as error:  # the reader's thread raises it
                found = error
            with self._changed:
                self._found[place] = found
                self._changed.notify_all()

    def _admit(self) -> int | None:
        """Returns the next place once there is room for its file; None when all are let in, or at the close."""

        def ready() -> bool:
            return (
                self._closed.is_set()
                or self._admitted == len(self._files)
                or self._held_bytes + self._sizes[self._admitted] <= self._staging.cache_bytes
            )

        with self._changed:
            self._changed.wait_for(ready)
            if self._closed.is_set() or self._admitted == len(self._files):
                return None
            place = self._admitted
            self._admitted += 1
            self._held_bytes += self._sizes[place]
            return place

    def _fetch(self, place: int) -> str:
        """Copies a file, again where that fails. Returns: the copy's path. Raises: UserError, Closed."""
        where = f"{self._folder}/{self._files[place].name}"
        wait_s, attempt = self._staging.backoff_s, 0
        while True:
            attempt += 1
            try:
                return self._copy(place)
            except Closed:
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise UserError(
                        f"{self._copies}: the disk is full; lower train.staging.cache_bytes "
                        f"({self._staging.cache_bytes:,}) or name a folder on a larger disk in train.staging.folder"
                    ) from error
                if isinstance(error, FileNotFoundError | PermissionError) or attempt == self._staging.attempts:
                    tried = "1 attempt" if attempt == 1 else f"{attempt} attempts"
                    store = type(self._system).__name__
                    raise UserError(
                        f"{where}: not fetched in {tried} ({store}: {_reason(error)}); "
                        f"check the store, or run build_samples again where the file is damaged there"
                    ) from error
            if self._closed.wait(wait_s):
                raise Closed
            wait_s *= 2

    def _copy(self, place: int) -> str:
        """Copies a file under a temporary name, checks it and renames it."""
        file, size = self._files[place], self._sizes[place]
        target = self._copies / f"{place:06d}.parquet"
        temporary = target.with_suffix(".part")
        total, digest = 0, hashlib.sha256()
        with self._open(file) as source, temporary.open("wb") as copy:
            while chunk := source.read(CHUNK_BYTES):
                if self._closed.is_set():
                    raise Closed
                total += len(chunk)
                if total > size:
                    break
                copy.write(chunk)
                digest.update(chunk)
        _check(str(temporary), file, total, size, digest.hexdigest())
        temporary.rename(target)
        return str(target)

    def _open(self, file: FileSpec) -> fsspec.spec.AbstractBufferedFile:
        return self._system.open(f"{self._root}/{file.name}", "rb", block_size=CHUNK_BYTES)


def _check(path: str, file: FileSpec, total: int, size: int, sha256: str) -> None:
    """Raises: ValueError where a copy is not the file that the manifest names."""
    if total != size:
        raise ValueError(f"{'more than ' if total > size else ''}{min(total, size):,} bytes came, expected {size:,}")
    if file.sha256 is not None and sha256 != file.sha256:
        raise ValueError(f"SHA-256 {sha256[:16]}…, the manifest says {file.sha256[:16]}…")
    rows = pq.read_metadata(path).num_rows
    if rows != file.rows:
        raise ValueError(f"{rows} rows, the manifest says {file.rows}")


def _reason(error: Exception) -> str:
    return f"{error}".splitlines()[0] if f"{error}" else type(error).__name__


_PREFIX = "dssm-staging"


def _make_folder(parent: str | None) -> Path:
    """Makes a folder for the copies; those of processes that were killed are removed."""
    root = Path(parent or tempfile.gettempdir())
    storage.make_folder(str(root))
    own = f"{_PREFIX}-{socket.gethostname()}-"
    for left in root.glob(f"{own}*"):
        pid = left.name.removeprefix(own).split("-")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{own}{os.getpid()}-", dir=root))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
