from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dssm.retrieval import baselines
from dssm.retrieval.baselines import item_cf_scores, item_similarity

interactions_ = arrays(np.int64, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.integers(0, 2))


def _cosines(interactions: np.ndarray) -> np.ndarray:
    """Dense, pair by pair, from the sets of users."""
    users = [set(np.flatnonzero(column)) for column in interactions.T]
    return np.array(
        [
            [len(a & b) / math.sqrt(len(a) * len(b)) if a and b and i != j else 0.0 for j, b in enumerate(users)]
            for i, a in enumerate(users)
        ]
    )


@settings(max_examples=300, deadline=None)
@given(interactions=interactions_, neighbours=st.integers(1, 8))
def test_similarity_is_the_cosine_of_the_users_of_each_items_nearest(interactions, neighbours):
    found = item_similarity(sp.csr_matrix(interactions), neighbours).toarray()
    cosines = _cosines(interactions)
    for item in range(interactions.shape[1]):
        least = sorted(cosines[:, item], reverse=True)[min(neighbours, len(cosines)) - 1]
        expected = np.where(cosines[:, item] >= least - 1e-6, cosines[:, item], 0.0)  # ties at the boundary are kept
        np.testing.assert_allclose(found[:, item], expected, atol=1e-6)


def test_a_literal_similarity():
    """Users ab, abc, c: a and b share both their users, c shares one of its two with each."""
    similarity = item_similarity(sp.csr_matrix([[1, 1, 0], [1, 1, 1], [0, 0, 1]]), neighbours=2).toarray()
    np.testing.assert_allclose(similarity, [[0, 1, 0.5], [1, 0, 0.5], [0.5, 0.5, 0]], rtol=1e-6)


def test_blocks_of_items_make_no_difference(monkeypatch: pytest.MonkeyPatch):
    interactions = sp.random(40, 23, density=0.3, format="csr", random_state=1)
    whole = item_similarity(interactions, 5).toarray()
    monkeypatch.setattr(baselines, "BLOCK_VALUES", 23 * 4)
    np.testing.assert_array_equal(item_similarity(interactions, 5).toarray(), whole)


@settings(max_examples=200, deadline=None)
@given(interactions=interactions_, neighbours=st.integers(1, 8))
def test_scores_add_up_the_similarities_to_the_history(interactions, neighbours):
    clicked = (interactions > 0).astype(np.float32)
    similarity = item_similarity(sp.csr_matrix(clicked), neighbours)
    dense = similarity.toarray().astype(np.float64)
    expected = [[sum(dense[h, item] for h in np.flatnonzero(row)) for item in range(len(dense))] for row in clicked]
    found = item_cf_scores(sp.csr_matrix(clicked), similarity)
    assert found.dtype == np.float32
    assert found.shape == clicked.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)
