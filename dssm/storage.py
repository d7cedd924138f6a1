"""Files and folders on any file system that fsspec reads, and the atomic commit of a folder.

A local file system and HDFS rename a folder at once. In a store that can copy, as an object store, a rename is a copy
of each file and a removal; there a folder that holds its marker is whole: markers are copied last and removed first.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dssm.errors import UserError

ASIDE = ".old"
MARKERS = "manifest.json", "index.json"  # what is written last into a folder
AT_ONCE = {"file", "local", "hdfs", "webhdfs"}  # protocols of file systems that rename a folder in one step
AWAY_LOOKS, AWAY_S = 20, 0.05  # at a file that is being replaced
ABSENT_LOOKS = 2  # more, at one that seems not to be there


def absolute(path: str) -> str:
    """Returns a local path as an absolute one, and a URL as it is."""
    return path if "://" in path else os.path.abspath(path)  # noqa: PTH100  (keeps symbolic links)


def url(path: str) -> str:
    """Returns the path as a URL: `file:///…` for a local one, not quoted, as Hive and Petastorm want it."""
    return path if "://" in path else f"file://{absolute(path)}"


def filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Returns the file system of a path, and the path in it."""
    system, place = fsspec.core.url_to_fs(absolute(path))
    return system, place


def exists(path: str) -> bool:
    system, place = filesystem(path)
    return bool(system.exists(place))


def read_bytes(path: str) -> bytes:
    system, place = filesystem(path)
    return bytes(system.cat_file(place))


def read_text(path: str) -> str:
    return read_bytes(path).decode("utf-8")


def write_text(path: str, text: str) -> None:
    """Writes a file under a temporary name and renames it, so that nobody reads half of it."""
    with _replacing(path) as (system, temporary):
        system.pipe_file(temporary, text.encode("utf-8"))


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
    """Yields a place for a file, which becomes `path` by one rename when the block ends without error."""
    make_folder(posixpath.dirname(absolute(path)))
    system, place = filesystem(path)
    # Two processes may write the same file: each has a temporary one of its own.
    temporary = f"{posixpath.dirname(place)}/.{posixpath.basename(place)}.{uuid.uuid4().hex}.tmp"
    try:
        yield system, temporary
        _rename(system, temporary, place)
    except BaseException:
        with contextlib.suppress(OSError):
            system.rm_file(temporary)
        raise


def read_replaced(path: str) -> bytes:
    """Reads a file that `write_text` replaces while others read it.

    A store that can't rename over a file, such as HDFS, has none of its name between two renames: a reader waits for
    the second. Where the writer was killed there, the file from before counts.

    Raises: FileNotFoundError where there is none.
    """
    for look in range(AWAY_LOOKS):
        try:
            return read_bytes(path)
        except FileNotFoundError:
            if _set_aside(path):
                time.sleep(AWAY_S)
            elif look >= ABSENT_LOOKS:  # before that it may have come since, and gone again
                raise
    aside, (system, place) = _set_aside(path), filesystem(path)
    return bytes(system.cat_file(max(aside, key=system.modified, default=place)))


def is_there(path: str) -> bool:
    """Whether there is a file that `write_text` replaces: also between two renames."""
    return any(exists(path) or _set_aside(path) for _ in range(1 + ABSENT_LOOKS))


def _set_aside(path: str) -> list[str]:
    """Returns where `_swap` has put what stood at a path."""
    system, place = filesystem(path)
    if isinstance(system, LocalFileSystem):  # which renames over a file
        return []
    parent, name = posixpath.split(place)
    try:
        system.invalidate_cache(parent)
        entries = [str(entry) for entry in system.ls(parent, detail=False)]
    except FileNotFoundError:
        return []
    return [e for e in entries if posixpath.basename(e).startswith(f".{name}.") and e.endswith(ASIDE)]


def file_names(folder: str, suffix: str, fresh: bool = False) -> list[str]:
    """Returns the names of the folder's own files with this ending, sorted.

    Args: fresh: whether to ask the store anew, where its file system remembers listings.
    """
    system, place = filesystem(folder)
    if fresh:
        system.invalidate_cache(place)
    names = (posixpath.basename(entry) for entry in system.ls(place, detail=False))
    return sorted(name for name in names if name.endswith(suffix))


