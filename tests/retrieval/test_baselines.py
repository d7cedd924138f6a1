from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dssm.retrieval import baselines
from dssm.retrieval.baselines import ease, item_cf_blocks, item_similarity

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
@given(interactions=interactions_, neighbours=st.integers(1, 8), at_once=st.integers(1, 8))
def test_scores_add_up_the_similarities_to_the_history(interactions, neighbours, at_once):
    clicked = (interactions > 0).astype(np.float32)
    similarity = item_similarity(sp.csr_matrix(clicked), neighbours)
    dense = similarity.toarray().astype(np.float64)
    expected = [[sum(dense[h, item] for h in np.flatnonzero(row)) for item in range(len(dense))] for row in clicked]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(baselines, "ITEMS_AT_ONCE", at_once)
        blocks = list(item_cf_blocks(sp.csr_matrix(clicked), similarity))
    assert [first for first, _ in blocks] == list(range(0, len(dense), at_once))
    found = np.hstack([scores for _, scores in blocks])
    assert found.dtype == np.float32
    assert found.shape == clicked.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)


def _closed_form(interactions: np.ndarray, l2: float) -> np.ndarray:
    inverse = np.linalg.inv(interactions.T.astype(np.float64) @ interactions + l2 * np.eye(interactions.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def _ridge_without_itself(interactions: np.ndarray, l2: float) -> np.ndarray:
    """Column by column: the ridge regression of an item on all others, by least squares over stacked rows."""
    items = interactions.shape[1]
    weights = np.zeros((items, items))
    for item in range(items):
        others = np.delete(np.arange(items), item)
        rows = np.vstack([interactions[:, others], math.sqrt(l2) * np.eye(items - 1)])
        wanted = np.concatenate([interactions[:, item], np.zeros(items - 1)])
        if items > 1:
            weights[others, item] = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    return weights


@settings(max_examples=200, deadline=None)
@given(interactions=interactions_, l2=st.sampled_from([0.1, 1.0, 30.0]), rows=st.integers(1, 8))
def test_ease_is_the_ridge_regression_of_each_item_on_the_others(interactions, l2, rows):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(baselines, "ROWS_AT_ONCE", rows)
        patched.setattr(baselines, "SWEPT_ROWS", rows)
        patched.setattr(baselines, "GRAM_VALUES", 2 * rows)
        found = ease(sp.csr_matrix(interactions), l2)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.diag(found), 0.0)
    np.testing.assert_allclose(found, _closed_form(interactions, l2), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found, _ridge_without_itself(interactions.astype(np.float64), l2), rtol=1e-5, atol=1e-6)


def test_ease_at_literal_values():
    """Users ab, abc, c, λ = 1: the Gram matrix is ((3, 2, 1), (2, 3, 1), (1, 1, 3)), and its determinant 13."""
    found = ease(sp.csr_matrix([[1, 1, 0], [1, 1, 1], [0, 0, 1]]), 1.0)
    # Of 13 P: ((8, −5, −1), (−5, 8, −1), (−1, −1, 5)).
    np.testing.assert_allclose(found, [[0, 5 / 8, 1 / 5], [5 / 8, 0, 1 / 5], [1 / 8, 1 / 8, 0]], rtol=1e-6)


def test_ease_over_several_blocks_of_many_items(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(baselines, "SWEPT_ROWS", 48)
    interactions = (sp.random(300, 200, density=0.1, format="csr", random_state=1) > 0).astype(np.float32)
    found = ease(interactions, 5.0)
    np.testing.assert_allclose(found, _closed_form(interactions.toarray(), 5.0), rtol=1e-5, atol=1e-7)
    assert found.flags.c_contiguous


def test_ease_of_a_singular_matrix_is_refused():
    with pytest.raises(ValueError, match="not positive definite at the rows 0…1"):
        ease(sp.csr_matrix([[1, 1]]), 1e-300)
