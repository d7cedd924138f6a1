"""Recall of searches against the exact ones, and the users that indexes are searched for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.retrieval.queries import draw, rows_at
from dssm.retrieval.recall import below, exact_search, is_first, recall_at, true_scores
from tests.serving.tables import unit_rows

MATRIX = unit_rows(100, 6)
QUERIES = unit_rows(7, 6, seed=5)
IDS = pa.array([f"i{place}" for place in range(100)])


def batches(matrix: np.ndarray = MATRIX, parts: int = 3) -> Iterator[tuple[pa.Array, np.ndarray]]:
    for part in np.array_split(np.arange(len(matrix)), parts):
        yield IDS.take(pa.array(part)), matrix[part]


@given(parts=st.integers(1, 9), count=st.integers(1, 120))
def test_the_exact_search_in_blocks_is_numpys(parts: int, count: int) -> None:
    found = exact_search(batches(parts=parts), 100, QUERIES, count, sample=0, seed=0)
    expected = -np.sort(-(QUERIES @ MATRIX.T), axis=1)[:, :count]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)
    assert found.norm == pytest.approx(1)
    assert found.sample.shape == (0, 6)
    assert found.seconds > 0


def test_norms_and_the_sample() -> None:
    scaled = MATRIX * np.linspace(1, 1.01, 100, dtype=np.float32)[:, None]
    found = exact_search(batches(scaled), 100, QUERIES, 1, sample=30, seed=3)
    assert found.norm is None
    assert found.sample.shape == (30, 6)
    np.testing.assert_array_equal(found.sample, scaled[draw(100, 30, 3)])
    np.testing.assert_array_equal(rows_at(batches(scaled), np.array([0, 34, 99])), scaled[[0, 34, 99]])


@given(rows=st.integers(0, 200), count=st.integers(0, 250), seed=st.integers(0, 9))
def test_a_draw_has_each_place_once(rows: int, count: int, seed: int) -> None:
    places = draw(rows, count, seed)
    assert len(places) == min(rows, count) == len(set(places.tolist()))
    assert (np.diff(places) > 0).all()
    np.testing.assert_array_equal(places, draw(rows, count, seed))


def test_true_scores_leave_out_what_is_no_item_or_stands_twice() -> None:
    found = np.array([["i3", "i4", None, "i3"], ["gone", "i0", "i1", "i2"]], object)
    (scores,) = true_scores(batches(), QUERIES[:2], [found])
    products = QUERIES[:2] @ MATRIX.T
    np.testing.assert_allclose(scores[0], [products[0, 3], products[0, 4], -np.inf, -np.inf], rtol=1e-5)
    np.testing.assert_allclose(scores[1], [-np.inf, *products[1, :3]], rtol=1e-5)


@given(st.lists(st.lists(st.integers(0, 4), min_size=5, max_size=5), min_size=1, max_size=4))
def test_first_of_their_kind(rows: list[list[int]]) -> None:
    expected = [[value not in row[:place] for place, value in enumerate(row)] for row in rows]
    assert is_first(np.array(rows)).tolist() == expected


def test_recall_counts_items_of_the_same_score_as_right() -> None:
    exact = np.array([[0.9, 0.8, 0.8, 0.1]])
    assert recall_at(exact, np.array([[0.9, 0.8]]), 2) == 1
    assert recall_at(exact, np.array([[0.8, 0.8]]), 2) == 1  # three items are among the best two: any of them
    assert recall_at(exact, np.array([[0.9, 0.1]]), 2) == 0.5
    assert recall_at(exact, np.array([[-np.inf, -np.inf]]), 2) == 0
    assert recall_at(exact, np.array([[0.9, 0.8, 0.8, -np.inf]]), 4) == 0.75


def test_recall_of_more_items_than_there_are() -> None:
    exact = np.array([[0.9, 0.8, -np.inf]])
    assert recall_at(exact, np.array([[0.9, 0.8, -np.inf]]), 100) == 1


def test_what_is_below() -> None:
    assert below({10: 0.95, 100: 0.8999}, {10: 0.95, 100: 0.9}) == ["recall@100 is 0.8999, less than 0.9"]
