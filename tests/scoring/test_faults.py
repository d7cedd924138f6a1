"""Publishing that dies at any step, and readers while it goes on."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from dssm import published, storage
from dssm.errors import UserError
from dssm.published import Published, PublishedManifest
from dssm.scoring.publish import Table, publish, roll_back
from tests.scoring.tables import (
    DATE,
    VECTORS,
    FakeMetastore,
    folders,
    judged,
    maker,
    publish_version,
    seen,
    seen_in_hive,
    table_at,
)  # fmt: skip


class Killed(BaseException):
    """As KeyboardInterrupt: nothing that handles errors stops it."""


class Steps:
    """Everything that changes something outside the process, counted; one of the steps fails.

    Args:
      at: which one, from 0; −1: none.
      when: before it has an effect, after it, or in the midst of it where it is a removal.
      dead: whether the process is gone from then on, so that nothing it would clean up gets done.
    """

    def __init__(self, at: int = -1, when: str = "before", dead: bool = False) -> None:
        self.at, self.when, self.dead, self.count, self.failed = at, when, dead, 0, False

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            if self.failed and self.dead:
                raise Killed
            number, self.count = self.count, self.count + 1
            if number != self.at:
                return function(*args, **kwargs)
            self.failed = True
            if self.when == "midway" and function.__name__ == "remove":
                for path in sorted(Path(args[0]).rglob("*.json"))[:1]:
                    path.unlink()
            if self.when == "after":
                function(*args, **kwargs)
            raise Killed if self.dead else OSError(28, "No space left on device")

        step.__name__ = function.__name__
        return step

    def publish(self, table: Table, version: str, patched: pytest.MonkeyPatch) -> None:
        """Publishes with the fault. keep_versions is 1: the version from before is removed in the end."""
        for name in ("_rename", "remove", "make_folder"):
            patched.setattr(storage, name, self.wrap(getattr(storage, name)))
        patched.setattr(LocalFileSystem, "pipe_file", self.wrap(LocalFileSystem.pipe_file))
        for name in ("prepare", "move", "describe", "rows"):
            patched.setattr(table.metastore, name, self.wrap(getattr(table.metastore, name)))
        make = self.wrap(maker(VECTORS[version], version))
        publish(table, version, judged(), ["vector"], make, force=False)


def cases() -> Iterator[tuple[str, bool]]:
    yield from itertools.product(("before", "after"), (True, False))
    yield "midway", True


@pytest.mark.usefixtures("no_grace", "quick_expiry")
def test_a_publish_may_die_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full disk, killed driver, failed task, lost metastore: readers see v1 or v2, whole; a rerun ends with v2."""

    def prepared(name: str) -> Table:
        table = table_at(tmp_path / name, metastore=FakeMetastore(), keep_versions=1, keep_days=0)
        publish_version(table, "v1")
        return table

    steps = Steps()
    with monkeypatch.context() as patched:
        steps.publish(prepared("whole"), "v2", patched)
    assert steps.count > 13
    old, new = 0, 0
    for at, (when, dead) in itertools.product(range(steps.count), cases()):
        table = prepared(f"{at}-{when}-{dead}")
        faulty = Steps(at, when, dead)
        with monkeypatch.context() as patched, pytest.raises((Killed, OSError)):
            faulty.publish(table, "v2", patched)
        found = (seen(table), seen_in_hive(table))
        assert set(found) <= {"v1", "v2"}
        old, new = old + (found == ("v1", "v1")), new + (found == ("v2", "v2"))
        publish_version(table, "v2")
        assert (seen(table), seen_in_hive(table)) == ("v2", "v2")
        found_there = folders(Path(table.location) / f"dt={DATE}")
        unfinished = [name for name in found_there if name.startswith((".version=v2.", "._current."))]
        assert [name for name in found_there if name not in unfinished] == ["_current", "version=v2"]
        # What a killed run leaves goes once it is a day old; see test_publish_retention.
        assert sum(name.startswith(".version=v2.") for name in unfinished) <= dead
    assert old > 30  # the faults are on both sides of the move
    assert new > 10


def test_a_rollback_may_die_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_at(tmp_path, metastore=FakeMetastore())
    for version in ("v1", "v2"):
        publish_version(table, version)
    for name in ("move", "describe", "rows"):
        with monkeypatch.context() as patched:
            patched.setattr(table.metastore, name, Steps(0).wrap(getattr(table.metastore, name)))
            with pytest.raises(OSError, match="No space left"):
                roll_back(table, "v1")
        assert {seen(table), seen_in_hive(table)} <= {"v1", "v2"}
        roll_back(table, "v1")
        assert (seen(table), seen_in_hive(table)) == ("v1", "v1")
        publish_version(table, "v2", force=True)


