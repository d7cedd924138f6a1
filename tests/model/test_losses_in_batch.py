from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.model.losses import Candidates, Scored, parts
from dssm.model.losses.in_batch import drawing_probability
from dssm.sections.losses import InBatchSoftmax, MixedNegative
from tests.model import loss_reference
from tests.model.loss_batches import (
    assert_equals_reference,
    draw_scored,
    evaluate,
    of_own_items,
    permuted,
    permuted_candidates,
)

seeds = st.integers(0, 2**32 - 1)


def _random_logits(rows: int, seed: int = 0) -> np.ndarray:
    return 3 * np.random.default_rng(seed).normal(size=(rows, rows))


@settings(max_examples=80, deadline=None)
@given(
    seed=seeds,
    rows=st.integers(1, 5),
    others=st.integers(0, 3),
    uniform=st.integers(0, 3),
    logq=st.sampled_from(["frequency", "batch", "streaming", "off"]),
    strength=st.sampled_from([0.0, 0.4, 1.0]),
    impression_weight=st.sampled_from([0.0, 0.3, 1.0]),
    mask=st.booleans(),
)
def test_in_batch_softmax_and_its_gradients(seed, rows, others, uniform, logq, strength, impression_weight, mask):
    given_settings = {"logq": logq, "impression_weight": impression_weight, "mask_accidental_hits": mask}
    given_settings |= {} if logq == "off" else {"logq_strength": strength}
    kind = MixedNegative(uniform=uniform, **given_settings) if uniform else InBatchSoftmax(**given_settings)
    scored = replace(draw_scored(seed, rows, others, uniform), sampled=None)
    assert_equals_reference(kind, scored, loss_reference.in_batch_softmax_rows)


def test_without_correction_it_is_the_cross_entropy_of_keras():
    scored = of_own_items(_random_logits(6), items=[1, 2, 3, 4, 5, 6])
    keras = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    losses, weights, _ = evaluate(InBatchSoftmax(logq="off"), scored)
    np.testing.assert_allclose(losses, keras(np.arange(6), scored.candidates.logits), rtol=1e-5)
    np.testing.assert_array_equal(weights, np.ones(6))


def test_log_q_lowers_popular_candidates():
    """The gradient with respect to a negative's logit is its share of the softmax."""
    scored = of_own_items(_random_logits(4), items=[1, 2, 3, 4])
    popular = replace(scored.candidates, share=np.float32([0.1, 0.1, 0.1, 0.4]))
    (*_, even), (*_, uneven), (*_, half) = (
        evaluate(kind, replace(scored, candidates=candidates))
        for kind, candidates in (
            (InBatchSoftmax(), scored.candidates),
            (InBatchSoftmax(), popular),
            (InBatchSoftmax(logq_strength=0.5), popular),
        )
    )
    shares = [gradients["candidates"][:3, 3] for gradients in (uneven, half, even)]
    assert (shares[0] < shares[1]).all()
    assert (shares[1] < shares[2]).all()
    odds = [s / (1 - s) for s in shares]
    np.testing.assert_allclose(odds[0], odds[2] / 4, rtol=1e-4)
    np.testing.assert_allclose(odds[1], odds[2] / 2, rtol=1e-4)


def test_equal_probabilities_change_nothing():
    scored = of_own_items(_random_logits(5), items=[1, 2, 3, 4, 5])
    found, expected = evaluate(InBatchSoftmax(), scored), evaluate(InBatchSoftmax(logq="off"), scored)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)


@pytest.mark.parametrize("kind", [InBatchSoftmax(), InBatchSoftmax(logq="batch"), MixedNegative(uniform=1)])
def test_an_item_that_was_never_seen_has_a_finite_loss(kind: InBatchSoftmax):
    losses, weights, gradients = evaluate(kind, of_own_items(_random_logits(3), items=[1, 2, 3], share=0.0))
    assert np.isfinite(losses).all()
    assert (weights == 1).all()
    assert np.isfinite(gradients["candidates"]).all()
    assert np.abs(gradients["candidates"]).max() > 0.01


