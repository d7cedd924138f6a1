"""Lookup tables as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssm.features import SparseFeat, VarLenSparseFeat
from dssm.manifest import ITEM_ID, ITEM_INDEX, ColumnSpec
from dssm.samples.lookups import DAYS_COLUMN, EVENTS_COLUMN, POSITIVES_COLUMN, Lookups, load_vectors


def _write(path: Path, number: float) -> None:
    pq.write_table(pa.table({"id": ["p1"], "values": pa.array([[number]], pa.list_(pa.float32()))}), path)


def test_a_second_build_in_the_same_folder_reads_its_own_vectors(tmp_path: Path) -> None:
    path = tmp_path / "vectors.parquet"
    _write(path, 1.0)
    first = Lookups(vectors={"post": str(path)})
    np.testing.assert_array_equal(first.tables().vectors["post"].matrix, [[1.0]])
    _write(path, -5.0)
    second = Lookups(vectors={"post": str(path)})
    np.testing.assert_array_equal(second.tables().vectors["post"].matrix, [[-5.0]])


def test_a_table_is_loaded_once_a_build(tmp_path: Path) -> None:
    path = tmp_path / "vectors.parquet"
    _write(path, 1.0)
    lookups = Lookups(vectors={"post": str(path)})
    assert lookups.tables().vectors["post"] is lookups.tables().vectors["post"]


def test_a_large_table_is_mapped_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    random = np.random.default_rng(0)
    matrix = random.normal(size=(1000, 300)).astype(np.float32)  # 1.2 MB
    ids = [f"p{place}" for place in range(1000)]
    table = pa.table({"id": ids, "values": pa.array(matrix.tolist(), pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "vectors.parquet", row_group_size=300)
    held, mapped = (load_vectors(str(tmp_path / "vectors.parquet"), mapped_mb=size) for size in (2, 1))
    assert [isinstance(vectors.matrix, np.memmap) for vectors in (held, mapped)] == [False, True]
    for vectors in (held, mapped):
        np.testing.assert_array_equal(vectors.matrix, matrix)
        assert vectors.ids.to_pylist() == ids
    assert list((tmp_path / "scratch").iterdir()) == []


def test_counts_of_an_items_days(tmp_path: Path) -> None:
    rows = {
        ITEM_INDEX: pa.array([1, 0, 0, 1], pa.int32()),
        DAYS_COLUMN: pa.array([20, 11, 10, 10], pa.int32()),
        EVENTS_COLUMN: [4, 2, 3, 7],
        POSITIVES_COLUMN: [1, 0, 3, 5],
    }
    pq.write_table(pa.table(rows), tmp_path / "days.parquet")
    days = Lookups(day_counts={"ctr": str(tmp_path / "days.parquet")}).item_days("ctr")
    asked = [(0, 10, 11), (0, 10, 12), (0, 11, 12), (0, 12, 30), (1, 10, 20), (1, 0, 99), (2, 0, 99), (-1, 0, 99)]
    events, positives = days.between(*np.array(asked, np.int64).T)
    assert events.tolist() == [3, 5, 2, 0, 7, 11, 0, 0]
    assert positives.tolist() == [3, 3, 0, 0, 5, 6, 0, 0]


def _write_items(folder: Path) -> Lookups:
    """Three items in two files, not in the order of their indexes."""
    files = []
    for number, rows in enumerate([[(2, "c"), (0, "a")], [(1, "b")]]):
        files.append(str(folder / f"{number}.parquet"))
        pq.write_table(
            pa.table({ITEM_INDEX: pa.array([i for i, _ in rows], pa.int32()), ITEM_ID: [item for _, item in rows]}),
            files[-1],
        )
    return Lookups().with_items(tuple(files), {ITEM_INDEX: ColumnSpec(dtype="int32")})


def test_item_columns_are_in_the_order_of_the_indexes(tmp_path: Path) -> None:
    lookups = _write_items(tmp_path)
    assert lookups.item_ids().to_pylist() == ["a", "b", "c"]
    assert lookups.item_column(ITEM_INDEX).tolist() == [0, 1, 2]


def test_an_older_lists_items_may_have_left_the_catalogue(tmp_path: Path) -> None:
    pq.write_table(pa.table({"token": ["gone", "b", "left"]}), tmp_path / "item.parquet")
    lookups = _write_items(tmp_path)
    known = Lookups(vocabularies={"item": str(tmp_path / "item.parquet")}).with_items(lookups.item_files, {})
    feature = VarLenSparseFeat(side="user", name="old", share_embedding="item")
    assert known.universe((feature,)).to_pylist() == ["a", "b", "c", "gone", "left"]
    assert known.universe(()).to_pylist() == ["a", "b", "c"]
    codes = known.codes(feature, (feature,))
    assert codes.ids is not None
    assert codes.ids.tolist() == [1, 3, 1, 2, 4]
    hashed = SparseFeat(side="user", name="hashed", hash_buckets=7)
    assert known.universe((hashed,)).to_pylist() == ["a", "b", "c"]


def test_published_vectors_in_the_order_of_the_catalogue(tmp_path: Path) -> None:
    path = tmp_path / "vectors.parquet"
    values = pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": ["c", "gone", "a"], "values": values}), path)
    items = _write_items(tmp_path).item_files
    published = Lookups(published={"hard": str(path)}).with_items(items, {}).published_items("hard")
    assert published.has.tolist() == [True, False, True]
    assert published.items.tolist() == [[5, 6], [0, 0], [1, 2]]
