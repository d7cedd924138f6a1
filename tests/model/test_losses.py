from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.model.losses import parts
from dssm.model.observed import observing
from dssm.sections.losses import Bpr, Hinge, InBatchSoftmax, MixedNegative
from tests.model import reference
from tests.model.loss_batches import draw_scored

USER_KEYS = np.array([1, 2, 3, 1, 4], np.int64)
ITEM_KEYS = np.array([7, 8, 7, 9, 6], np.int64)


IN_BATCH = {
    "softmax": (InBatchSoftmax(logq="off"), 0),
    "softmax of all rows": (InBatchSoftmax(logq="off", impression_weight=0.5), 0),
    "mixed": (MixedNegative(logq="off"), 4),
    "hinge": (Hinge(negatives="batch"), 0),
    "bpr": (Bpr(negatives="batch"), 0),
}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 8))
@pytest.mark.parametrize("kind", IN_BATCH)
def test_every_loss_of_the_batchs_items_shows_the_share_of_its_accidental_hits(kind: str, seed: int, rows: int):
    loss, uniform = IN_BATCH[kind]
    scored = draw_scored(seed, rows, uniform=uniform)
    candidates = scored.candidates
    assert candidates is not None
    all_rows = getattr(loss, "impression_weight", 0) > 0
    in_batch = candidates.real & ~candidates.uniform if all_rows else candidates.positive
    target, valid = in_batch[candidates.own], in_batch | candidates.uniform
    keys = (scored.users, scored.items, candidates.users, candidates.items, candidates.own)
    hits = reference.accidental_hits(*map(np.asarray, keys), in_batch) & target[:, None] & valid[None, :]
    with observing() as observed:
        loss.build(scored)
    assert list(observed) == ["accidental_hits"]
    expected = hits.sum() / max(target.sum() * valid.sum(), 1)
    assert float(observed["accidental_hits"]) == pytest.approx(expected, abs=1e-6)


def _vectors(seed: int, rows: int = 5) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(seed).normal(size=(2, rows, 3)).astype(np.float32)
    users, items = drawn / np.linalg.norm(drawn, axis=2, keepdims=True)
    return users, items


def test_a_row_without_a_label_is_one_of_label_and_weight_0():
    labels, weights = parts.known_labels(tf.constant([1.0, np.nan, 0.3]), tf.constant([2.0, 3.0, 0.5]))
    np.testing.assert_array_equal(labels, np.float32([1, 0, 0.3]))
    np.testing.assert_array_equal(weights, np.float32([2, 0, 0.5]))


def test_positives_have_a_label_and_a_weight():
    found = parts.positives(tf.constant([1.0, 0.3, 1.0, 0.0, np.nan]), tf.constant([1.0, 0.5, 0.0, 1.0, 1.0]))
    assert found.numpy().tolist() == [True, True, False, False, False]


def test_own_columns():
    found = parts.own_columns(tf.constant([2, 0]), tf.constant(3))
    assert found.numpy().tolist() == [[False, False, True], [True, False, False]]


def _logits(users, items, temperature):
    return tf.matmul(users / temperature, items, transpose_b=True)


def test_the_bias_is_minus_log_q_times_its_strength():
    found = parts.sampling_bias(tf.constant([0.5, 0.125]), strength=0.5)
    np.testing.assert_allclose(found, [0.5 * np.log(2), 0.5 * np.log(8)], rtol=1e-6)


def test_a_probability_of_0_counts_as_a_billionth():
    np.testing.assert_allclose(parts.sampling_bias(tf.constant([0.0, 1.0])), [9 * np.log(10), 0.0], rtol=1e-6)


def test_batch_probability_counts_valid_rows_alone():
    items, valid = tf.constant([5, 6, 5, 7, 5], tf.int64), tf.constant([True, True, True, False, False])
    np.testing.assert_allclose(parts.batch_probability(items, valid), [2 / 3, 1 / 3, 2 / 3, 0, 2 / 3], rtol=1e-6)
    np.testing.assert_array_equal(parts.batch_probability(items, tf.zeros(5, tf.bool)), np.zeros(5))


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=12))
def test_batch_probability_is_the_share_of_the_draws(rows):
    keys, valid = np.array([key for key, _ in rows], np.int64), np.array([drawn for _, drawn in rows])
    found = parts.batch_probability(tf.constant(keys), tf.constant(valid)).numpy()
    np.testing.assert_allclose(found, reference.batch_shares(keys, valid), rtol=1e-6)


