from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from dssm import storage
from dssm.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A committed folder, `old` in it."""
    place = tmp_path / "samples"
    with storage.committed_folder(str(place)) as made:
        storage.write_text(f"{made}/old", "1")
    return place


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def siblings(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir())


def commit_new(folder: Path) -> None:
    with storage.committed_folder(str(folder)) as made:
        storage.write_text(f"{made}/part/new", "2")


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    with storage.committed_folder(str(place)) as made:
        storage.write_text(f"{made}/x", "1")
        assert not place.exists()
    assert content(place) == {"x": "1"}
    assert siblings(place) == ["b"]


def test_a_folder_is_replaced_whole(folder: Path) -> None:
    with storage.committed_folder(str(folder)) as made:
        storage.write_text(f"{made}/new", "2")
        assert content(folder) == {"old": "1"}
    assert content(folder) == {"new": "2"}
    assert siblings(folder) == ["samples"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_at_an_error_what_stood_there_stays(folder: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), storage.committed_folder(str(folder)) as made:  # noqa: PT012
        storage.write_text(f"{made}/new", "2")
        raise error
    assert content(folder) == {"old": "1"}
    assert siblings(folder) == ["samples"]


def test_what_a_killed_run_left_is_not_mixed_in(folder: Path) -> None:
    (folder.parent / ".samples.tmp" / "part").mkdir(parents=True)
    (folder.parent / ".samples.tmp" / "part" / "half").write_text("?")
    commit_new(folder)
    assert content(folder) == {"part/new": "2"}
    assert siblings(folder) == ["samples"]


STEPS = pytest.mark.parametrize(
    "step", [1, 2], ids=["before the old folder moves aside", "before the new one takes its place"]
)


@STEPS
def test_a_rename_that_fails_leaves_the_old_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    rename, calls = storage.rename, iter(range(1, 100))

    def fails_at_step(source: str, target: str) -> None:
        if next(calls) == step:
            raise OSError("disk full")
        rename(source, target)

    monkeypatch.setattr(storage, "rename", fails_at_step)
    with pytest.raises(OSError, match="disk full"):
        commit_new(folder)
    assert content(folder) == {"old": "1"}
    assert siblings(folder) == ["samples"]


KILLED = """
import os, sys
from dssm import storage

rename, calls = storage.rename, iter(range(1, 100))

def killed_at_step(source, target):
    if next(calls) == int(sys.argv[2]):
        os._exit(9)
    rename(source, target)

storage.rename = killed_at_step
with storage.committed_folder(sys.argv[1]) as made:
    storage.write_text(f"{made}/new", "?")
