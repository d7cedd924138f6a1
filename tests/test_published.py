from __future__ import annotations

import datetime as dt
import json
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from dssm import published, storage
from dssm.errors import UserError
from dssm.published import Published, PublishedManifest, VectorType
from tests.at_once import meanwhile
from tests.scoring.tables import DATE, MADE_AT, unit_vectors, write_rows

VECTORS = unit_vectors(7, 3)


class NotLocal(DirFileSystem):
    """The local disk, as a store that can't rename over files."""

    protocol = "local-without"

    def __init__(self, **options: object) -> None:
        super().__init__(path="/", fs=LocalFileSystem())

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(path).removeprefix("local-without://")

    def mv(self, path1: str, path2: str, **options: object) -> None:
        if self.exists(path2):
            raise FileExistsError(path2)
        Path(path1).rename(path2)


def commit(location: Path, manifest: PublishedManifest, current: bool = True) -> Published:
    folder = published.version_folder(str(location), manifest.date, manifest.version)
    storage.write_text(f"{folder}/manifest.json", manifest.model_dump_json())
    if current:
        published.write_pointer(str(location), manifest.date, manifest.version, MADE_AT)
    return published.read_version(folder)


def version(location: Path, name: str = "v1", date: str = DATE, current: bool = True, **given) -> Published:
    folder = published.version_folder(str(location), date, name)
    made = write_rows(folder, given.pop("vectors", VECTORS), version=name, date=date, **given)
    return commit(location, made, current)


# Vectors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("float16", 3e-4), ("int8", 0.004)])
def test_all_dtypes_come_as_float32(tmp_path: Path, dtype: VectorType, error: float) -> None:
    likes = unit_vectors(7, 5, seed=2)
    made = version(tmp_path, dtype=dtype, objectives={"like": likes})
    for objective, expected in ((None, VECTORS), ("like", likes)):
        ids, found = published.load(made, objective)
        assert ids.to_pylist() == [f"i{number}" for number in range(7)]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=error)
    parts = list(published.batches(made))
    assert [len(part) for part, _ in parts] == [4, 3]
    np.testing.assert_array_equal(np.concatenate([matrix for _, matrix in parts]), published.load(made)[1])


def test_vectors_of_another_writer_are_read(tmp_path: Path) -> None:
    """Batches of a larger array: their lists do not begin at 0."""
    made = version(tmp_path, vectors=unit_vectors(40_000, 3))
    lists = pa.array(list(VECTORS) * 3000, pa.list_(pa.float32()))
    table = pa.table({"item_id": [f"i{number}" for number in range(21_000)], "vector": lists})
    for path in made.files:
        pq.write_table(table, path)
    found = np.concatenate([matrix for _, matrix in published.batches(made)])
    np.testing.assert_array_equal(found, np.tile(VECTORS, (6000, 1)))


def test_no_rows(tmp_path: Path) -> None:
    made = version(tmp_path, vectors=np.empty((0, 3), np.float32), files=1)
    ids, found = published.load(made)
    assert (len(ids), found.shape) == (0, (0, 3))


def test_an_objective_that_is_none(tmp_path: Path) -> None:
    made = version(tmp_path, objectives={"like": VECTORS})
    with pytest.raises(UserError, match=r"no objective is named 'lik' \(did you mean 'like'\?\)"):
        published.load(made, "lik")
    alone = version(tmp_path / "other")
    with pytest.raises(UserError, match=r"no objective is named 'like' \(the model has one only\)"):
        published.load(alone, "like")


def test_damage_is_said(tmp_path: Path) -> None:
    made = version(tmp_path)
    assert published.damaged_files(made) == []
    first, second = made.files
    Path(first).write_bytes(Path(first).read_bytes()[:-9])
    assert published.damaged_files(made) == [first]
    with pytest.raises(
        UserError, match=r"part-00000\.parquet: can't be read .* publish the version again, or roll back"
    ):
        published.load(made)
    Path(first).unlink()
    Path(second).unlink()
    assert published.damaged_files(made) == [first, second]
    with pytest.raises(UserError, match="can't be read"):
        published.load(made)


# Versions ----------------------------------------------------------------------------------------------


def test_the_current_version(tmp_path: Path) -> None:
    assert published.current(str(tmp_path)) is None
    assert published.current(str(tmp_path), DATE) is None
    version(tmp_path, "v1", current=False)
    assert published.current(str(tmp_path), DATE) is None  # made, and not moved to
    assert published.current(str(tmp_path)) is None
    old = version(tmp_path, "v0", "2024-01-03")
    new = version(tmp_path, "v2", at=MADE_AT + dt.timedelta(hours=1))
    assert published.current(str(tmp_path)) == new
    assert published.current(str(tmp_path), "2024-01-03") == old
    assert published.dates(str(tmp_path)) == ["2024-01-03", DATE]
    assert [v.manifest.version for v in published.versions(str(tmp_path), DATE)] == ["v1", "v2"]
    assert published.versions(str(tmp_path), "2024-01-04") == []


def test_the_pointer_is_relative_and_replaced_whole(tmp_path: Path) -> None:
    version(tmp_path, "v1")
    version(tmp_path, "v2")
    place = tmp_path / f"dt={DATE}"
    assert json.loads((place / "_current").read_text()) == {
        "version": "v2", "folder": "version=v2", "at": "2024-01-09T03:00:00Z", "left": {"v1": "2024-01-09T03:00:00Z"},
        "rolled_back": [],
    }  # fmt: skip
    assert sorted(entry.name for entry in place.iterdir()) == ["_current", "version=v1", "version=v2"]
    tmp_path.rename(tmp_path.with_name("moved"))
    moved = published.current(str(tmp_path.with_name("moved")))
    assert moved is not None
    assert moved.manifest.version == "v2"
    np.testing.assert_array_equal(published.load(moved)[1], VECTORS)


