from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.sections.losses import SampledSoftmax
from tests.model import loss_reference
from tests.model.loss_batches import assert_equals_reference, draw_scored, evaluate, of_sampled, permuted

seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=60, deadline=None)
@given(
    seed=seeds,
    rows=st.integers(1, 6),
    correction=st.booleans(),
    kinds=st.sampled_from([(1,), (4,), (2, 1, 2), (1, 3)]),
)
def test_sampled_softmax_and_its_gradients(seed, rows, correction, kinds):
    scored = replace(draw_scored(seed, rows, kinds=kinds), candidates=None)
    assert_equals_reference(SampledSoftmax(correction=correction), scored, loss_reference.sampled_softmax_rows)


def test_without_correction_it_is_the_softmax_of_2013():
    """One clicked document against four others."""
    random = np.random.default_rng(0)
    score, logits = random.normal(size=3), random.normal(size=(3, 4))
    scored = of_sampled(score, logits, np.full((3, 4), 0.01), (4,), [1.0] * 4)
    losses, weights, _ = evaluate(SampledSoftmax(correction=False), scored)
    expected = -np.log(np.exp(score) / (np.exp(score) + np.exp(logits).sum(axis=1)))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert weights.tolist() == [1, 1, 1]


def test_all_other_items_drawn_once_give_the_softmax_over_the_catalogue():
    random, items = np.random.default_rng(1), 50
    catalogue = 3 * random.normal(size=(2, items))
    scored = of_sampled(
        catalogue[:, 0], catalogue[:, 1:], np.full((2, items - 1), 1 / (items - 1)), (items - 1,), [1.0] * (items - 1)
    )
    losses, _, gradients = evaluate(SampledSoftmax(), scored)
    shares = np.exp(catalogue) / np.exp(catalogue).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(losses, -np.log(shares[:, 0]), rtol=1e-5)
    np.testing.assert_allclose(gradients["sampled"], shares[:, 1:], atol=1e-6)
    np.testing.assert_allclose(gradients["score"], shares[:, 0] - 1, atol=1e-6)


@pytest.mark.parametrize(
    ("kinds", "weights"), [((6,), [1.0]), ((6, 6), [1.0, 1.0]), ((2, 6), [3.0, 0.5]), ((6, 2), [1.0, 0.0])]
)
def test_the_estimated_partition_is_the_catalogues_on_average(kinds: tuple[int, ...], weights: list[float]):
    """Over 40,000 draws: the first kind by popularity, the second uniformly."""
    random, others, draws = np.random.default_rng(2), 30, 40_000
    own, logits = 0.7, random.normal(size=others)
    popularity = 1 / np.arange(1, others + 1)
    chances = [popularity / popularity.sum(), np.full(others, 1 / others)][: len(kinds)]
    items = [random.choice(others, (draws, k), p=p) for k, p in zip(kinds, chances, strict=True)]
    scored = of_sampled(
        np.full(draws, own),
        np.concatenate([logits[drawn] for drawn in items], axis=1),
        np.concatenate([p[drawn] for p, drawn in zip(chances, items, strict=True)], axis=1),
        kinds,
        [weight for weight, k in zip(weights, kinds, strict=True) for _ in range(k)],
    )
    losses, _, _ = evaluate(SampledSoftmax(), scored)
    partition = np.exp(losses.astype(float) + own)
    truth = np.exp(own) + np.exp(logits).sum()
    assert partition.std() > 0.05 * truth
    assert abs(partition.mean() - truth) < 4 * partition.std() / np.sqrt(draws)


def test_a_place_without_a_negative_and_a_kind_of_weight_0_count_for_nothing():
    full = of_sampled(
        np.array([0.3]), np.array([[1.0, -1.0, 2.0]]), np.array([[0.1, 0.2, 0.3]]), (2, 1), [2.0, 2.0, 0.0]
    )
    alone = of_sampled(np.array([0.3]), np.array([[1.0]]), np.array([[0.1]]), (1,), [1.0])
    sampled = replace(full.sampled, drawn=np.array([[True, False, True]]))
    sampled = replace(sampled, logits=np.float32([[1.0, np.nan, 2.0]]), probability=np.float32([[0.1, 0, 0.3]]))
    found, expected = evaluate(SampledSoftmax(), replace(full, sampled=sampled)), evaluate(SampledSoftmax(), alone)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(found[2]["sampled"], [[expected[2]["sampled"][0, 0], 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("correction", [True, False])
@pytest.mark.parametrize(
    ("label", "weight", "drawn", "of_kind"),
    [(0, 1, True, 1), (np.nan, 1, True, 1), (1, 0, True, 1), (1, 1, False, 1), (1, 1, True, 0)],
)
def test_a_row_without_anything_to_compare_weighs_nothing(
    label: float, weight: float, drawn: bool, of_kind: float, correction: bool
):
    scored = of_sampled(np.array([9.0]), np.array([[1.0, 2.0]]), np.array([[0.1, 0.0]]), (2,), [of_kind, of_kind])
    scored = replace(
        scored,
        label=np.float32([label]),
        weight=np.float32([weight]),
        sampled=replace(scored.sampled, drawn=np.array([[drawn, False]])),
    )
    losses, weights, gradients = evaluate(SampledSoftmax(correction=correction), scored)
    assert (losses.tolist(), weights.tolist()) == ([0.0], [0.0])
    assert (gradients["score"].tolist(), gradients["sampled"].tolist()) == ([0.0], [[0.0, 0.0]])


def test_a_negative_that_was_almost_never_drawn_has_a_finite_loss():
    scored = of_sampled(np.array([1.0]), np.array([[1.0]]), np.array([[0.0]]), (1,), [1.0])
    losses, _, gradients = evaluate(SampledSoftmax(), scored)
    np.testing.assert_allclose(losses, [np.log1p(1e9)], rtol=1e-5)
    assert np.isfinite(gradients["sampled"]).all()


@settings(max_examples=20, deadline=None)
@given(seed=seeds, correction=st.booleans())
def test_permuting_the_batch_permutes_the_losses(seed, correction):
    scored, order = draw_scored(seed, rows=6), np.random.default_rng(seed).permutation(6)
    kind = SampledSoftmax(correction=correction)
    whole, other = evaluate(kind, scored), evaluate(kind, permuted(scored, order))
    np.testing.assert_allclose(other[0], whole[0][order], rtol=1e-6)
    np.testing.assert_array_equal(other[1], whole[1][order])
