from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import skew

from dssm import published
from dssm.errors import UserError
from dssm.report.vectors import (
    BLOCK,
    NEIGHBOURS,
    Hubness,
    agreement,
    drawn,
    hubness,
    popular_and_drawn,
    read_vectors,
)
from tests.report.full_run import clustered_vectors, samples_run, write_table


def _by_sorting(vectors: np.ndarray) -> np.ndarray:
    """Returns each item's neighbours, (items, NEIGHBOURS), ascending."""
    scores = (vectors @ vectors.T).astype(np.float64)
    np.fill_diagonal(scores, -np.inf)
    return np.sort(np.argsort(-scores, axis=1)[:, :NEIGHBOURS], axis=1)


@pytest.mark.parametrize("items", [NEIGHBOURS + 1, 57, BLOCK + 3])
def test_neighbours_are_those_that_sorting_finds(items: int) -> None:
    vectors = np.random.default_rng(items).normal(size=(items, 5)).astype(np.float32)
    found = hubness(vectors)
    assert found is not None
    assert (np.sort(found.nearest, axis=1) == _by_sorting(vectors)).all()
    assert (found.counts == np.bincount(_by_sorting(vectors).ravel(), minlength=items)).all()
    assert found.counts.mean() == NEIGHBOURS


def test_no_neighbours_of_too_few() -> None:
    assert hubness(np.eye(NEIGHBOURS, dtype=np.float32)) is None


@given(st.lists(st.integers(0, 50), min_size=2, max_size=40))
def test_skewness_is_scipys(counts: list[int]) -> None:
    found = Hubness(np.array(counts), np.zeros((len(counts), 1), np.int64))
    expected = skew(counts) if len(set(counts)) > 1 else 0.0
    assert found.skewness == pytest.approx(expected, abs=1e-9)
    assert found.never == counts.count(0)


def test_one_item_near_all_others_is_a_hub() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(300, 40)).astype(np.float32)
    even = hubness(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    vectors[7] = 10 * vectors.mean(axis=0) + 20  # long, and towards all of them
    vectors[8:] += 1
    hub = hubness(vectors)
    assert even is not None
    assert hub is not None
    assert hub.counts.argmax() == 7
    assert hub.counts[7] > 250
    assert hub.skewness > even.skewness + 3


def test_neighbours_of_the_same_category() -> None:
    nearest = np.array([[1, 2], [0, 2], [0, 1], [0, 4], [3, 0]])
    same, chance = agreement(nearest, np.array([0, 0, 0, 1, 1]))
    assert same == pytest.approx(8 / 10)
    assert chance == pytest.approx((3 * 2 + 2 * 1) / (5 * 4))


# Which items ---------------------------------------------------------------------------------------------


@given(positives=st.lists(st.integers(0, 5), min_size=1, max_size=60), count=st.integers(0, 70), seed=st.integers(0, 9))
def test_half_of_the_chosen_are_the_most_popular(positives: list[int], count: int, seed: int) -> None:
    popularity = np.array(positives)
    keys = np.random.default_rng(seed).integers(0, 2**64, len(positives), dtype=np.uint64)
    chosen = popular_and_drawn(popularity, keys, count)
    assert len(chosen) == min(count, len(positives))
    assert (np.diff(chosen) > 0).all()
    if 0 < count < len(positives):
        half = np.sort(popularity)[::-1][: count // 2]
        assert (np.sort(popularity[chosen])[::-1][: count // 2] == half).all()


def test_the_others_are_drawn_by_their_hash_alone() -> None:
    keys = np.array([5, 1, 9, 3, 7], np.uint64)
    assert drawn(keys, 2).tolist() == [1, 3]
    assert drawn(keys, 9).tolist() == [0, 1, 2, 3, 4]
    assert popular_and_drawn(np.array([0, 0, 8, 0, 0]), keys, 3).tolist() == [1, 2, 3]


# The table ------------------------------------------------------------------------------------------------


def test_vectors_by_id_and_the_norms_of_all(tmp_path: Path) -> None:
    vectors = np.array([[3, 4], [0, 0], [np.nan, 1], [6, 8]], np.float32)
    write_table(samples_run(tmp_path), str(tmp_path / "table"), vectors, ["a", "b", "c", "d"], norm=None)
    table = published.current(str(tmp_path / "table"))
    assert table is not None
    norms, found = read_vectors(table, ["d", "none", "a"])
    assert (norms.rows, norms.not_finite, norms.zeros) == (4, 1, 1)
    assert (norms.lowest, norms.mean, norms.highest) == (0.0, 5.0, 10.0)
    assert found[[0, 2]].tolist() == [[6.0, 8.0], [3.0, 4.0]]
    assert np.isnan(found[1]).all()


def test_float16_and_int8_are_decoded(tmp_path: Path) -> None:
    paths, vectors = samples_run(tmp_path), clustered_vectors()
    halves = pa.array([row.astype("<f2").tobytes() for row in vectors], pa.binary())
    scale = (np.abs(vectors).max(axis=1) / 127).astype(np.float32)
    small = pa.array(list(np.rint(vectors / scale[:, None]).astype(np.int8)), pa.list_(pa.int8()))
    for dtype, columns in (("float16", {"vector": halves}), ("int8", {"vector": small, "scale": pa.array(scale)})):
        location = tmp_path / dtype
        write_table(paths, str(location), vectors, dtype=dtype)
        table = published.current(str(location))
        assert table is not None
        ids = pq.read_table(table.files[0], partitioning=None)["item_id"]
        pq.write_table(pa.table({"item_id": ids, **columns}), table.files[0])
        norms, found = read_vectors(table, ids.to_pylist())
        assert np.abs(found - vectors).max() < (1e-3 if dtype == "float16" else 5e-3)
        assert norms.mean == pytest.approx(1, abs=5e-3)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_table(samples_run(tmp_path), str(tmp_path / "table"), clustered_vectors())
    table = published.current(str(tmp_path / "table"))
    assert table is not None
    Path(table.files[0]).write_bytes(b"no Parquet")
    with pytest.raises(UserError, match=r"part-0\.parquet: can't be read"):
        read_vectors(table, ["i1"])
