"""A step's random numbers depend on the seed, the rank and the step alone."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dssm.encoders import Transformer
from dssm.model.layers import EntryDropout
from dssm.model.randomness import Dropout, randomness_of_step


def drawn(seed: int, rank: int, step: int) -> list[np.ndarray]:
    """What three layers draw in a step of a process of its own: nothing is kept between two calls."""
    layers = [Dropout(0.5), Dropout(0.5), EntryDropout(0.5)]
    ones = [tf.ones((50, 8)), tf.ones((50, 8)), tf.ones((50, 8), tf.int32)]

    @tf.function(autograph=False)
    def traced(number: tf.Tensor) -> list[tf.Tensor]:
        with randomness_of_step(seed, rank, number):
            return [layer(values, training=True) for layer, values in zip(layers, ones, strict=True)]

    return [values.numpy() for values in traced(tf.constant(step, tf.int64))]


def test_the_same_step_draws_the_same():
    for one, other in zip(drawn(3, 1, 70), drawn(3, 1, 70), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("other", [(4, 1, 70), (3, 0, 70), (3, 1, 71)])
def test_another_seed_rank_or_step_draws_others(other: tuple[int, int, int]):
    for one, two in zip(drawn(3, 1, 70), drawn(*other), strict=True):
        assert 0.3 < np.mean(one != two) < 0.7


def test_layers_of_a_step_draw_different_numbers():
    first, second, _ = drawn(3, 1, 70)
    assert 0.3 < np.mean(first != second) < 0.7


def test_dropout_keeps_the_mean():
    values = tf.ones((2000, 50))
    dropped = Dropout(0.3)(values, training=True).numpy()
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.7)}
    assert dropped.mean() == pytest.approx(1.0, abs=0.02)
    np.testing.assert_array_equal(Dropout(0.3)(values, training=False).numpy(), values.numpy())


def test_a_transformer_draws_from_the_step_alone():
    layer = Transformer(hidden=3, dropout=0.5).build(4, "encoder")
    embeddings = tf.random.stateless_normal((6, 5, 4), [1, 2])
    ids = tf.ones((6, 5), tf.int32)

    def encoded(step: int) -> np.ndarray:
        with randomness_of_step(0, 0, tf.constant(step, tf.int64)):
            return np.asarray(layer(embeddings, ids=ids, training=True))

    np.testing.assert_array_equal(encoded(5), encoded(5))
    assert (encoded(5) != encoded(6)).any()