def _hits(users, items, candidate_users, candidate_items, own, targets) -> np.ndarray:
    """Returns (batch, candidates) bool, of all rows and candidates."""
    given_keys = (users, items, candidate_users, candidate_items, own.astype(np.int32))
    found = parts.accidental_pairs(*given_keys, np.ones(len(users), bool), np.ones(len(targets), bool), targets).numpy()
    made = np.zeros((len(users), len(targets)), bool)
    made[tuple(found.T)] = True
    return made


def test_accidental_hits_are_the_own_item_again_and_the_users_other_positives():
    hits = _hits(USER_KEYS, ITEM_KEYS, USER_KEYS, ITEM_KEYS, np.arange(5), np.ones(5, bool))
    expected = np.zeros((5, 5), bool)
    expected[0, 2] = expected[2, 0] = True  # both have item 7
    expected[0, 3] = expected[3, 0] = True  # both are user 1
    expected[3, 2] = True  # user 1's other item, from another user
    np.testing.assert_array_equal(hits, expected)


def test_own_columns_lie_elsewhere_among_the_candidates_of_all_ranks():
    users, items = np.array([1, 2], np.int64), np.array([7, 8], np.int64)
    all_users, all_items = np.array([2, 5, 1, 2], np.int64), np.array([9, 7, 7, 8], np.int64)
    hits = _hits(users, items, all_users, all_items, np.array([2, 3]), np.ones(4, bool))
    np.testing.assert_array_equal(hits, [[False, True, False, False], [True, False, False, False]])


def test_an_item_that_the_user_acted_on_is_a_hit_wherever_it_comes_from():
    """User 1 has the items 7 and 8; 8 comes again from user 2, and drawn uniformly, whose user is 0."""
    users, items = np.array([1, 1, 2, 0], np.int64), np.array([7, 8, 8, 8], np.int64)
    hits = _hits(users[:3], items[:3], users, items, np.arange(3), np.array([True, True, True, False]))
    np.testing.assert_array_equal(hits, [[0, 1, 1, 1], [1, 0, 1, 1], [0, 1, 0, 1]])
    # A row that is no target is no deed of its user's.
    hits = _hits(users[:1], items[:1], users, items, np.arange(1), np.array([True, *[False] * 3]))
    np.testing.assert_array_equal(hits, [[0, 0, 0, 0]])


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(-2, 3), st.integers(0, 4), st.booleans(), st.booleans()), min_size=1, max_size=14
    ),
    data=st.data(),
)
def test_hits_found_by_joins_are_those_of_comparing_all_with_all(rows, data):
    users, items = (np.array([row[place] for row in rows], np.int64) for place in (0, 1))
    valid = np.array([row[2] for row in rows])
    targets = valid & np.array([row[3] for row in rows])
    own = np.array(data.draw(st.permutations(range(len(rows)))))[: data.draw(st.integers(1, len(rows)))]
    wanted = np.array(data.draw(st.lists(st.booleans(), min_size=len(own), max_size=len(own))))
    given_keys = (users[own], items[own], users, items, own.astype(np.int32))
    expected = reference.accidental_hits(*given_keys, targets) & wanted[:, None] & valid[None, :]
    found = parts.accidental_pairs(*given_keys, wanted, valid, targets).numpy()
    made = np.zeros(expected.shape, bool)
    made[found[:, 0], found[:, 1]] = True
    assert len(found) == made.sum()  # each pair once
    np.testing.assert_array_equal(made, expected)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 6),
    candidates=st.integers(1, 7),
    scale=st.sampled_from([1, 30, 300]),
    block=st.sampled_from([1, 2, 256]),
)
def test_the_loss_of_few_passes_is_the_softmax_of_masked_candidates(
    seed: int, rows: int, candidates: int, scale: int, block: int
):
    random = np.random.default_rng(seed)
    users, items = (random.normal(size=(count, 3)).astype(np.float32) for count in (rows, candidates))
    users *= scale
    bias = random.normal(0, 3, candidates).astype(np.float32)
    own = random.integers(0, candidates, rows).astype(np.int32)
    masked = (random.random((rows, candidates)) < 0.4) & (np.arange(candidates) != own[:, None])
    upstream = random.normal(size=rows).astype(np.float32)
    hits = np.argwhere(np.repeat(masked[None], 2, axis=0).any(axis=0)).astype(np.int32)
    hits = np.concatenate([hits, hits[:2]])  # a pair may stand there twice

    def measured(loss_of):
        with tf.GradientTape() as tape:
            variables = [tf.Variable(users), tf.Variable(items)]
            loss = loss_of(*variables)
            total = tf.reduce_sum(loss * upstream)
        return loss.numpy(), *(gradient.numpy() for gradient in tape.gradient(total, variables))

    def of_masked(users: tf.Variable, items: tf.Variable) -> tf.Tensor:
        logits = _logits(users, items, 1.0) + bias[None, :]
        return parts.softmax_loss(parts.mask_candidates(logits, masked), tf.constant(own))

    expected = measured(of_masked)
    with mock.patch.object(parts, "BLOCK_ROWS", block):
        found = measured(
            lambda users, items: parts.in_batch_loss(users, items, tf.constant(bias), tf.constant(own), hits)
        )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5 + 1e-6 * scale)  # sums of what cancels
    assert (found[0] >= 0).all()


