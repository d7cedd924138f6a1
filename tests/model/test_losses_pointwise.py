from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.model.losses import Sampled, Scored
from dssm.sections.losses import Regression, WeightedBce
from tests.model import loss_reference
from tests.model.loss_batches import assert_equals_reference, draw_scored, evaluate, permuted

seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, rows=st.integers(1, 6), positive_weight=st.floats(0.1, 5), with_sampled=st.booleans())
def test_weighted_bce_is_that_of_the_rows_and_of_their_negatives(seed, rows, positive_weight, with_sampled):
    scored = draw_scored(seed, rows)
    scored = scored if with_sampled else replace(scored, sampled=None)
    assert_equals_reference(WeightedBce(positive_weight=positive_weight), scored, loss_reference.weighted_bce_rows)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, rows=st.integers(1, 6), prediction=st.sampled_from(["linear", "sigmoid"]))
def test_regression_is_the_squared_error(seed, rows, prediction):
    scored = replace(draw_scored(seed, rows), sampled=None, candidates=None)
    assert_equals_reference(Regression(prediction=prediction), scored, loss_reference.regression_rows)


def _three_rows(label: list[float]) -> Scored:
    sampled = Sampled(
        logits=np.float32([[0.5], [0.0], [0.0]]),
        probability=np.float32([[0.1], [0.0], [0.0]]),
        drawn=np.array([[True], [False], [False]]),
        weight=np.float32([0.5]),
        kinds=(1,),
    )
    keys = np.arange(1, 4)
    return Scored(np.float32([1, -2, 3]), np.float32(label), np.float32([2, 1, 1]), keys, keys, sampled=sampled)


def test_weighted_bce_at_literal_rows():
    losses, weights, _ = evaluate(WeightedBce(positive_weight=3.0), _three_rows([1, 0, 0]))
    assert weights.tolist() == [2, 1, 1, 1, 0, 0]  # the negative's: half of its positive's
    expected = [3 * np.log1p(np.exp(-1)), np.log1p(np.exp(-2)), np.log1p(np.exp(3)), np.log1p(np.exp(0.5))]
    np.testing.assert_allclose(losses[:4], expected, rtol=1e-6)


def test_a_label_above_1_counts_as_1():
    found, expected = (evaluate(WeightedBce(), _three_rows(label)) for label in ([1, 0, 5], [1, 0, 1]))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[2]["score"], expected[2]["score"])


@pytest.mark.parametrize("kind", [WeightedBce(), Regression(), Regression(prediction="sigmoid")])
def test_a_label_that_is_not_known_reaches_neither_loss_nor_gradient(kind: WeightedBce | Regression):
    """Even with a weight: 0 · NaN would be NaN in both."""
    known = evaluate(kind, replace(_three_rows([1, 0, 0]), weight=np.float32([2, 1, 0])))
    losses, weights, gradients = evaluate(kind, _three_rows([1, 0, np.nan]))
    np.testing.assert_array_equal(losses, known[0])
    np.testing.assert_array_equal(weights, known[1])
    np.testing.assert_array_equal(gradients["score"], known[2]["score"])
    assert gradients["score"][2] == 0


def test_what_stands_where_no_negative_was_drawn_makes_no_difference():
    scored = _three_rows([1, 0, 0])
    assert scored.sampled is not None
    logits = np.float32([[0.5], [np.inf], [np.nan]])
    changed = replace(scored, sampled=replace(scored.sampled, logits=logits))
    for found, expected in zip(evaluate(WeightedBce(), changed)[:2], evaluate(WeightedBce(), scored)[:2], strict=True):
        np.testing.assert_array_equal(found, expected)
    assert evaluate(WeightedBce(), changed)[2]["sampled"][1:].tolist() == [[0], [0]]


def test_a_row_that_is_no_positive_has_no_negatives():
    """As where the label is another objective's than that which the negatives were drawn for."""
    _, weights, gradients = evaluate(WeightedBce(), _three_rows([0, 1, 1]))
    assert weights.tolist() == [2, 1, 1, 0, 0, 0]
    np.testing.assert_array_equal(gradients["sampled"], 0)


def test_weighted_bce_equals_that_of_keras():
    scored = replace(draw_scored(3, rows=40), sampled=None)
    known = ~np.isnan(scored.label)
    losses, _, _ = evaluate(WeightedBce(), scored)
    keras = tf.keras.losses.BinaryCrossentropy(from_logits=True, reduction="none")
    expected = keras(scored.label[known][:, None], scored.score[known][:, None])
    np.testing.assert_allclose(losses[known], expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_permuting_the_batch_permutes_the_losses(seed):
    scored = replace(draw_scored(seed, rows=6), sampled=None)
    order = np.random.default_rng(seed).permutation(6)
    for kind in (WeightedBce(), Regression()):
        whole, other = evaluate(kind, scored), evaluate(kind, permuted(scored, order))
        np.testing.assert_array_equal(other[0], whole[0][order])
        np.testing.assert_array_equal(other[1], whole[1][order])
