from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dssm.retrieval.search import top_items

# Few values, so that most rows have ties; −inf stands for an item that is filtered out.
scores_ = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]),
)


@settings(max_examples=1000, deadline=None)
@given(scores=scores_, count=st.integers(1, 10))
def test_best_items_first_and_equal_scores_by_index(scores, count):
    expected = [sorted(range(len(row)), key=lambda item: (-row[item], item))[:count] for row in scores]
    assert top_items(scores, count).tolist() == expected


def test_a_literal_ranking():
    assert top_items(np.array([[0.1, 0.9, 0.1, 0.5], [3.0, 3.0, 3.0, 3.0]]), 3).tolist() == [[1, 3, 0], [0, 1, 2]]


@pytest.mark.parametrize("count", [1, 50, 999])
def test_many_items_against_a_full_sort(count: int):
    scores = np.random.default_rng(0).integers(0, 200, (7, 1000)).astype(np.float32)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(top_items(scores, count), expected)
