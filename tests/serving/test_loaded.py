"""Answers of one version that is made by hand: norms that differ, items that are seen, indexes that find too few."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.serving.loaded import AGAIN, Loaded, SeenItems
from dssm.serving.lookup import Lookup
from dssm.serving.search import ExactIndex
from tests.serving.tables import unit_rows

ITEMS = 60
IDS = pa.array([f"i{place}" for place in range(ITEMS)])
UNIT = unit_rows(ITEMS, 4)
MATRIX = UNIT * np.linspace(0.5, 2, ITEMS, dtype=np.float32)[:, None]
QUERY = unit_rows(1, 4, seed=6)[0]


def loaded(matrix: np.ndarray = MATRIX, norm: float | None = None) -> Loaded:
    nothing: Any = None
    seen = SeenItems(Lookup(pa.array(["b", "a"])), np.array([0, 2, 5]), np.array([7, 8, 1, 2, 3]))
    return Loaded(
        manifest=nothing, norm=norm, tower=nothing, rescorer=None, indexes={None: ExactIndex(IDS, matrix)},
        items=Lookup(IDS), users=Lookup(pa.array(["u"])), user_vectors={None: QUERY[None]}, seen=seen, titles=nothing,
        request=nothing, index_says="",
    )  # fmt: skip


@given(count=st.integers(1, 80), without=st.sets(st.integers(0, ITEMS - 1)))
def test_what_is_left_out_makes_no_answer_shorter(count: int, without: set[int]) -> None:
    found = loaded().top(QUERY, count, None, np.array(sorted(without), np.int64))
    scores = MATRIX @ QUERY
    expected = [place for place in np.argsort(-scores).tolist() if place not in without][:count]
    assert found.places.tolist() == expected
    np.testing.assert_allclose(found.scores, scores[expected], atol=1e-6)


def test_what_a_user_has_seen() -> None:
    seen = loaded().seen
    assert [seen.of(user).tolist() for user in ("a", "b", "c")] == [[1, 2, 3], [7, 8], []]


@pytest.mark.parametrize(("matrix", "norm"), [(UNIT, 1.0), (3 * UNIT, 3.0), (MATRIX, None)])
def test_similar_items_are_by_cosine_whatever_the_norms(matrix: np.ndarray, norm: float | None) -> None:
    assert AGAIN * 6 >= ITEMS  # so that all are looked at
    found = loaded(matrix, norm).similar(5, 6, None)
    cosines = UNIT @ UNIT[5]
    expected = [place for place in np.argsort(-cosines).tolist() if place != 5][:6]
    assert found.places.tolist() == expected
    np.testing.assert_allclose(found.scores, cosines[expected], rtol=1e-5)


def test_an_index_that_finds_too_few() -> None:
    class Poor(ExactIndex):
        def places(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
            places, scores = super().places(queries, count)
            places[:, 3:], scores[:, 3:] = -1, -np.inf
            return places, scores

    made = loaded()
    poor = Loaded(**{**vars(made), "indexes": {None: Poor(IDS, MATRIX)}})
    found = poor.top(QUERY, 10, None, np.zeros(0, np.int64))
    assert len(found.places) == 3
    assert [set(row) for row in poor.told(found)] == [{"item", "score"}] * 3
