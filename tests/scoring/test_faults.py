"""Publishing that dies at any step, and readers while it goes on; with a real job in test_faults_of_jobs."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dssm import published, storage
from dssm.errors import UserError
from dssm.published import Published, PublishedManifest
from dssm.scoring.publish import publish, roll_back
from dssm.scoring.table import Table
from tests.scoring.steps import FAULTS, KilledError, Steps
from tests.scoring.tables import (
    DATE,
    VECTORS,
    FakeMetastore,
    folders,
    judged,
    maker,
    publish_version,
    reading,
    seen,
    seen_in_hive,
    table_at,
)  # fmt: skip


def publish_with(steps: Steps, table: Table, version: str, patched: pytest.MonkeyPatch) -> None:
    """Publishes with the fault. keep_versions is 1: the version from before is removed in the end."""
    steps.in_storage(patched)
    steps.in_metastore(patched, table.metastore)
    make = steps.wrap(maker(VECTORS[version], version))
    publish(table, version, judged(), ["vector"], make)


@pytest.mark.slow
@pytest.mark.usefixtures("no_grace", "quick_expiry")
def test_a_publish_may_die_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full disk, killed driver, failed task, lost metastore: readers see v1 or v2, whole; a rerun ends with v2."""

    def prepared(name: str) -> Table:
        table = table_at(tmp_path / name, metastore=FakeMetastore(), keep_versions=1, keep_days=0)
        publish_version(table, "v1")
        return table

    steps = Steps()
    with monkeypatch.context() as patched:
        publish_with(steps, prepared("whole"), "v2", patched)
    assert steps.count > 13
    old, new = 0, 0
    for at, (when, dead) in itertools.product(range(steps.count), FAULTS):
        table = prepared(f"{at}-{when}-{dead}")
        faulty = Steps(at, when, dead)
        with monkeypatch.context() as patched, pytest.raises((KilledError, OSError)):
            publish_with(faulty, table, "v2", patched)
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


@pytest.mark.slow
@pytest.mark.usefixtures("quick_expiry")
def test_a_rollback_may_die_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metastore's calls, the pointer, the lock: readers see v1 or v2, whole; a rerun ends with v1."""

    def prepared(name: str) -> Table:
        table = table_at(tmp_path / name, metastore=FakeMetastore())
        for version in ("v1", "v2"):
            publish_version(table, version)
        return table

    def back(steps: Steps, table: Table) -> None:
        with monkeypatch.context() as patched:
            steps.in_storage(patched)
            steps.in_metastore(patched, table.metastore)
            roll_back(table, "v1")

    steps = Steps()
    back(steps, prepared("whole"))
    assert {"move", "describe", "rows", "pipe_file", "_rename"} <= set(steps.names)
    pointers = set()
    for at, (when, dead) in itertools.product(range(steps.count), FAULTS):
        table = prepared(f"{at}-{when}-{dead}")
        with pytest.raises((KilledError, OSError)):
            back(Steps(at, when, dead), table)
        assert {seen(table), seen_in_hive(table)} <= {"v1", "v2"}
        pointers.add(seen(table))
        roll_back(table, "v1")
        assert (seen(table), seen_in_hive(table)) == ("v1", "v1")
        pointer = published.read_pointer(table.location, DATE)
        assert pointer is not None
        assert pointer.rolled_back == ["v2"]
    assert pointers == {"v1", "v2"}


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

    publish(table, "v1", judged(), ["vector"], make)
    assert (seen(table), seen_in_hive(table)) == ("v1", "v1")
    assert folders(tmp_path / f"table/dt={DATE}") == ["_current", *sorted({"version=v1", f"version={second}"})]


def test_a_version_that_another_commits_at_the_same_moment_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second would commit it between the first's look at the folder and its rename, were it not for the lock."""
    table = table_at(tmp_path, metastore=FakeMetastore())
    second = threading.Thread(target=publish_version, args=(table, "v1"))
    rename = storage.rename

    def renamed(source: str, target: str) -> None:
        if second.ident is None and target == table.folder("v1"):
            second.start()
            second.join(0.5)
        rename(source, target)

    monkeypatch.setattr("dssm.scoring.publish._MOVING", contextlib.nullcontext())  # as of two processes
    monkeypatch.setattr(storage, "rename", renamed)
    publish_version(table, "v1")
    second.join(60)
    assert (seen(table), seen_in_hive(table)) == ("v1", "v1")
    assert folders(tmp_path / f"table/dt={DATE}") == ["_current", "version=v1"]


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


@pytest.mark.slow
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
        publish(table, "v1", judged(), ["vector"], make)
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
        publish(table, "v2", judged(), ["vector"], make)
    assert (seen(table), seen_in_hive(table)) == ("v1", "v1")


@pytest.mark.parametrize("arrived", [("data/part-00000.parquet",), ("manifest.json", "data/part-00000.parquet")])
def test_a_rename_that_died_midway_is_done_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrived: tuple[str, ...]
) -> None:
    """On a store that copies file after file, and, at the worst, the manifest before all of the data."""
    table = table_at(tmp_path, metastore=FakeMetastore())
    publish_version(table, "v1")

    def die(source: str, target: str) -> None:
        for name in arrived:
            storage.put_file(f"{source}/{name}", f"{target}/{name}")
        raise OSError("connection reset")

    with monkeypatch.context() as patched:
        patched.setattr(storage, "rename", die)
        with pytest.raises(OSError, match="connection reset"):
            publish_version(table, "v2")
    assert (seen(table), seen_in_hive(table)) == ("v1", "v1")
    publish_version(table, "v2")
    assert (seen(table), seen_in_hive(table)) == ("v2", "v2")
    assert folders(tmp_path / f"table/dt={DATE}") == ["_current", "version=v1", "version=v2"]


# Readers ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_reader_sees_whole_versions_during_fifty_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each publish removes the versions that stopped being current longer ago than readers are given."""
    grace = 1.0
    monkeypatch.setattr("dssm.scoring.retention.GRACE", dt.timedelta(seconds=grace))
    table = table_at(tmp_path, kind="path", keep_versions=1, keep_days=0)
    publish_version(table, "v1")
    with reading(lambda: seen(table), grace, readers=2) as found:
        for number in range(50):
            name = f"v{number % 4 + 1}"
            make = maker(VECTORS[name], f"{name}-{number}")
            publish(table, f"{name}-{number}", judged(), ["vector"], make)
            time.sleep(0.06)  # so that most are removed while the readers read
    assert len(found) > 20
    assert set(found) == set(VECTORS)
    left = [name for name in folders(tmp_path / f"table/dt={DATE}") if name.startswith("version=")]
    assert "version=v2-49" in left
    assert len(left) < 30
