from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.sections.losses import Bpr, Hinge
from tests.model import loss_reference
from tests.model.loss_batches import (
    assert_equals_reference,
    draw_scored,
    evaluate,
    of_own_items,
    of_sampled,
    permuted,
    permuted_candidates,
)

seeds = st.integers(0, 2**32 - 1)
negatives = st.sampled_from(["batch", "sampled"])
LOGITS = np.array([[1.0, 0.5, 3.0], [-2.0, 0.0, 4.0], [0.2, 0.1, 0.3]])


def _options(source: str, mask: bool) -> dict[str, object]:
    return {"negatives": "batch", "mask_accidental_hits": mask} if source == "batch" else {"negatives": source}


@settings(max_examples=50, deadline=None)
@given(seed=seeds, rows=st.integers(1, 6), source=negatives, mask=st.booleans(), margin=st.floats(0.1, 3))
def test_hinge_and_its_gradients(seed, rows, source, mask, margin):
    kind = Hinge(margin=margin, **_options(source, mask))
    assert_equals_reference(kind, draw_scored(seed, rows, uniform=1), loss_reference.hinge_rows)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, rows=st.integers(1, 6), source=negatives, mask=st.booleans())
def test_bpr_and_its_gradients(seed, rows, source, mask):
    kind = Bpr(**_options(source, mask))
    assert_equals_reference(kind, draw_scored(seed, rows, uniform=1), loss_reference.bpr_rows)


def test_hinge_of_the_batchs_items_at_literal_scores():
    losses, weights, gradients = evaluate(Hinge(negatives="batch", margin=2.0), of_own_items(LOGITS, [1, 2, 3]))
    np.testing.assert_allclose(losses, [(1.5 + 4) / 2, (0 + 6) / 2, (1.9 + 1.8) / 2], rtol=1e-6)
    assert weights.tolist() == [1, 1, 1]
    # A negative beyond the margin no longer moves anything.
    np.testing.assert_allclose(gradients["candidates"], [[0, 0.5, 0.5], [0, 0, 0.5], [0.5, 0.5, 0]])
    np.testing.assert_allclose(gradients["score"], [-1, -0.5, -1])


def test_bpr_of_weighted_sampled_negatives_at_literal_scores():
    scored = of_sampled(np.array([1.0]), np.array([[0.0, 3.0]]), np.array([[0.1, 0.1]]), (1, 1), [1.0, 3.0])
    losses, weights, gradients = evaluate(Bpr(), scored)
    np.testing.assert_allclose(losses, [(np.log1p(np.exp(-1)) + 3 * np.log1p(np.exp(2))) / 4], rtol=1e-6)
    assert weights.tolist() == [1]
    slopes = np.array([1 / (1 + np.exp(1)) / 4, 3 / (1 + np.exp(-2)) / 4])
    np.testing.assert_allclose(gradients["sampled"], [slopes], rtol=1e-5)
    np.testing.assert_allclose(gradients["score"], [-slopes.sum()], rtol=1e-5)


def test_bpr_of_equal_scores_has_half_a_gradient():
    scored = of_sampled(np.array([0.0]), np.array([[0.0]]), np.array([[0.1]]), (1,), [1.0])
    losses, _, gradients = evaluate(Bpr(), scored)
    np.testing.assert_allclose(losses, [np.log(2)], rtol=1e-6)
    np.testing.assert_allclose([gradients["score"][0], gradients["sampled"][0, 0]], [-0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize("kind", [Hinge, Bpr])
def test_accidental_hits_are_no_negatives(kind: type[Hinge | Bpr]):
    logits = LOGITS / 10  # within the hinge's margin
    scored = of_own_items(logits, items=[7, 8, 7], users=[1, 2, 3])
    masked = evaluate(kind(negatives="batch"), scored)[2]["candidates"]
    assert (masked > 0).tolist() == [[False, True, False], [True, False, True], [False, True, False]]
    kept = evaluate(kind(negatives="batch", mask_accidental_hits=False), scored)[2]["candidates"]
    assert (kept > 0).tolist() == (~np.eye(3, dtype=bool)).tolist()


@pytest.mark.parametrize("kind", [Hinge(negatives="batch"), Bpr(negatives="batch")])
@pytest.mark.parametrize(("items", "users"), [([7], [1]), ([7, 7], [1, 2]), ([7, 8], [1, 1])])
def test_a_row_without_negatives_in_its_batch_weighs_nothing(kind: Hinge | Bpr, items: list[int], users: list[int]):
    rows = len(items)
    losses, weights, gradients = evaluate(kind, of_own_items(LOGITS[:rows, :rows], items, users))
    np.testing.assert_array_equal(losses, np.zeros(rows))
    np.testing.assert_array_equal(weights, np.zeros(rows))
    np.testing.assert_array_equal(gradients["candidates"], np.zeros((rows, rows)))
    np.testing.assert_array_equal(gradients["score"], np.zeros(rows))


@pytest.mark.parametrize("kind", [Hinge(), Bpr()])
@pytest.mark.parametrize(("label", "drawn", "of_kind"), [(0, True, 1), (np.nan, True, 1), (1, False, 1), (1, True, 0)])
def test_a_row_without_sampled_negatives_weighs_nothing(kind: Hinge | Bpr, label: float, drawn: bool, of_kind: float):
    scored = of_sampled(np.array([1.0]), np.array([[np.nan if not drawn else 2.0]]), np.zeros((1, 1)), (1,), [of_kind])
    scored = replace(scored, label=np.float32([label]), sampled=replace(scored.sampled, drawn=np.array([[drawn]])))
    losses, weights, gradients = evaluate(kind, scored)
    assert (losses.tolist(), weights.tolist()) == ([0.0], [0.0])
    assert (gradients["score"].tolist(), gradients["sampled"].tolist()) == ([0.0], [[0.0]])


def test_rows_without_a_positive_label_are_no_candidates():
    scored = of_own_items(LOGITS, [1, 2, 3])
    positive = np.array([True, False, True])
    scored = replace(scored, label=positive.astype(np.float32))
    scored = replace(scored, candidates=replace(scored.candidates, positive=positive))
    losses, weights, _ = evaluate(Bpr(negatives="batch"), scored)
    assert weights.tolist() == [1, 0, 1]
    np.testing.assert_allclose(losses, [np.log1p(np.exp(2)), 0, np.log1p(np.exp(-0.1))], rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, source=negatives)
def test_permuting_the_batch_permutes_the_losses(seed, source):
    scored, random = draw_scored(seed, rows=6, others=2), np.random.default_rng(seed)
    order = random.permutation(6)
    for kind in (Hinge(negatives=source), Bpr(negatives=source)):
        whole, other = evaluate(kind, scored), evaluate(kind, permuted(scored, order))
        np.testing.assert_allclose(other[0], whole[0][order], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(other[1], whole[1][order])
        shuffled = evaluate(kind, permuted_candidates(scored, random.permutation(8)))
        np.testing.assert_allclose(shuffled[0], whole[0], rtol=1e-5, atol=1e-6)
