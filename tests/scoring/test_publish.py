"""Publishing step by step: what readers see while it runs, dies, and runs again."""

from __future__ import annotations

import datetime as dt
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from dssm import published, storage
from dssm.errors import GateError, UserError
from dssm.published import GateDecision, Published, PublishedManifest
from dssm.scoring.publish import Table, expired, publish, remove_old, roll_back
from dssm.sections import ItemTable
from tests.scoring.tables import DATE, FakeMetastore, folders, maker, manifest_of, table_at, unit_vectors

VECTORS = {f"v{number}": unit_vectors(6, seed=number) for number in range(1, 5)}


def judged(*decisions: GateDecision) -> Callable[[PublishedManifest | None], list[GateDecision]]:
    return lambda last: list(decisions)


def publish_version(table: Table, version: str, force: bool = False, **given: Any) -> Published:
    make = maker(VECTORS[version], version, date=table.date, **given)
    return publish(table, version, judged(), ["vector"], make, force)


def seen(table: Table) -> str | None:
    """Returns the version that a reader of the path finds. Raises: AssertionError where it is no whole version."""
    current = published.current(table.location, table.date)
    if current is None:
        return None
    ids, vectors = published.load(current)
    assert ids.to_pylist() == [f"i{number}" for number in range(6)]
    return of_vectors(vectors)


def seen_in_hive(table: Table) -> str | None:
    assert isinstance(table.metastore, FakeMetastore)
    place = table.metastore.location(table.date)
    if place is None:
        return None
    rows = pq.read_table(place).sort_by("item_id").to_pydict()
    assert rows["item_id"] == [f"i{number}" for number in range(6)]
    return of_vectors(np.array(rows["vector"], np.float32))


def of_vectors(vectors: np.ndarray) -> str:
    (version,) = [name for name, known in VECTORS.items() if np.array_equal(known, vectors)]
    return version


# A publish --------------------------------------------------------------------------------------------------


def test_a_version_goes_out(tmp_path: Path) -> None:
    table = table_at(tmp_path, metastore=FakeMetastore())
    made = publish_version(table, "v1")
    assert (seen(table), seen_in_hive(table)) == ("v1", "v1")
    assert isinstance(table.metastore, FakeMetastore)
    assert table.metastore.columns == {"item_id": "STRING", "vector": "ARRAY<FLOAT>", "model_version": "STRING"}
    assert table.metastore.told[DATE] == made.manifest
    assert made.manifest.previous is None
    second = publish_version(table, "v2")
    assert (seen(table), seen_in_hive(table)) == ("v2", "v2")
    assert second.manifest.previous == f"dt={DATE}/version=v1"
    assert [gate.passed for gate in second.manifest.gates] == [True] * 4
    assert not second.manifest.forced
    assert folders(tmp_path / f"table/dt={DATE}") == ["_current", "version=v1", "version=v2"]


def test_a_rerun_makes_nothing_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = table_at(tmp_path, kind="path")
    first = publish_version(table, "v1")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def never(folder: str, last: Published | None) -> PublishedManifest:
        raise AssertionError(folder)

    assert publish(table, "v1", judged(), ["vector"], never, force=False) == first
    assert "version v1 is there already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_was_published_last(tmp_path: Path) -> None:
    for date, version in (("2024-01-05", "v1"), ("2024-01-07", "v2"), ("2024-01-09", "v3")):
        publish_version(table_at(tmp_path, date), version)
    table = table_at(tmp_path)
    last = table.last("v4")
    assert last is not None
    assert last.manifest.version == "v2"  # not the later day's
    publish_version(table, "v4")
    last = table.last("v4")
    assert last is not None
    assert last.manifest.version == "v2"
    last = table.last("other")
    assert last is not None
    assert last.manifest.version == "v4"
    assert table_at(tmp_path, "2024-01-05").last("v1") is None