def make_folder(path: str) -> None:
    """Makes a folder and those above it. Raises: UserError where that is not allowed."""
    system, place = filesystem(path)
    try:
        system.makedirs(place, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: can't be made ({error.strerror or error}); expected a folder to write in") from error


def remove(path: str) -> None:
    """Removes a file or a folder with all in it; nothing happens where there is none."""
    _remove(*filesystem(path))


def _remove(system: fsspec.AbstractFileSystem, place: str) -> None:
    if _copies(system):
        _, markers = _data_and_markers(system, place)
        for marker in reversed(markers):
            system.rm_file(marker)
    if system.exists(place):
        system.rm(place, recursive=True)


def rename(source: str, target: str) -> None:
    """Renames a file or folder within one file system; the target must not exist as a folder."""
    system, place = filesystem(source)
    _rename(system, place, filesystem(target)[1])


def _rename(system: fsspec.AbstractFileSystem, source: str, target: str) -> None:
    if isinstance(system, LocalFileSystem):
        Path(source).replace(target)  # fsspec's own mv copies, and moves into a target that is a folder
    elif _copies(system) and system.isdir(source):
        _copy_folder(system, source, target)
        _remove(system, source)
    else:
        try:
            system.mv(source, target, recursive=True)  # most overwrite a file: there is no moment without it
        except OSError:
            if not system.isfile(target):
                raise
            _swap(system, source, target)


def _copies(system: fsspec.AbstractFileSystem) -> bool:
    """Whether a rename is a copy and a removal: of all stores that can copy, but for those that rename at once."""
    known = system.protocol
    at_once = not AT_ONCE.isdisjoint([known] if isinstance(known, str) else known)
    can_copy = getattr(system.cp_file, "__func__", None) is not fsspec.AbstractFileSystem.cp_file
    return can_copy and not at_once


def _copy_folder(system: fsspec.AbstractFileSystem, source: str, target: str) -> None:
    data, markers = _data_and_markers(system, source)
    targets = {path: f"{target}/{posixpath.relpath(path, source)}" for path in (*data, *markers)}
    if data:
        system.copy(data, [targets[path] for path in data])  # many at once, in no order
    for path in markers:
        system.cp_file(path, targets[path])


def _data_and_markers(system: fsspec.AbstractFileSystem, folder: str) -> tuple[list[str], list[str]]:
    """Returns the files in a folder and in those below: the markers apart, the folder's own last."""
    system.invalidate_cache()  # other processes may have written there since it was listed
    paths = system.find(folder)
    markers = [path for path in paths if posixpath.basename(path) in MARKERS]
    return [path for path in paths if path not in markers], sorted(markers, key=lambda path: -path.count("/"))


def _is_marked(folder: str) -> bool:
    return any(exists(f"{folder}/{name}") for name in MARKERS)


def _swap(system: fsspec.AbstractFileSystem, source: str, target: str) -> None:
    """Renames a file over another where the store can't, as HDFS: for a moment there is none of that name."""
    aside = f"{posixpath.dirname(target)}/.{posixpath.basename(target)}.{uuid.uuid4().hex}{ASIDE}"
    system.mv(target, aside)
    try:
        system.mv(source, target)
    except BaseException:
        system.mv(aside, target)
        raise
    system.rm_file(aside)


@contextlib.contextmanager
def committed_folder(folder: str) -> Iterator[str]:
    """Yields a temporary folder that becomes `folder` by one rename when the block ends without error.

    What stood there is moved aside first and removed last; at an error it stays as it was, or the new one is there
    whole. A temporary folder left by a killed run is removed.
    """
    parent, name = posixpath.split(absolute(folder).rstrip("/"))
    temporary, aside = f"{parent}/.{name}.tmp", f"{parent}/.{name}{ASIDE}"
    _keep_whole(folder, aside)  # a run was killed between the two renames below, or in the midst of one that copies
    remove(temporary)
    make_folder(temporary)
    try:
        yield temporary
        if exists(folder):
            rename(folder, aside)
        rename(temporary, folder)
    except BaseException:
        _keep_whole(folder, aside)
        remove(temporary)
        raise
    remove(aside)


def _keep_whole(folder: str, aside: str) -> None:
    """Leaves of a folder and of what was moved aside the one that is whole, in the folder's place."""
    if not exists(aside):
        return
    if exists(folder) and (_is_marked(folder) or not _is_marked(aside)):
        remove(aside)
    else:
        remove(folder)  # half a copy
        rename(aside, folder)


@contextlib.contextmanager
def local_copy(folder: str) -> Iterator[str]:
    """Yields a local folder with the same files: the folder itself where it is local."""
    system, place = filesystem(folder)
    if isinstance(system, LocalFileSystem):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="dssm-") as scratch:
        target = f"{scratch}/copy"
        system.get(place, target, recursive=True)
        yield target


def digest(*parts: str | bytes) -> str:
    """Returns the first 16 hex digits of the SHA-256 of the parts, each with its length."""
    return _digest(parts)


def _digest(parts: Iterable[str | bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8") if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()[:16]


def folder_digest(folder: str) -> str:
    """Returns the digest of all files below a folder: their paths in it and their bytes."""
    system, place = filesystem(folder)
    paths = sorted(system.find(place))
    return _digest(part for path in paths for part in (posixpath.relpath(path, place), bytes(system.cat_file(path))))


def folder_size(folder: str) -> int:
    """Returns the bytes of all files below a folder."""
    system, place = filesystem(folder)
    return int(system.du(place))


def folder_names(folder: str) -> list[str]:
    """Returns the names of the folder's own folders, sorted; none where there is no folder."""
    return sorted(posixpath.basename(entry["name"]) for entry in _entries(folder) if entry["type"] == "directory")


def file_sizes(folder: str) -> dict[str, int]:
    """Returns the bytes of the folder's own files by their names; none where there is no folder."""
    files = (entry for entry in _entries(folder) if entry["type"] != "directory")
    return {posixpath.basename(entry["name"]): entry["size"] for entry in files}


def _entries(folder: str) -> list[dict[str, Any]]:
    """Lists a folder anew, whatever its file system remembers of it; nothing where there is none."""
    system, place = filesystem(folder)
    system.invalidate_cache(place)
    return list(system.ls(place, detail=True)) if system.exists(place) else []


def put_file(local: str, path: str) -> None:
    """Copies a local file to `path`; nobody reads half of it."""
    with _replacing(path) as (system, temporary):
        system.put_file(local, temporary)


def put_folder(local: str, folder: str) -> None:
    """Copies a local folder to `folder`, which must not exist."""
    system, place = filesystem(folder)
    if isinstance(system, LocalFileSystem):
        shutil.copytree(local, place)
    else:
        system.put(local, place, recursive=True)
