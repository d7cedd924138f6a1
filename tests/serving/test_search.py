from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.serving.search import ExactIndex, best_of, vectors_of
from tests.serving.tables import unit_rows

IDS = pa.array([f"i{place}" for place in range(40)])
MATRIX = unit_rows(40, 5) * np.linspace(0.5, 2, 40, dtype=np.float32)[:, None]
QUERY = unit_rows(1, 5, seed=3)[0]


def batches(parts: int = 3):
    return ((IDS.take(pa.array(part)), MATRIX[part]) for part in np.array_split(np.arange(40), parts))


@given(parts=st.integers(1, 6), count=st.integers(1, 50), without=st.sets(st.integers(0, 39)), cosine=st.booleans())
def test_the_best_rows_are_numpys(parts: int, count: int, without: set[int], cosine: bool) -> None:
    scores = MATRIX @ QUERY / (np.linalg.norm(MATRIX, axis=1) if cosine else 1)
    expected = [place for place in np.argsort(-scores, kind="stable").tolist() if place not in without][:count]
    found = best_of(batches(parts), QUERY, count, [f"i{place}" for place in without], cosine)
    assert found.ids == [f"i{place}" for place in expected]
    np.testing.assert_allclose(found.scores, scores[expected], atol=1e-6)


def test_vectors_by_their_ids() -> None:
    found = vectors_of(batches(), ["i31", "i40", "i2"])
    assert found.keys() == {"i2", "i31"}
    np.testing.assert_array_equal([found["i2"], found["i31"]], MATRIX[[2, 31]])


def test_the_exact_index() -> None:
    index = ExactIndex(IDS, MATRIX)
    places, scores = index.places(QUERY[None], 3)
    np.testing.assert_array_equal(places[0], np.argsort(-(MATRIX @ QUERY))[:3])
    assert scores[0, 0] == pytest.approx((MATRIX @ QUERY).max())
    assert index.count == 40
    assert index.search(QUERY[None], 1).ids.tolist() == [[f"i{places[0, 0]}"]]
    np.testing.assert_array_equal(index.vector(2), MATRIX[2])
