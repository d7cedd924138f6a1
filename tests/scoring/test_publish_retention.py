"""Ways back to a version, and the removal of old ones."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import re
import time
from pathlib import Path

import pytest

from dssm import locks, published, storage
from dssm.errors import GateError, UserError
from dssm.published import GateDecision, PublishedManifest
from dssm.scoring.publish import publish, roll_back
from dssm.scoring.retention import expired, remove_old
from dssm.scoring.table import Table
from dssm.sections import ItemTable
from tests.scoring.tables import (
    DATE,
    VECTORS,
    FakeMetastore,
    folders,
    maker,
    manifest_of,
    publish_version,
    seen,
    seen_in_hive,
    table_at,
)  # fmt: skip


def remove(table: Table) -> list[str]:
    with locks.locked(table.location) as lock:
        return remove_old(table, lock)


# Rollback -------------------------------------------------------------------------------------------------


def test_rollback(tmp_path: Path) -> None:
    table = table_at(tmp_path, metastore=FakeMetastore())
    for version in ("v1", "v2", "v3"):
        publish_version(table, version)
    roll_back(table, "v1")
    assert (seen(table), seen_in_hive(table)) == ("v1", "v1")
    assert isinstance(table.metastore, FakeMetastore)
    assert table.metastore.told[DATE].version == "v1"
    with pytest.raises(UserError) as caught:
        roll_back(table, "v9")
    assert str(caught.value) == (f"--to v9: tiny_items has no such version of {DATE}; expected one of: v1, v2, v3")
    publish_version(table, "v4")
    assert seen(table) == "v4"


def test_a_rerun_does_not_undo_a_rollback(tmp_path: Path) -> None:
    table = table_at(tmp_path, metastore=FakeMetastore())
    for version in ("v1", "v2"):
        publish_version(table, version)
    roll_back(table, "v1")
    with pytest.raises(GateError) as caught:
        publish_version(table, "v2")
    told = re.sub(r"since [-\d]+ [:\d]+ UTC", "since then", str(caught.value).splitlines()[0])
    assert told == (
        "gate: version v2 was rolled back, version v1 has been current since then; score_items would move to v2 again"
    )
    assert (seen(table), seen_in_hive(table)) == ("v1", "v1")
    assert publish_version(table, "v2", force=True).manifest.overridden[0].startswith("version v2 was rolled back")
    assert (seen(table), seen_in_hive(table)) == ("v2", "v2")
    publish_version(table, "v2")


def test_a_rollback_while_a_version_is_made_is_not_undone(tmp_path: Path) -> None:
    table = table_at(tmp_path, metastore=FakeMetastore())
    for version in ("v1", "v2"):
        publish_version(table, version)
    made_again = published.read_version(table.folder("v2"))

    def judge(last: PublishedManifest | None) -> list[GateDecision]:
        return []

    def measured(path: str) -> None:  # after the gates, before the move
        roll_back(table, "v1")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("dssm.scoring.publish._known", lambda *given: measured(given[1].folder) or made_again)
        with pytest.raises(GateError, match="version v2 was rolled back"):
            publish(table, "v2", judge, ["vector"], maker(VECTORS["v2"], "v2"))
    assert (seen(table), seen_in_hive(table)) == ("v1", "v1")


# Retention ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_grace")
def test_old_versions_are_removed(tmp_path: Path) -> None:
    table = table_at(tmp_path, metastore=FakeMetastore(), keep_versions=2, keep_days=0)
    for version in ("v1", "v2", "v3", "v4"):
        publish_version(table, version)
    assert folders(tmp_path / f"table/dt={DATE}") == ["_current", "version=v3", "version=v4"]


@pytest.mark.usefixtures("no_grace")
@pytest.mark.parametrize("kind", ["pointer", "metastore"])
def test_the_current_version_stays(tmp_path: Path, kind: str) -> None:
    """Even where only one of the two names it: a publish died between their moves."""
    table = table_at(tmp_path, metastore=FakeMetastore(), keep_versions=1, keep_days=0)
    many = table_at(tmp_path, metastore=table.metastore, keep_versions=9)
    for version in ("v1", "v2", "v3"):
        publish_version(many, version)
    if kind == "pointer":
        published.write_pointer(table.location, DATE, "v1", dt.datetime.now(dt.UTC))
    else:
        assert table.metastore is not None
        table.metastore.move(DATE, f"file:{table.folder('v1')}/data")
    removed = remove(table)
    kept = {"v1", "v3"}
    assert {folder.rsplit("=", 1)[1] for folder in removed} == {"v1", "v2", "v3"} - kept
    assert {v.manifest.version for v in published.versions(table.location, DATE)} == kept


@pytest.mark.usefixtures("no_grace")
def test_other_dates_keep_theirs(tmp_path: Path) -> None:
    for date, version in itertools.product(("2024-01-06", "2024-01-07"), ("v1", "v2", "v3")):
        publish_version(table_at(tmp_path, date, keep_versions=9), version)
    publish_version(table_at(tmp_path, keep_versions=1, keep_days=0), "v4")
    assert {path.parent.name + "/" + path.name for path in (tmp_path / "table").glob("dt=*/version=*")} == {
        "dt=2024-01-06/version=v3", "dt=2024-01-07/version=v3", f"dt={DATE}/version=v4",
    }  # fmt: skip


def test_what_is_old() -> None:
    """Of versions that never were current, the days count from the next one's making."""
    now = dt.datetime(2024, 1, 20, tzinfo=dt.UTC)
    known = [manifest_of(version=f"v{day}", at=dt.datetime(2024, 1, day, tzinfo=dt.UTC)) for day in (1, 10, 15, 19)]

    def old(versions: int, days: int) -> set[str]:
        return expired(known, ItemTable(keep_versions=versions, keep_days=days), now, left)

    left: dict[str, dt.datetime] = {}
    assert old(1, 0) == {"v1", "v10", "v15"}
    assert old(1, 1) == {"v1", "v10", "v15"}
    assert old(1, 2) == {"v1", "v10"}
    assert old(1, 7) == {"v1"}
    assert old(1, 11) == old(4, 0) == old(9, 0) == set()
    assert old(3, 0) == old(2, 7) == {"v1"}
    assert expired(known[:1], ItemTable(keep_versions=1, keep_days=0), now, {}) == set()
    assert expired([], ItemTable(), now, {}) == set()
    left = {"v1": now - dt.timedelta(minutes=59), "v10": now - dt.timedelta(hours=1)}
    assert old(1, 0) == {"v10", "v15"}
    assert old(1, 1) == {"v15"}


