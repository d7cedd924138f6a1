"""The lock of a folder: of those who want it one has it, and who dies with it loses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from dssm import locks
from dssm.errors import UserError

TAKES_TURNS = """
import os, sys
from dssm import locks

locks.PAUSE_S = 0.001, 0.02
folder, times = sys.argv[1], int(sys.argv[2])
for _ in range(times):
    with locks.locked(folder) as lock:
        os.mkdir(f"{folder}/inside")  # fails where another is inside
        lock.check()
        os.rmdir(f"{folder}/inside")
"""
HOLDS = """
import sys, time
from dssm import locks

with locks.locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(locks, "time", made)
    return made


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_of_several_processes_one_is_inside(tmp_path: Path) -> None:
    running = [subprocess.Popen([sys.executable, "-c", TAKES_TURNS, str(tmp_path), "25"]) for _ in range(3)]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert left(tmp_path) == []


def test_the_lock_of_a_killed_process_is_free_after_a_while(tmp_path: Path, clock: Clock) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.kill()
    began, told = clock.now, []
    with locks.locked(str(tmp_path), told.append) as lock:
        lock.check()
        assert locks.EXPIRES_S < clock.now - began < locks.EXPIRES_S + 1
        assert len(left(tmp_path)) == 1
    assert len(told) == 1
    assert told[0].endswith(f"process {process.pid}, which changes {tmp_path}")
    assert left(tmp_path) == []


def test_a_holder_that_shows_itself_keeps_it(tmp_path: Path, clock: Clock) -> None:
    held, others = locks.Held(str(tmp_path)), locks._Others(str(tmp_path))
    for _ in range(5):
        assert others.look()
        clock.now += locks.EXPIRES_S - 1
        held.beat()
    assert len(left(tmp_path)) == 2  # the last, and the one before
    assert others.look()
    clock.now += locks.EXPIRES_S + 1
    assert not others.look()
    assert left(tmp_path) == []
    with pytest.raises(RuntimeError, match=r"the lock was lost .* more than 60 s; run the job again"):
        held.check()
    held.release()


def test_a_lock_that_is_held_too_long(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    held, sleep = locks.Held(str(tmp_path)), clock.sleep
    monkeypatch.setattr(clock, "sleep", lambda seconds: (held.beat(), sleep(20)), raising=True)
    with pytest.raises(UserError, match=r"process \d+ has been changing it for 30 minutes; expected it to end"):
        locks._acquire(str(tmp_path), lambda message: None)
    held.check()


def test_two_that_come_at_once_both_step_back(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has written before the other looks: neither goes in, and the next try is free."""
    made, rivals = locks.Held, []

    def with_a_rival(folder: str) -> locks.Held:
        if not rivals:
            rivals.append(made(folder))
        return made(folder)

    def sleep(seconds: float) -> None:
        assert len(left(tmp_path)) == 1  # the rival's
        rivals[0].release()

    monkeypatch.setattr(locks, "Held", with_a_rival)
    monkeypatch.setattr(clock, "sleep", sleep)
    held = locks._acquire(str(tmp_path), lambda message: None)
    held.check()
    assert len(left(tmp_path)) == 1


def test_an_error_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), locks.locked(str(tmp_path / "new")):
        raise ValueError("mine")
    assert left(tmp_path / "new") == []


def test_a_store_that_knows_no_empty_folder() -> None:
    class ObjectStore(MemoryFileSystem):
        protocol = "objects"
        store: ClassVar[dict[str, Any]] = {}

        def makedirs(self, path: str, exist_ok: bool = False) -> None:
            """As S3: a folder is there with the first file in it."""

        def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
            if not any(name.startswith(f"{self._strip_protocol(path)}/") for name in self.store):
                raise FileNotFoundError(path)
            return super().ls(path, detail, **options)

    fsspec.register_implementation("objects", ObjectStore, clobber=True)
    with locks.locked("objects://bucket/table") as lock:
        lock.check()
        assert len(ObjectStore.store) == 1
    assert not ObjectStore.store