"""


@STEPS
def test_a_run_killed_between_the_renames_is_mended_by_the_next(folder: Path, step: int) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(folder), str(step)], check=False).returncode == 9
    assert folder.exists() == (step == 1)
    with pytest.raises(ValueError, match="again"), storage.committed_folder(str(folder)):
        raise ValueError("again")
    assert content(folder) == {"old": "1"}
    commit_new(folder)
    assert content(folder) == {"part/new": "2"}
    assert siblings(folder) == ["samples"]


def test_a_run_killed_before_it_removed_the_old_folder_is_mended_by_the_next(folder: Path) -> None:
    commit_new(folder)
    (folder.parent / ".samples.old").mkdir()
    (folder.parent / ".samples.old" / "old").write_text("1")
    with pytest.raises(ValueError, match="again"), storage.committed_folder(str(folder)):
        raise ValueError("again")
    assert content(folder) == {"part/new": "2"}
    assert siblings(folder) == ["samples"]


def test_relative_paths_and_trailing_slashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with storage.committed_folder("out/x/") as made:
        storage.write_text(f"{made}/a", "1")
    assert content(tmp_path / "out" / "x") == {"a": "1"}


def test_a_folder_of_another_file_system_is_committed_too() -> None:
    with storage.committed_folder("memory://root/samples") as made:
        storage.write_text(f"{made}/a", "1")
    with storage.committed_folder("memory://root/samples") as made:
        storage.write_text(f"{made}/b", "2")
    system = fsspec.filesystem("memory")
    assert sorted(system.find("/root")) == ["/root/samples/b"]
    assert storage.read_text("memory://root/samples/b") == "2"


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = str(tmp_path / "a" / "b.json")
    storage.write_text(path, "é")
    storage.write_text(path, "日")
    assert storage.read_text(path) == "日"
    assert os.listdir(tmp_path / "a") == ["b.json"]  # noqa: PTH208


def test_urls() -> None:
    assert storage.url("/a b/c") == "file:///a b/c"
    assert storage.url("hdfs://n/x") == storage.absolute("hdfs://n/x") == "hdfs://n/x"


def test_file_names_are_sorted_and_only_the_folders_own(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", "x.json", "sub/c.parquet"):
        storage.write_text(str(tmp_path / name), "")
    assert storage.file_names(str(tmp_path), ".parquet") == ["a.parquet", "b.parquet"]


def test_removal_of_what_is_not_there_does_nothing(tmp_path: Path) -> None:
    storage.remove(str(tmp_path / "x"))
    storage.write_text(str(tmp_path / "y" / "z"), "")
    storage.remove(str(tmp_path / "y"))
    assert list(tmp_path.iterdir()) == []


def test_folders_are_copied(tmp_path: Path) -> None:
    storage.write_text(str(tmp_path / "a" / "b" / "c"), "1")
    storage.put_folder(str(tmp_path / "a"), "memory://copied/a")
    with storage.local_copy("memory://copied/a") as local:
        assert content(Path(local)) == {"b/c": "1"}
    with storage.local_copy(str(tmp_path / "a")) as local:
        assert local == str(tmp_path / "a")


# Digests -----------------------------------------------------------------------------------------------


@given(a=st.lists(st.text(max_size=3), max_size=4), b=st.lists(st.text(max_size=3), max_size=4))
def test_digests_differ_as_the_parts_do(a: list[str], b: list[str]) -> None:
    assert (storage.digest(*a) == storage.digest(*b)) == (a == b)


def test_a_digest_is_the_same_on_every_machine() -> None:
    framed = b"\1\0\0\0\0\0\0\0a" + b"\2\0\0\0\0\0\0\0bc"
    assert storage.digest("a", b"bc") == hashlib.sha256(framed).hexdigest()[:16] == "9a8acca1b6c6c0be"


def test_a_folders_digest_is_that_of_names_and_bytes(tmp_path: Path) -> None:
    def made(name: str, files: dict[str, str]) -> str:
        for path, text in files.items():
            storage.write_text(str(tmp_path / name / path), text)
        return storage.folder_digest(str(tmp_path / name))

    whole = made("1", {"a": "x", "b/c": "y"})
    assert whole == storage.digest("a", b"x", "b/c", b"y")
    assert made("2", {"b/c": "y", "a": "x"}) == whole
    assert made("3", {"a": "x", "b/d": "y"}) != whole
    assert made("4", {"a": "x", "b/c": "z"}) != whole


def test_a_folder_that_cannot_be_made_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/runs: can't be made \(Not a directory\)"):
        storage.make_folder(str(tmp_path / "file/runs"))
    with (
        pytest.raises(UserError, match=r"can't be made"),
        storage.committed_folder(str(tmp_path / "file/runs/samples")),
    ):
        pass


# A store that can't rename over a file -------------------------------------------------------------------


class NoOverwrite(MemoryFileSystem):
    """As HDFS: a rename onto a file fails. `between` is called when there is no file of the name."""

    protocol = "nooverwrite"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    between: ClassVar[Callable[[], None]] = staticmethod(lambda: None)

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        if self.isfile(path2):
            raise FileExistsError(path2)
        super().mv(path1, path2, **options)
        if path2.endswith(".old"):
            type(self).between()


@pytest.fixture
def pointer(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The path of a file on such a store; it holds `v1`."""
    fsspec.register_implementation("nooverwrite", NoOverwrite, clobber=True)
    NoOverwrite.store.clear()
    path = "nooverwrite://table/dt=1/_current"
    storage.write_text(path, "v1")
    yield path
    NoOverwrite.store.clear()


def test_a_file_is_replaced_without_overwriting(pointer: str) -> None:
    storage.write_text(pointer, "v2")
    assert storage.read_replaced(pointer) == b"v2"
    assert storage.file_names("nooverwrite://table/dt=1", "") == ["_current"]


def test_a_reader_between_the_renames_waits(pointer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    has_looked, is_written, found = threading.Event(), threading.Event(), []

    def pause(seconds: float) -> None:
        has_looked.set()
        assert is_written.wait(60)  # the store in memory is not to be read while it changes

    monkeypatch.setattr(storage.time, "sleep", pause)
    reader = threading.Thread(target=lambda: found.append(storage.read_replaced(pointer)))

    def between() -> None:
        assert not storage.exists(pointer)
        assert storage.is_there(pointer)
        reader.start()
        assert has_looked.wait(60)

    monkeypatch.setattr(NoOverwrite, "between", between)
    storage.write_text(pointer, "v2")
    is_written.set()
    reader.join(60)
    assert found == [b"v2"]


def test_what_a_writer_killed_between_the_renames_leaves(pointer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "AWAY_S", 0.0)
    monkeypatch.setattr(NoOverwrite, "between", killed)
    with pytest.raises(KeyboardInterrupt):
        storage.write_text(pointer, "v2")
    assert not storage.exists(pointer)
    assert storage.is_there(pointer)
    assert storage.read_replaced(pointer) == b"v1"
    monkeypatch.setattr(NoOverwrite, "between", lambda: None)
    storage.write_text(pointer, "v3")
    assert storage.read_replaced(pointer) == b"v3"


def test_the_second_rename_fails(pointer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stood there comes back."""
    move = NoOverwrite.mv

    def fails(self: NoOverwrite, path1: str, path2: str, **options: Any) -> None:
        if path1.endswith(".tmp") and not self.isfile(path2):
            raise PermissionError("no more")
        move(self, path1, path2, **options)

    monkeypatch.setattr(NoOverwrite, "mv", fails)
    with pytest.raises(PermissionError, match="no more"):
        storage.write_text(pointer, "v2")
    assert storage.read_bytes(pointer) == b"v1"
    assert storage.file_names("nooverwrite://table/dt=1", "") == ["_current"]


def test_a_file_that_never_was_is_not_waited_for(pointer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: pytest.fail("waited"))
    for path in (f"{pointer}2", "nooverwrite://elsewhere/_current"):
        assert not storage.is_there(path)
        with pytest.raises(FileNotFoundError):
            storage.read_replaced(path)
