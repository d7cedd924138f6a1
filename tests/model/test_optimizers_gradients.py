from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dssm.model.optimizers.gradients import Gradient, add_l2, clip_gradients
from dssm.sections.optimizers import Clip
from tests.model import optimizer_reference as reference

ROWS, DIM = 6, 2
SLOPES = st.floats(-1e3, 1e3, width=32).map(lambda x: 0.0 if abs(x) < 1e-3 else x)
LIMITS = st.floats(0.01, 1e3)
HOW = st.sampled_from(["value", "norm", "global_norm"])
DRAWN = st.tuples(
    arrays.arrays(np.float32, (3, 4), elements=SLOPES),
    st.lists(st.integers(0, ROWS - 1), unique=True).flatmap(
        lambda rows: arrays.arrays(np.float32, (len(rows), DIM), elements=SLOPES).map(lambda v: (rows, v))
    ),
)


def _slices(rows: list[int], values: np.ndarray) -> tf.IndexedSlices:
    return tf.IndexedSlices(tf.constant(values, tf.float32), tf.constant(rows, tf.int64), tf.constant((ROWS, DIM)))


def _dense(gradient: Gradient) -> np.ndarray:
    """A gradient as a matrix. Rows may come twice."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient.numpy()
    matrix = np.zeros((ROWS, DIM), np.float32)
    np.add.at(matrix, gradient.indices.numpy(), gradient.values.numpy())
    return matrix


@settings(max_examples=150, deadline=None)
@given(drawn=DRAWN, by=HOW, limit=LIMITS)
def test_sparse_gradients_are_clipped_as_the_dense_ones_that_they_stand_for(drawn, by, limit):
    kernel, (rows, values) = drawn
    gradients = [tf.constant(kernel), None, _slices(rows, values)]
    clipped = clip_gradients(Clip(by=by, limit=limit), gradients)
    assert clipped[1] is None
    assert isinstance(clipped[2], tf.IndexedSlices)
    np.testing.assert_array_equal(clipped[2].indices, rows)
    np.testing.assert_array_equal(clipped[2].dense_shape, (ROWS, DIM))
    expected = reference.clipped(by, limit, [kernel, _dense(gradients[2])])
    for found, wanted in zip([clipped[0], clipped[2]], expected, strict=True):
        np.testing.assert_allclose(_dense(found), wanted, rtol=1e-5, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(drawn=DRAWN, limit=LIMITS)
def test_clipping_keeps_the_limit_and_the_direction(drawn, limit):
    kernel, (rows, values) = drawn
    gradients = [tf.constant(kernel), _slices(rows, values)]
    before = np.concatenate([_dense(g).ravel() for g in gradients]).astype(float)
    clipped = clip_gradients(Clip(limit=limit), gradients)
    after = np.concatenate([_dense(g).ravel() for g in clipped]).astype(float)
    assert np.linalg.norm(after) <= limit * (1 + 1e-5)
    cosine = before @ after / max(np.linalg.norm(before) * np.linalg.norm(after), 1e-30)
    assert cosine == pytest.approx(1.0 if before.any() else 0.0, abs=1e-5)
    again = clip_gradients(Clip(limit=limit), clipped)
    for found, wanted in zip(again, clipped, strict=True):
        np.testing.assert_allclose(_dense(found), _dense(wanted), rtol=1e-5)


def test_the_three_ways_of_clipping():
    gradients = [tf.constant([3.0, -4.0]), tf.constant([12.0])]
    found = {by: [g.numpy() for g in clip_gradients(Clip(by=by, limit=6.5), gradients)]
             for by in ("value", "norm", "global_norm")}  # fmt: skip
    np.testing.assert_allclose(np.concatenate(found["value"]), [3.0, -4.0, 6.5])
    np.testing.assert_allclose(np.concatenate(found["norm"]), [3.0, -4.0, 6.5])
    np.testing.assert_allclose(np.concatenate(found["global_norm"]), [1.5, -2.0, 6.0])  # the norm of all is 13


def test_gradients_of_zeros_stay_zeros():
    for by in ("value", "norm", "global_norm"):
        clipped = clip_gradients(Clip(by=by, limit=1.0), [tf.zeros((2, 2)), _slices([], np.zeros((0, DIM)))])
        np.testing.assert_array_equal(clipped[0], np.zeros((2, 2)))
        assert clipped[1].values.shape == (0, DIM)


def test_a_gradient_that_is_not_finite_is_not_hidden():
    clipped = clip_gradients(Clip(limit=1.0), [tf.constant([np.inf, 1.0]), tf.constant([1.0])])
    assert np.isnan(clipped[1].numpy()).all()


def _variables() -> tuple[tf.Variable, tf.Variable, tf.Variable]:
    drawn = np.random.default_rng(4)
    table, kernel, bias = (tf.Variable(drawn.normal(size=s).astype(np.float32)) for s in [(ROWS, DIM), (3, 4), (4,)])
    return table, kernel, bias


@pytest.mark.parametrize("graph", [False, True])
def test_l2_adds_the_gradient_of_the_penalty(graph: bool):
    table, kernel, bias = _variables()
    looked_up, batch = tf.constant([4, 1, 4]), tf.constant(np.random.default_rng(5).normal(size=(3, 3)), tf.float32)

    def loss(penalised: bool) -> tf.Tensor:
        value = tf.reduce_sum(tf.tanh(tf.matmul(batch, kernel) + bias)) + tf.reduce_sum(
            tf.gather(table, looked_up) ** 3
        )
        if penalised:
            value += 0.3 * tf.reduce_sum(kernel**2) + 0.7 * tf.reduce_sum(tf.gather(table, [4, 1]) ** 2)
        return value

    def gradients(penalised: bool) -> list[Gradient]:
        with tf.GradientTape() as tape:
            value = loss(penalised)
        return tape.gradient(value, [table, kernel, bias])

    def added() -> list[Gradient]:
        plain = gradients(penalised=False)
        rows, place = tf.unique(plain[0].indices)
        plain[0] = tf.IndexedSlices(tf.math.unsorted_segment_sum(plain[0].values, place, 2), rows, plain[0].dense_shape)
        return add_l2(plain, [table, kernel, bias], {kernel.ref(): 0.3, table.ref(): 0.7}, [table])

    found = (tf.function(added) if graph else added)()
    assert isinstance(found[0], tf.IndexedSlices)
    assert sorted(found[0].indices.numpy()) == [1, 4]
    for own, wanted in zip(found, gradients(penalised=True), strict=True):
        np.testing.assert_allclose(_dense(own), _dense(wanted), rtol=1e-5, atol=1e-6)


def test_l2_leaves_alone_what_has_no_penalty():
    table, kernel, bias = _variables()
    gradients = [_slices([1], np.ones((1, DIM))), tf.ones((3, 4)), None]
    for own, same in zip(add_l2(gradients, [table, kernel, bias], {}, [table]), gradients, strict=True):
        assert own is same


def test_l2_on_what_the_loss_does_not_depend_on():
    table, kernel, bias = _variables()
    found = add_l2([None, None, None], [table, kernel, bias], {kernel.ref(): 0.5, table.ref(): 0.5}, [table])
    assert found[0] is None  # no row was looked up
    np.testing.assert_allclose(found[1], kernel.numpy())
    assert found[2] is None


def test_l2_on_a_tables_dense_gradient_counts_the_rows_that_have_one():
    table, _, _ = _variables()
    slope = np.zeros((ROWS, DIM), np.float32)
    slope[[1, 4]] = [[1.0, 0.0], [2.0, 3.0]]
    dense, sparse = (
        add_l2([gradient], [table], {table.ref(): 0.7}, [table])[0]
        for gradient in (tf.constant(slope), _slices([1, 4], slope[[1, 4]]))
    )
    np.testing.assert_allclose(dense, _dense(sparse), rtol=1e-6)
    np.testing.assert_array_equal(dense.numpy()[[0, 2, 3, 5]], np.zeros((4, DIM)))


def test_l2_on_the_rows_of_a_variable_that_is_no_table():
    table, _, _ = _variables()
    found = add_l2([_slices([3], np.ones((1, DIM)))], [table], {table.ref(): 0.5}, [])[0]
    np.testing.assert_allclose(found.values, 1.0 + table.numpy()[[3]], rtol=1e-6)