def test_a_pointer_on_a_store_that_can_not_overwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer was killed between its two renames, on HDFS: what was current before is."""
    version(tmp_path, "v1", "2024-01-03")
    version(tmp_path, "v2")
    pointer = tmp_path / f"dt={DATE}/_current"
    pointer.rename(pointer.with_name("._current.0.old"))
    monkeypatch.setattr(storage, "AWAY_S", 0.0)
    place = f"local-without://{tmp_path}"
    fsspec.register_implementation("local-without", NotLocal, clobber=True)
    assert published.dates(place) == ["2024-01-03", DATE]
    found = published.current(place)
    assert found is not None
    assert found.manifest.version == "v2"


def test_readers_of_a_pointer_on_a_store_that_can_not_overwrite(tmp_path: Path) -> None:
    fsspec.register_implementation("local-without", NotLocal, clobber=True)
    place, done = f"local-without://{tmp_path}", threading.Event()
    found: list[str | None] = []
    seen_dates: list[list[str]] = []
    published.write_pointer(place, DATE, "v0", MADE_AT)

    def read() -> None:
        while not done.is_set():
            pointer = published.read_pointer(place, DATE)
            found.append(None if pointer is None else pointer.version)
            seen_dates.append(published.dates(place))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(50):
        published.write_pointer(place, DATE, f"v{number}", MADE_AT)
        time.sleep(0.005)
    done.set()
    for reader in readers:
        reader.join()
    assert len(found) > 20
    assert all(dates == [DATE] for dates in seen_dates)
    assert set(found) <= {f"v{number}" for number in range(50)}
    assert [path.name for path in (tmp_path / f"dt={DATE}").iterdir()] == ["_current"]


def test_a_damaged_pointer(tmp_path: Path) -> None:
    version(tmp_path)
    pointer = tmp_path / f"dt={DATE}/_current"
    pointer.write_text("{")
    with pytest.raises(UserError, match="_current: damaged"):
        published.current(str(tmp_path), DATE)
    pointer.write_text('{"version": "gone", "folder": "version=gone", "at": "2024-01-09T03:00:00Z"}')
    with pytest.raises(UserError, match=r"version=gone/manifest\.json: not found; expected a published version"):
        published.current(str(tmp_path), DATE)


def test_the_pointer_keeps_its_history(tmp_path: Path) -> None:
    for hour, name in enumerate(("v1", "v2", "v3")):
        version(tmp_path, name, current=False, at=MADE_AT + dt.timedelta(hours=hour))
    location = str(tmp_path)

    def moved(name: str, hour: int, back: bool = False) -> tuple[dict[str, int], list[str]]:
        published.write_pointer(location, DATE, name, MADE_AT + dt.timedelta(hours=hour), back)
        pointer = published.read_pointer(location, DATE)
        assert pointer is not None
        return {n: (at - MADE_AT) // dt.timedelta(hours=1) for n, at in pointer.left.items()}, pointer.rolled_back

    assert moved("v1", 1) == ({}, [])
    assert moved("v2", 2) == ({"v1": 2}, [])
    assert moved("v1", 3, back=True) == ({"v2": 3}, ["v2"])
    assert moved("v3", 4) == ({"v1": 4, "v2": 3}, ["v2"])
    assert moved("v2", 5) == ({"v1": 4, "v3": 5}, [])
    (tmp_path / f"dt={DATE}/_current").write_text("{")
    assert moved("v1", 6, back=True) == ({"v2": 6, "v3": 6}, ["v2", "v3"])
    (tmp_path / f"dt={DATE}/version=v2").rename(tmp_path / "gone")
    assert moved("v3", 7) == ({"v1": 7}, ["v2"])


def test_rows_are_counted_by_footers(tmp_path: Path) -> None:
    made = version(tmp_path)
    assert published.rows_there(made) == 7
    Path(made.files[1]).write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"part-00001\.parquet: can't be read \(.+\); publish the version again"):
        published.rows_there(made)


def test_a_folder_of_another_schema_is_no_version(tmp_path: Path) -> None:
    version(tmp_path, "v1")
    storage.write_text(f"{tmp_path}/dt={DATE}/version=old/manifest.json", '{"table": "x", "version": "old"}')
    (tmp_path / f"dt={DATE}/version=unfinished").mkdir()
    assert [v.manifest.version for v in published.versions(str(tmp_path), DATE)] == ["v1"]


# The tables of a run -----------------------------------------------------------------------------------


def test_a_run_knows_its_tables(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    with pytest.raises(UserError, match="no table of items was published from this run; run score_items for this date"):
        published.run_table(run, "items")
    published.write_run_tables(run, {"items": str(tmp_path / "items")})
    published.write_run_tables(run, {"users": str(tmp_path / "users")})
    assert published.run_table(run, "items") == str(tmp_path / "items")
    assert json.loads((tmp_path / "run/tables.json").read_text()) == {
        "items": str(tmp_path / "items"),
        "users": str(tmp_path / "users"),
    }


def test_tables_that_are_noted_at_once_are_all_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with meanwhile(monkeypatch, published.write_run_tables, str(tmp_path), {"users": "/users"}):
        published.write_run_tables(str(tmp_path), {"items": "/items"})
    assert published.run_tables(str(tmp_path)) == {"items": "/items", "users": "/users"}
    assert [path.name for path in tmp_path.iterdir()] == ["tables.json"]
