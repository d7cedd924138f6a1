from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.model.batch_norm import BatchNorm, Total, batch_statistics, rows_of_batch
from tests.model import tower_reference
from tests.model.tiny import assert_same_slopes, precision, redraw, values_by_name

NAMES = ("x", "gamma", "beta")
DRAWN = np.random.default_rng(8)
X = DRAWN.normal(loc=2, size=(7, 3)).astype(np.float32)
FACTOR = DRAWN.normal(size=X.shape).astype(np.float32)
REAL = np.array([True, False, True, True, True, False, True])


def _alone(value: tf.Tensor, _: str) -> tf.Tensor:
    return value


def _layer(units: int = 3) -> BatchNorm:
    layer = BatchNorm(momentum=0.9, name="n")
    layer.build(tf.TensorShape([None, units]))
    redraw(layer.weights)
    return layer


def _step(layer: BatchNorm, x: np.ndarray, real: np.ndarray, factor: np.ndarray, total: Total) -> dict[str, np.ndarray]:
    """One training step whose loss is Σ factor · value over the real rows: value, and gradients by x, γ and β."""
    variable = tf.Variable(x)
    with tf.GradientTape() as tape, rows_of_batch(tf.constant(real), total):
        made = layer(variable, training=True)
        loss = tf.reduce_sum(tf.boolean_mask(made * factor, real))
    gradients = tape.gradient(loss, [variable, layer.gamma, layer.beta])
    return {"value": made.numpy(), **{name: g.numpy() for name, g in zip(NAMES, gradients, strict=True)}}