def test_another_dtype_is_refused(tmp_path: Path) -> None:
    publish_version(table_at(tmp_path, "2024-01-07"), "v1")
    with pytest.raises(UserError) as caught:
        publish_version(table_at(tmp_path, dtype="int8"), "v2", dtype="int8")
    assert str(caught.value) == (
        f"item_table.dtype: found int8, version v1 of 2024-01-07 in {tmp_path}/table holds float32; expected one dtype "
        "for all dates of a table: set it back, or name another table and location"
    )
    assert folders(tmp_path / "table") == ["dt=2024-01-07"]


def test_a_damaged_version_is_not_moved_to(tmp_path: Path) -> None:
    table = table_at(tmp_path)
    made = publish_version(table, "v1")
    publish_version(table, "v2")
    Path(made.files[0]).write_bytes(b"half")
    with pytest.raises(
        UserError, match=r"part-00000\.parquet: missing or damaged; remove .*version=v1 and run the job"
    ):
        publish_version(table, "v1")
    with pytest.raises(UserError, match=r"--to v1: .*part-00000\.parquet is missing or damaged"):
        roll_back(table, "v1")
    assert seen(table) == "v2"


def test_rows_that_the_metastore_does_not_give_back(tmp_path: Path) -> None:
    table = table_at(tmp_path, metastore=FakeMetastore(lambda place: 5))
    with pytest.raises(RuntimeError, match=f"tiny_items dt={DATE}: 5 rows read back, 6 written"):
        publish_version(table, "v1")


# Gates ------------------------------------------------------------------------------------------------------

TOO_BAD = GateDecision(gate="recall", passed=False, found=0.1, limit=0.2, reason="too bad")


def test_a_gate_on_the_model_refuses_before_anything_is_made(tmp_path: Path) -> None:
    table = table_at(tmp_path)
    publish_version(table, "v1")

    def never(folder: str, last: Published | None) -> PublishedManifest:
        raise AssertionError(folder)

    with pytest.raises(GateError, match="gate: too bad"):
        publish(table, "v2", judged(TOO_BAD), ["vector"], never, force=False)
    assert seen(table) == "v1"


def test_a_gate_on_the_rows_keeps_the_old(tmp_path: Path) -> None:
    table = table_at(tmp_path, metastore=FakeMetastore())
    publish_version(table, "v1")
    with pytest.raises(GateError, match="gate: 6 rows of 5 items"):
        publish_version(table, "v2", distinct=5)
    assert (seen(table), seen_in_hive(table)) == ("v1", "v1")
    assert folders(tmp_path / f"table/dt={DATE}") == ["_current", "version=v1"]


def test_force_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = table_at(tmp_path)
    make = maker(VECTORS["v1"], "v1", broken=2)
    made = publish(table, "v1", judged(TOO_BAD), ["vector"], make, force=True)
    assert seen(table) == "v1"
    kept = published.current(table.location, DATE)
    assert kept == made
    assert made.manifest.forced
    assert made.manifest.overridden == ["too bad", "2 vectors are not 2 finite numbers"]
    assert [gate.gate for gate in made.manifest.gates if not gate.passed] == ["recall", "finite numbers"]
    assert "forced: too bad" in capsys.readouterr().out
    with pytest.raises(GateError, match="2 vectors are not"):  # the folder is there: that is no reason to let it pass
        publish(table, "v1", judged(), ["vector"], make, force=False)


def test_force_on_a_version_that_is_there(tmp_path: Path) -> None:
    table = table_at(tmp_path)
    first = publish_version(table, "v1")
    again = publish(table, "v1", judged(TOO_BAD), ["vector"], maker(VECTORS["v1"]), force=True)
    assert (first.manifest.forced, again.manifest.forced) == (False, True)
    assert again.manifest.overridden == ["too bad"]
    assert published.current(table.location, DATE) == again
    assert again.manifest.at == first.manifest.at


