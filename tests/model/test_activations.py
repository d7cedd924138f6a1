from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import tensorflow as tf

from dssm.model.activations import Dice, activation
from dssm.model.batch_norm import rows_of_batch
from dssm.sections.model import Activation
from tests.model import reference, tower_reference
from tests.model.tiny import assert_same_slopes, redraw, values_by_name

X = np.random.default_rng(2).normal(scale=2, size=(5, 3)).astype(np.float32)
FACTOR = np.random.default_rng(3).normal(size=X.shape)


def _gradient(layer: tf.keras.layers.Layer, training: bool = False) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the layer's values at X, and the gradients of Σ FACTOR · value by X and by the layer's weights."""
    x = tf.Variable(X, name="x")
    with tf.GradientTape() as tape:
        made = layer(x, training=training) if isinstance(layer, Dice) else layer(x)
        total = tf.reduce_sum(made * FACTOR)
    variables = [x, *layer.trainable_variables]
    names = list(values_by_name(variables))
    return made.numpy(), dict(zip(names, [g.numpy() for g in tape.gradient(total, variables)], strict=True))


@pytest.mark.parametrize("kind", list(tower_reference.SCALAR))
def test_functions_against_numpy(kind: Activation):
    function = tower_reference.SCALAR[kind]
    found, gradients = _gradient(activation(kind, "a"))
    np.testing.assert_allclose(found, tower_reference.of_each(function, X), rtol=1e-5, atol=1e-6)
    slope = reference.slope(lambda x: float(np.sum(FACTOR * tower_reference.of_each(function, x))), X)
    np.testing.assert_allclose(gradients["x"], slope, rtol=1e-4, atol=1e-5)


def test_every_activation_of_the_settings_has_a_layer_of_its_name():
    for kind in get_args(Activation):
        assert activation(kind, f"tower_{kind}").name == f"tower_{kind}"
    assert {*get_args(Activation)} == {*tower_reference.SCALAR, "prelu", "dice"}


def test_prelu_against_numpy():
    layer = activation("prelu", "p")
    np.testing.assert_allclose(layer(X), tower_reference.prelu(X, np.full(3, 0.25)), rtol=1e-6)
    redraw(layer.trainable_variables)
    weights = values_by_name(layer.weights)
    found, gradients = _gradient(layer)

    def value(w: dict[str, np.ndarray]) -> float:
        return float(np.sum(FACTOR * tower_reference.prelu(w["x"], w["p/alpha"])))

    np.testing.assert_allclose(found, tower_reference.prelu(X, weights["p/alpha"]), rtol=1e-6)
    assert_same_slopes(gradients, value, {**weights, "x": X.astype(float)})


@pytest.mark.parametrize("training", [False, True])
def test_dice_against_numpy(training: bool):
    layer = Dice(name="d")
    layer(X)
    redraw(layer.weights)
    place = {**values_by_name(layer.weights), "x": X.astype(float)}
    real = [True, True, False, True, True]

    def made(w: dict[str, np.ndarray]) -> np.ndarray:
        moving = w["d/d_norm/moving_mean"], w["d/d_norm/moving_variance"]
        moments = tower_reference.statistics(w["x"], real) if training else moving
        return tower_reference.dice(w["x"], *moments, w["d/alpha"])

    with rows_of_batch(tf.constant(real), lambda value, _: value):
        found, gradients = _gradient(layer, training)
    np.testing.assert_allclose(found, made(place), rtol=1e-4, atol=1e-5)
    assert_same_slopes(gradients, lambda w: float(np.sum(FACTOR * made(w))), place)


def test_dice_of_a_constant_unit_is_halfway_with_finite_gradients():
    x = tf.Variable(np.full((4, 2), [3.1, -7.3], np.float32))
    with tf.GradientTape() as tape:
        made = Dice()(x, training=True)
        total = tf.reduce_sum(made * FACTOR[:4, :2])
    np.testing.assert_allclose(made, np.full((4, 2), [3.1 * 0.625, -7.3 * 0.625]), rtol=1e-3)
    assert np.isfinite(tape.gradient(total, x)).all()


def test_dice_is_rebuilt_from_its_config():
    layer = Dice(name="d")
    layer(X)
    redraw(layer.weights)
    again = Dice.from_config(layer.get_config())
    again(X)
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(X), layer(X))