def test_a_batch_of_one_row_has_nothing_to_learn_from():
    users, items = (tf.Variable(vectors) for vectors in _vectors(seed=0, rows=1))
    with tf.GradientTape() as tape:
        loss = parts.softmax_loss(_logits(users, items, 0.1), tf.range(1))
    assert loss.numpy().tolist() == [0.0]
    for gradient in tape.gradient(loss, [users, items]):
        np.testing.assert_array_equal(gradient, np.zeros((1, 3)))


def test_a_row_whose_candidates_are_all_masked_gives_no_nan():
    logits = tf.Variable([[1.0, 2.0]])
    with tf.GradientTape() as tape:
        loss = parts.softmax_loss(parts.mask_candidates(logits, tf.constant([[True, True]])), tf.constant([0]))
    np.testing.assert_allclose(loss, [np.log(2)], rtol=1e-6)
    np.testing.assert_array_equal(tape.gradient(loss, logits), [[0.0, 0.0]])


def test_masked_candidates_weigh_nothing():
    logits, masked = tf.constant([[0.3, 9.0, -0.2]]), tf.constant([[False, True, False]])
    found = parts.softmax_loss(parts.mask_candidates(logits, masked), tf.constant([0]))
    np.testing.assert_allclose(found, [np.log1p(np.exp(-0.5))], rtol=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    score=st.floats(-30, 30, width=32),
    label=st.sampled_from([0.0, 0.25, 1.0]),
    positive_weight=st.floats(0.1, 10),
)
def test_weighted_bce_and_its_gradient(score, label, positive_weight):
    logits = tf.Variable([score], dtype=tf.float32)
    with tf.GradientTape() as tape:
        loss = parts.weighted_bce(logits, tf.constant([label]), positive_weight)
    np.testing.assert_allclose(loss, [reference.bce(score, label, positive_weight)], rtol=1e-5, atol=1e-6)
    slope = reference.slope(lambda s: reference.bce(s[0], label, positive_weight), np.array([score]))
    np.testing.assert_allclose(tape.gradient(loss, logits), slope, rtol=1e-3, atol=1e-5)


def test_the_gradient_of_weighted_bce_at_a_score_of_0():
    """Of a vector of zeros, say. TensorFlow's own function gives 1 and 0 there."""
    logits = tf.Variable([0.0, 0.0])
    with tf.GradientTape() as tape:
        loss = parts.weighted_bce(logits, tf.constant([0.0, 1.0]), 3.0)
    np.testing.assert_allclose(tape.gradient(loss, logits), [0.5, -1.5], rtol=1e-6)


def test_weighted_bce_at_literal_scores():
    found = parts.weighted_bce(tf.constant([0.0, 0.0, 100.0]), tf.constant([1.0, 0.0, 0.0]), 3.0)
    np.testing.assert_allclose(found, [3 * np.log(2), np.log(2), 100.0], rtol=1e-6)