def test_copies_of_the_own_item_and_other_positives_of_the_user_are_no_negatives():
    scored = of_own_items(_random_logits(4), items=[7, 8, 7, 9], users=[1, 2, 3, 2])
    gradient = evaluate(InBatchSoftmax(), scored)[2]["candidates"]
    hits = np.zeros((4, 4), bool)
    hits[0, 2] = hits[2, 0] = True  # item 7
    hits[1, 3] = hits[3, 1] = True  # user 2
    np.testing.assert_array_equal(gradient[hits], 0)
    assert (gradient[~hits] != 0).all()
    kept = evaluate(InBatchSoftmax(mask_accidental_hits=False), scored)[2]["candidates"]
    assert (kept != 0).all()


def test_a_batch_of_copies_of_one_item_has_nothing_to_learn_from():
    losses, _, gradients = evaluate(InBatchSoftmax(), of_own_items(_random_logits(3), items=[5, 5, 5]))
    np.testing.assert_array_equal(losses, 0)
    np.testing.assert_array_equal(gradients["candidates"], 0)


@pytest.mark.parametrize("logq", ["frequency", "batch", "off"])
def test_a_batch_of_one_row_has_nothing_to_learn_from(logq: str):
    losses, weights, gradients = evaluate(InBatchSoftmax(logq=logq), of_own_items(np.array([[4.0]]), items=[1]))
    assert (losses.tolist(), weights.tolist(), gradients["candidates"].tolist()) == ([0.0], [1.0], [[0.0]])


def test_a_label_that_is_not_known_makes_a_row_neither_target_nor_candidate():
    scored = of_own_items(_random_logits(3), items=[1, 2, 3])
    rest = np.array([True, True, False])
    scored = replace(scored, label=np.float32([1, 1, np.nan]))
    scored = replace(scored, candidates=replace(scored.candidates, positive=rest, real=rest))
    for kind in (InBatchSoftmax(), InBatchSoftmax(impression_weight=0.5), InBatchSoftmax(logq="batch")):
        losses, weights, gradients = evaluate(kind, scored)
        assert weights.tolist() == [1, 1, 0]
        assert losses[2] == 0
        assert np.isfinite(losses).all()
        np.testing.assert_array_equal(gradients["candidates"][2], 0)
        np.testing.assert_array_equal(gradients["candidates"][:, 2], 0)


def test_impressions_are_targets_and_candidates_of_their_weight():
    logits = _random_logits(3)
    scored = of_own_items(logits, items=[1, 2, 3])
    scored = replace(
        scored,
        label=np.float32([1, 0, 1]),
        candidates=replace(scored.candidates, positive=np.array([True, False, True])),
    )
    left_out, weights, _ = evaluate(InBatchSoftmax(logq="off"), scored)
    assert weights.tolist() == [1, 0, 1]
    np.testing.assert_allclose(left_out[0], np.logaddexp(0, logits[0, 2] - logits[0, 0]), rtol=1e-5)
    taken, weights, _ = evaluate(InBatchSoftmax(logq="off", impression_weight=0.25), scored)
    assert weights.tolist() == [1, 0.25, 1]
    np.testing.assert_allclose(taken, np.log(np.exp(logits).sum(axis=1)) - np.diag(logits), rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, logq=st.sampled_from(["frequency", "batch", "streaming", "off"]))