def _expected(x: np.ndarray, real: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    return tower_reference.batch_norm(x, *tower_reference.statistics(x, real), gamma, beta)


@pytest.mark.parametrize(("rows", "units"), [(1, 1), (2, 4), (7, 3), (12, 6)])
def test_training_against_numpy(rows: int, units: int):
    """The second row is padding, the last the first once more."""
    random, real = np.random.default_rng(rows), np.arange(rows) != 1
    x, factor = random.normal(loc=[[[2]], [[0]]], size=(2, rows, units)).astype(np.float32)
    x[-1] = x[0]
    layer = _layer(units)
    w = values_by_name(layer.weights)
    found = _step(layer, x, real, factor, _alone)
    np.testing.assert_allclose(found["value"], _expected(x, real, w["gamma"], w["beta"]), rtol=1e-5, atol=1e-5)
    assert_same_slopes(
        {name: found[name] for name in NAMES},
        lambda w: float(np.sum((factor * _expected(w["x"], real, w["gamma"], w["beta"]))[real])),
        {**w, "x": x.astype(float)},
    )
    mean, variance = tower_reference.statistics(x, real)
    np.testing.assert_allclose(layer.moving_mean, 0.9 * w["moving_mean"] + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.9 * w["moving_variance"] + 0.1 * variance, rtol=1e-5)


def test_inference_takes_and_leaves_the_moving_averages():
    layer = _layer()
    w = values_by_name(layer.weights)
    expected = tower_reference.batch_norm(X, w["moving_mean"], w["moving_variance"], w["gamma"], w["beta"])
    for _ in range(2):
        np.testing.assert_allclose(layer(X, training=False), expected, rtol=1e-5, atol=1e-5)


def test_without_the_rows_all_count():
    mean, variance, number = batch_statistics(tf.constant(X), "n")
    np.testing.assert_allclose(mean, X.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(variance, X.var(axis=0), rtol=1e-5)
    assert float(number) == 7


def test_the_rows_hold_inside_alone():
    with rows_of_batch(tf.constant([True, False]), _alone):
        with rows_of_batch(tf.constant([False, True]), _alone):
            assert batch_statistics(tf.constant([[1.0], [5.0]]), "n")[0].numpy().tolist() == [5]
        assert batch_statistics(tf.constant([[1.0], [5.0]]), "n")[0].numpy().tolist() == [1]
    assert batch_statistics(tf.constant([[1.0], [5.0]]), "n")[0].numpy().tolist() == [3]


@pytest.mark.parametrize("padding", [0.0, -1e6, 1e30])
def test_padding_changes_nothing(padding: float):
    changed = np.where(REAL[:, None], X, np.float32(padding))
    layers = _layer(), _layer()
    one, other = (_step(layer, x, REAL, FACTOR, _alone) for layer, x in zip(layers, (X, changed), strict=True))
    np.testing.assert_array_equal(other["value"][REAL], one["value"][REAL])
    np.testing.assert_array_equal(other["x"], one["x"])
    assert (one["x"][~REAL] == 0).all()
    for average in ("moving_mean", "moving_variance"):
        np.testing.assert_array_equal(*[getattr(layer, average) for layer in layers])


def test_a_batch_of_padding_alone_moves_nothing():
    layer = _layer()
    before = [variable.numpy() for variable in layer.weights]
    found = _step(layer, X, np.zeros(7, bool), FACTOR, _alone)
    assert np.isfinite(found["value"]).all()
    for old, new in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_large_means_keep_their_small_deviations():
    """In one pass, Σx²/n − mean², float32 would leave nothing of a variance of 1 beside a mean of 10,000."""
    _, variance, _ = batch_statistics(tf.constant(X + np.float32(10_000)), "n")
    np.testing.assert_allclose(variance, X.var(axis=0), rtol=2e-3)


class Ranks:
    """Ranks as threads of this process: `total` waits for all of them, as an allreduce does."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count)
        self.values: dict[str, list[tf.Tensor | None]] = {}
        self.count = count

    def _sum(self, rank: int, value: tf.Tensor, name: str) -> tf.Tensor:
        self.values.setdefault(name, [None] * self.count)[rank] = value
        self.barrier.wait(20)
        total = tf.add_n(self.values[name])
        self.barrier.wait(20)
        return total

    def total(self, rank: int) -> Total:
        def summed(value: tf.Tensor, name: str) -> tf.Tensor:
            @tf.custom_gradient
            def forward(own: tf.Tensor) -> tuple[tf.Tensor, object]:
                return self._sum(rank, own, name), lambda upstream: self._sum(rank, upstream, f"{name}_gradient")

            return forward(value)

        return summed


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.integers(0, 7), min_size=1, max_size=2), real=st.lists(st.booleans(), min_size=7, max_size=7))
def test_ranks_give_what_one_process_gives_with_the_joint_batch(cuts: list[int], real: list[bool]):
    """Also with ranks that have padding alone, or no row at all."""
    real = np.array(real)
    joint = _layer()
    expected = _step(joint, X, real, FACTOR, _alone)
    bounds = [0, *sorted(cuts), 7]
    parts = [slice(start, end) for start, end in pairwise(bounds)]
    ranks, layers = Ranks(len(parts)), [_layer() for _ in parts]

    def run(rank: int) -> dict[str, np.ndarray]:
        part = parts[rank]
        return _step(layers[rank], X[part], real[part], FACTOR[part], ranks.total(rank))

    with ThreadPoolExecutor(len(parts)) as pool:
        found = list(pool.map(run, range(len(parts))))
    close = {"rtol": 1e-4, "atol": 1e-5}
    for name in ("value", "x"):
        np.testing.assert_allclose(np.concatenate([part[name] for part in found]), expected[name], **close)
    for name in ("gamma", "beta"):
        np.testing.assert_allclose(sum(part[name] for part in found), expected[name], **close)
    for layer in layers:
        np.testing.assert_allclose(layer.moving_mean, joint.moving_mean, **close)
        np.testing.assert_allclose(layer.moving_variance, joint.moving_variance, **close)
        np.testing.assert_array_equal(layer.moving_mean, layers[0].moving_mean)
        np.testing.assert_array_equal(layer.moving_variance, layers[0].moving_variance)


def test_sums_are_named_by_the_layer():
    names: list[str] = []

    def total(value: tf.Tensor, name: str) -> tf.Tensor:
        names.append(name)
        return value

    with rows_of_batch(tf.constant(REAL), total):
        BatchNorm(name="user.norm_1")(X, training=True)
    assert names == ["user.norm_1_mean", "user.norm_1_variance"]


def test_the_rows_are_those_of_the_trace():
    """A compiled step reads `real` of each batch, not that of the first."""
    layer = _layer()

    @tf.function
    def step(x: tf.Tensor, real: tf.Tensor) -> tf.Tensor:
        with rows_of_batch(real, _alone):
            return layer(x, training=True)

    w = values_by_name(layer.weights)
    for real in (REAL, ~REAL):
        expected = _expected(X, real, w["gamma"], w["beta"])
        np.testing.assert_allclose(step(tf.constant(X), tf.constant(real)), expected, rtol=1e-4, atol=1e-4)


def test_statistics_are_float32_under_mixed_precision():
    with precision("mixed_bfloat16"):
        layer = BatchNorm(momentum=0.0, name="n")
        made = layer(X + 100, training=True)
    assert made.dtype == tf.bfloat16
    assert {variable.dtype for variable in layer.weights} == {tf.float32}
    rounded = tf.cast(tf.cast(X + 100, tf.bfloat16), tf.float32).numpy()
    np.testing.assert_allclose(layer.moving_variance, rounded.var(axis=0), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, rounded.mean(axis=0), rtol=1e-6)


def test_it_is_rebuilt_from_its_config():
    config = BatchNorm(momentum=0.5, epsilon=0.1, affine=False, name="n").get_config()
    again = BatchNorm.from_config(config)
    assert (again.momentum, again.epsilon, again.affine, again.name) == (0.5, 0.1, False, "n")
    again(X)
    assert [variable.name for variable in again.weights] == ["n/moving_mean:0", "n/moving_variance:0"]
    assert again.trainable_weights == []