# Two processes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same", [True, False], ids=["the same version", "another"])
def test_two_publishes_of_a_date_leave_each_other_alone(tmp_path: Path, same: bool) -> None:
    """The second begins and ends while the first writes its rows."""
    table = table_at(tmp_path, metastore=FakeMetastore())
    second = "v1" if same else "v2"

    def make(folder: str, last: Published | None) -> PublishedManifest:
        manifest = maker(VECTORS["v1"], "v1")(folder, last)
        publish_version(table, second)
        assert (seen(table), seen_in_hive(table)) == (second, second)
        return manifest

    publish(table, "v1", judged(), ["vector"], make, force=False)
    assert (seen(table), seen_in_hive(table)) == ("v1", "v1")
    assert folders(tmp_path / f"table/dt={DATE}") == ["_current", *sorted({"version=v1", f"version={second}"})]


PUBLISHES = """
import sys, time
from pathlib import Path
from tests.scoring.tables import FakeMetastore, publish_version, table_at

root, version, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

class InFiles(FakeMetastore):
    def location(self, date):
        return (root / "hive").read_text() if (root / "hive").exists() else None

    def move(self, date, data):
        (root / "hive").write_text(data)
        (root / f"{version} has moved").touch()
        for _ in range(150):  # the other may move as well, between this process' move and its pointer
            if (root / f"{other} has moved").exists():
                break
            time.sleep(0.01)

    def rows(self, date):
        self.places[date] = self.location(date)
        return super().rows(date)

(root / f"{version} is ready").touch()
while not (root / f"{other} is ready").exists():
    time.sleep(0.01)
publish_version(table_at(root, metastore=InFiles()), version)
"""


def test_two_processes_that_move_at_once_leave_one_version(tmp_path: Path) -> None:
    """Each would move the metastore before the other writes its pointer, were it not for the lock."""
    pairs = (("v1", "v2"), ("v2", "v1"))
    running = [subprocess.Popen([sys.executable, "-c", PUBLISHES, str(tmp_path), *pair]) for pair in pairs]
    assert [process.wait(120) for process in running] == [0, 0]
    table = table_at(tmp_path, metastore=FakeMetastore())
    assert isinstance(table.metastore, FakeMetastore)
    table.metastore.places[DATE] = (tmp_path / "hive").read_text()
    assert seen(table) == seen_in_hive(table)
    pointer = published.read_pointer(table.location, DATE)
    assert pointer is not None
    assert {pointer.version, *pointer.left} == {"v1", "v2"}  # the one that was current for a moment is known as such


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    table = table_at(tmp_path, metastore=FakeMetastore())

    def make(folder: str, last: Published | None) -> PublishedManifest:
        manifest = maker(VECTORS["v1"], "v1")(folder, last)
        storage.remove(folder)
        return manifest

    with pytest.raises(RuntimeError, match=r"gone while version v1 was being written; run the job again"):
        publish(table, "v1", judged(), ["vector"], make, force=False)
    assert (seen(table), seen_in_hive(table)) == (None, None)
    assert folders(tmp_path / f"table/dt={DATE}") == []


@pytest.mark.parametrize("fault", ["a file is gone", "rows are missing"])
def test_files_are_read_back_before_readers_see_them(tmp_path: Path, fault: str) -> None:
    table = table_at(tmp_path, metastore=FakeMetastore())
    publish_version(table, "v1")

    def make(folder: str, last: Published | None) -> PublishedManifest:
        manifest = maker(VECTORS["v2"], "v2")(folder, last)
        if fault == "a file is gone":
            storage.remove(f"{folder}/data/part-00001.parquet")
            return manifest
        return manifest.model_copy(update={"rows": 7, "distinct": 7, "samples_rows": 7})

    with pytest.raises(UserError, match=r"(part-00001\.parquet: missing or damaged|data: 6 rows, .* says 7); remove "):
        publish(table, "v2", judged(), ["vector"], make, force=False)
    assert (seen(table), seen_in_hive(table)) == ("v1", "v1")


# Readers ----------------------------------------------------------------------------------------------------


def test_a_reader_sees_whole_versions_during_fifty_publishes(tmp_path: Path) -> None:
    table = table_at(tmp_path, kind="path")
    publish_version(table, "v1")
    found: list[str | None] = []
    faults: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                found.append(seen(table))
        except BaseException as error:
            faults.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(50):
        name = f"v{number % 4 + 1}"
        make = maker(VECTORS[name], f"{name}-{number}")
        publish(table, f"{name}-{number}", judged(), ["vector"], make, force=False)
    done.set()
    for reader in readers:
        reader.join()
    assert [str(fault) for fault in faults] == []
    assert len(found) > 20
    assert set(found) == set(VECTORS)