def test_permuting_the_batch_permutes_the_losses(seed, logq):
    scored = draw_scored(seed, rows=6, others=2, uniform=2)
    random, kind = np.random.default_rng(seed), MixedNegative(uniform=2, logq=logq, impression_weight=0.5)
    rows, columns = random.permutation(6), random.permutation(10)
    losses, weights, gradients = evaluate(kind, scored)
    by_row = evaluate(kind, permuted(scored, rows))
    np.testing.assert_allclose(by_row[0], losses[rows], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(by_row[1], weights[rows])
    by_column = evaluate(kind, permuted_candidates(scored, columns))
    np.testing.assert_allclose(by_column[0], losses, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_column[2]["candidates"], gradients["candidates"][:, columns], atol=1e-6)


def _candidates(batch: np.ndarray, uniform: np.ndarray, share: np.ndarray) -> Candidates:
    items = np.concatenate([batch, uniform])
    is_uniform = np.arange(len(items)) >= len(batch)
    return Candidates(
        user_vectors=np.zeros((1, 2), np.float32),
        vectors=np.zeros((len(items), 2), np.float32),
        own=np.zeros(1, np.int32),
        users=items,
        items=items,
        positive=~is_uniform,
        real=np.ones(len(items), bool),
        uniform=is_uniform,
        share=share[items],
        catalogue_size=len(share),
    )


def test_the_probability_of_mixed_negatives_is_how_often_they_are_drawn():
    """30 rows a batch by popularity and 20 items uniformly, of a catalogue of 8, in 3,000 steps."""
    random, catalogue, rows, uniform, steps = np.random.default_rng(1), 8, 30, 20, 3000
    share = 1 / np.arange(1, catalogue + 1)
    share /= share.sum()
    of_batch = random.choice(catalogue, (steps, rows), p=share)
    of_catalogue = random.integers(0, catalogue, (steps, uniform))
    counted = np.bincount(np.concatenate([of_batch, of_catalogue], axis=1).ravel(), minlength=catalogue)
    frequency = counted / counted.sum()

    def probability(kind: MixedNegative, step: int) -> np.ndarray:
        """Returns q of the items among the step's candidates, NaN of the others."""
        candidates = _candidates(of_batch[step], of_catalogue[step], share.astype(np.float32))
        found = np.full(catalogue, np.nan)
        found[candidates.items] = drawing_probability(kind, candidates, tf.ones(rows + uniform, tf.bool))
        return found

    by_share = np.nanmax([probability(MixedNegative(), step) for step in range(10)], axis=0)
    assert by_share.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(by_share, frequency, rtol=0.02)  # about 3 standard errors of the rarest
    for part in (share, np.full(catalogue, 1 / catalogue)):
        assert np.abs(part / frequency - 1).max() > 0.2  # neither distribution alone would do

    counts = np.bincount(of_batch[0], minlength=catalogue)
    by_batch = probability(MixedNegative(logq="batch"), step=0)
    among = ~np.isnan(by_batch)
    np.testing.assert_allclose(by_batch[among], ((counts + uniform / catalogue) / 50)[among], rtol=1e-5)


# Of several blocks of rows ------------------------------------------------------------------------------

LARGE, OTHERS = 600, 100  # rows, in three blocks of which the last is shorter; candidates of another rank before them
BORDERS = (0, 255, 256, 511, 512, 599)  # the blocks' first and last rows
FAR = 520  # a row whose own item is so unlikely that float32 has no such number


def _draw_large(padded: range, is_far: bool) -> Scored:
    """Draws rows whose users and items come again in other blocks; each row of BORDERS has the item of another one."""
    random, joint = np.random.default_rng(5), OTHERS + LARGE
    users, items = random.integers(1, 250, joint), random.integers(1, 400, joint)
    items[OTHERS + np.array(BORDERS)] = items[OTHERS + 300 - np.array(BORDERS) // 2]
    label, weight = (random.random(joint) < 0.8).astype(np.float32), random.uniform(0.5, 2, joint).astype(np.float32)
    label[OTHERS + np.array([*BORDERS, FAR])] = 1
    weight[OTHERS + np.array(padded, int)] = 0
    drawn = random.normal(size=(2, joint, 8))
    of_users, of_items = drawn / np.linalg.norm(drawn, axis=2, keepdims=True)
    of_users *= 10
    if is_far:
        of_users[OTHERS + FAR] = -60 * of_items[OTHERS + FAR]
    candidates = Candidates(
        user_vectors=of_users[OTHERS:].astype(np.float32),
        vectors=of_items.astype(np.float32),
        own=np.arange(OTHERS, joint, dtype=np.int32),
        users=users,
        items=items,
        positive=(label > 0) & (weight > 0),
        real=weight > 0,
        uniform=np.zeros(joint, bool),
        share=random.uniform(0.001, 0.01, 400).astype(np.float32)[items],
    )
    return Scored(np.zeros(LARGE), label[OTHERS:], weight[OTHERS:], users[OTHERS:], items[OTHERS:], candidates)


def _hits_of(scored: Scored) -> np.ndarray:
    """Marks what is no negative for a row: its item elsewhere, an item that its user has: (rows, candidates) bool."""
    of = scored.candidates
    assert of is not None
    same_user = (scored.users[:, None] == of.users[None, :]) & of.positive[None, :]
    of_user = [np.isin(of.items, [item, *of.items[same]]) for item, same in zip(scored.items, same_user, strict=True)]
    return np.array(of_user) & of.positive[None, :] & (np.arange(len(of.items)) != of.own[:, None])


def _losses_and_gradients(scored: Scored, hits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the losses and the gradients of Σ weight · loss by both sides' vectors, from the formula in float64."""
    of, rows = scored.candidates, np.arange(LARGE)
    assert of is not None
    users, vectors = of.user_vectors.astype(float), of.vectors.astype(float)
    logits = users @ vectors.T - np.log(of.share.astype(float))
    logits[hits | ~of.positive] = -np.inf
    target = of.positive[of.own]
    logits[~target] = 0  # of rows without a loss
    largest = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - largest).sum(axis=1, keepdims=True)) + largest
    losses = np.where(target, log_sum[:, 0] - logits[rows, of.own], 0)
    slopes = np.exp(logits - log_sum)
    slopes[rows, of.own] -= 1
    slopes *= np.where(target, scored.weight, 0)[:, None]
    return losses, slopes @ vectors, slopes.T @ users


@pytest.mark.parametrize("rows", [LARGE, None], ids=["rows known", "rows not known"])
@pytest.mark.parametrize("is_far", [False, True], ids=["near", "far"])
@pytest.mark.parametrize("padded", [range(0), range(256, 512), range(130, 600)], ids=str)
def test_losses_and_gradients_of_several_blocks_of_rows(padded: range, is_far: bool, rows: int | None):
    """With accidental hits within and across blocks, at their borders, and blocks of padding alone."""
    scored = _draw_large(padded, is_far)
    of = scored.candidates
    assert of is not None
    hits = _hits_of(scored)
    with_loss = of.positive[of.own]
    assert all(hits[row].any() for row in BORDERS if row not in padded)
    blocks = range(0, LARGE, parts.BLOCK_ROWS)
    assert len(blocks) == 3
    for start in blocks:
        of_block = slice(start, start + parts.BLOCK_ROWS)
        if with_loss[of_block].any():
            assert np.count_nonzero(hits[of_block] & with_loss[of_block, None]) > 20

    def measured(users: tf.Tensor, vectors: tf.Tensor) -> tuple[tf.Tensor, ...]:
        assert users.shape[0] == rows
        with tf.GradientTape() as tape:
            tape.watch([users, vectors])
            given_vectors = replace(of, user_vectors=users, vectors=vectors)
            losses, weights = InBatchSoftmax().build(replace(scored, candidates=given_vectors))
            total = tf.reduce_sum(losses * weights)
        return losses, *tape.gradient(total, [users, vectors])

    shapes = [tf.TensorSpec((rows, 8)), tf.TensorSpec((OTHERS + LARGE, 8))]
    found = tf.function(measured, autograph=False, input_signature=shapes)(of.user_vectors, of.vectors)
    expected = _losses_and_gradients(scored, hits)
    assert (expected[0].max() > 69) == (is_far and FAR not in padded)  # −log of 1e-30
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=5e-5)
    np.testing.assert_array_equal(found[0].numpy()[~with_loss], 0)
    np.testing.assert_array_equal(found[1].numpy()[~with_loss], 0)


@pytest.mark.parametrize(
    ("rows", "sizes"), [(1, [1]), (256, [256]), (257, [256, 1]), (512, [256, 256]), (600, [256, 256, 88])]
)
def test_the_blocks_have_all_rows(rows: int, sizes: list[int]):
    assert parts._block_sizes(rows) == sizes
    assert parts._block_sizes(None) == parts._block_sizes(0) == [-1]


def test_a_gpu_has_one_block(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    assert parts._block_sizes(600) == [-1]