def test_the_last_version_is_what_the_gates_judge_by(tmp_path: Path) -> None:
    table = table_at(tmp_path)
    asked: list[str | None] = []

    def judge(last: PublishedManifest | None) -> list[GateDecision]:
        asked.append(last and last.version)
        return []

    for version in ("v1", "v2", "v2"):
        publish(table, version, judge, ["vector"], maker(VECTORS[version], version), force=False)
    assert asked == [None, "v1", None]


# Rollback and retention --------------------------------------------------------------------------------------


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


def test_old_versions_are_removed(tmp_path: Path) -> None:
    table = table_at(tmp_path, metastore=FakeMetastore(), keep_versions=2, keep_days=0)
    for version in ("v1", "v2", "v3", "v4"):
        publish_version(table, version)
    assert folders(tmp_path / f"table/dt={DATE}") == ["_current", "version=v3", "version=v4"]


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
    removed = remove_old(table)
    kept = {"v1", "v3"}
    assert {folder.rsplit("=", 1)[1] for folder in removed} == {"v1", "v2", "v3"} - kept
    assert {v.manifest.version for v in published.versions(table.location, DATE)} == kept


def test_other_dates_keep_theirs(tmp_path: Path) -> None:
    for date, version in itertools.product(("2024-01-06", "2024-01-07"), ("v1", "v2", "v3")):
        publish_version(table_at(tmp_path, date, keep_versions=9), version)
    publish_version(table_at(tmp_path, keep_versions=1, keep_days=0), "v4")
    assert {path.parent.name + "/" + path.name for path in (tmp_path / "table").glob("dt=*/version=*")} == {
        "dt=2024-01-06/version=v3", "dt=2024-01-07/version=v3", f"dt={DATE}/version=v4",
    }  # fmt: skip


def test_what_is_old() -> None:
    """A version's days count from the next one's, which took its place."""
    now = dt.datetime(2024, 1, 20, tzinfo=dt.UTC)
    known = [manifest_of(version=f"v{day}", at=dt.datetime(2024, 1, day, tzinfo=dt.UTC)) for day in (1, 10, 15, 19)]

    def old(versions: int, days: int) -> set[str]:
        return expired(known, ItemTable(keep_versions=versions, keep_days=days), now)

    assert old(1, 0) == {"v1", "v10", "v15"}
    assert old(1, 1) == {"v1", "v10", "v15"}
    assert old(1, 2) == {"v1", "v10"}
    assert old(1, 7) == {"v1"}
    assert old(1, 11) == old(4, 0) == old(9, 0) == set()
    assert old(3, 0) == old(2, 7) == {"v1"}
    assert expired(known[:1], ItemTable(keep_versions=1, keep_days=0), now) == set()
    assert expired([], ItemTable(), now) == set()


def test_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    table = table_at(tmp_path)
    left = [f"dt={DATE}/.version=v9.tmp/data", f"dt={DATE}/.removed-v0/data", "dt=2024-01-07/.removed-v0"]
    others = ["dt=2024-01-07/.version=v8.tmp"]  # another run may be making it
    for folder in [*left, *others]:
        storage.make_folder(f"{table.location}/{folder}")
    publish_version(table, "v1")
    assert folders(tmp_path / f"table/dt={DATE}") == ["_current", "version=v1"]
    assert folders(tmp_path / "table/dt=2024-01-07") == [".version=v8.tmp"]


# Faults -----------------------------------------------------------------------------------------------------


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


def test_a_publish_may_die_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full disk, killed driver, failed task, lost metastore: readers see v1 or v2, whole; a rerun ends with v2."""

    def prepared(name: str) -> Table:
        table = table_at(tmp_path / name, metastore=FakeMetastore(), keep_versions=1, keep_days=0)
        publish_version(table, "v1")
        return table

    steps = Steps()
    with monkeypatch.context() as patched:
        steps.publish(prepared("whole"), "v2", patched)
    assert steps.count > 15
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
        assert folders(Path(table.location) / f"dt={DATE}") == ["_current", "version=v2"]
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
        publish_version(table, "v2")


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