def test_what_was_current_just_now_stays(tmp_path: Path) -> None:
    """Versions of days ago, a way back to the first, and a new one: readers still hold the first."""
    table = table_at(tmp_path, keep_versions=1)
    for days, version in ((9, "v1"), (8, "v2"), (7, "v3")):
        publish_version(table, version, at=dt.datetime.now(dt.UTC) - dt.timedelta(days=days))
    assert folders(tmp_path / f"table/dt={DATE}") == ["_current", "version=v1", "version=v2", "version=v3"]
    roll_back(table, "v1")
    publish_version(table, "v4")
    assert "version=v1" in folders(tmp_path / f"table/dt={DATE}")
    path = Path(table.location) / f"dt={DATE}/_current"
    pointer = published.Pointer.model_validate_json(path.read_text())
    before = {name: at - dt.timedelta(days=1) for name, at in pointer.left.items() if name != "v2"}
    path.write_text(pointer.model_copy(update={"left": pointer.left | before}).model_dump_json())
    remove(table)
    assert folders(tmp_path / f"table/dt={DATE}") == ["_current", "version=v2", "version=v4"]


def test_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    table = table_at(tmp_path)
    yesterday = time.time() - 86_401
    for folder in (f"dt={DATE}/.removed-v0", "dt=2024-01-07/.removed-v0"):
        storage.make_folder(f"{table.location}/{folder}/data")
    for date, (name, old) in itertools.product((DATE, "2024-01-07"), (("old", True), ("new", False))):
        folder = Path(table.location, f"dt={date}")
        storage.write_text(f"{folder}/.version=v9.{name}.tmp/data/part-0", "half")
        storage.make_folder(f"{folder}/.version=v9.{name}-empty.tmp")
        storage.write_text(f"{folder}/._current.{name}.tmp", "half")
        for path in folder.rglob(f"*.{name}*"):
            for there in [*path.rglob("*"), path] if old else []:
                os.utime(there, (yesterday, yesterday))
    publish_version(table, "v1")
    new = ["._current.new.tmp", ".version=v9.new-empty.tmp", ".version=v9.new.tmp"]  # another run may be at them
    assert folders(tmp_path / f"table/dt={DATE}") == [*new, "_current", "version=v1"]
    assert folders(tmp_path / "table/dt=2024-01-07") == new


def test_only_versions_that_may_go_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of many dates: what is listed is enough for those that have no more than keep_versions."""
    for date in ("2024-01-05", "2024-01-06"):
        publish_version(table_at(tmp_path, date), "v1")
    for version in ("v1", "v2", "v3"):
        publish_version(table_at(tmp_path, "2024-01-07"), version)
    table, read = table_at(tmp_path, keep_versions=2), []
    monkeypatch.setattr(published, "versions", lambda location, date: read.append(date) or [])
    remove(table)
    assert read == ["2024-01-07"]
