from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dssm.model.layers import FrozenVectors, Pooling, UnitNorm
from tests.model import reference

IDS = np.array([[2, 3, 4, 5], [2, 2, 0, 0], [0, 0, 0, 0], [0, 4, 0, 3], [1, 0, 0, 0]], np.int32)
COMBINERS = ["sum", "mean", "sqrtn", "max"]


def _drawn() -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and weights that are not 0 where the ids are padding."""
    random = np.random.default_rng(5)
    embeddings = random.normal(size=(*IDS.shape, 3)).astype(np.float32)
    return embeddings, random.uniform(0.1, 2, IDS.shape).astype(np.float32)


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("weighted", [False, True])
def test_pooling_against_numpy(combiner: str, weighted: bool):
    embeddings, weights = _drawn()
    used = weights if weighted else None
    found = Pooling(combiner)(tf.constant(embeddings), ids=tf.constant(IDS), weights=used)
    np.testing.assert_allclose(found, reference.pooled(embeddings, IDS, used, combiner), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("combiner", "expected"),
    [("sum", [5, -2]), ("mean", [5 / 1.4, -2 / 1.4]), ("sqrtn", [5, -2]), ("max", [3, 1])],
)
def test_pooling_at_literal_values(combiner: str, expected: list[float]):
    """Weights 0.6 and 0.8 (Σw² = 1) on (5, −5) and (2.5, 1.25), then padding of weight 9."""
    embeddings = tf.constant([[[5.0, -5.0], [2.5, 1.25], [50.0, 50.0]]])
    found = Pooling(combiner)(embeddings, ids=tf.constant([[3, 4, 0]]), weights=tf.constant([[0.6, 0.8, 9.0]]))
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("weighted", [False, True])
def test_padding_gets_no_gradient_and_an_empty_list_no_nan(combiner: str, weighted: bool):
    embeddings, weights = _drawn()
    variable = tf.Variable(embeddings)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(Pooling(combiner)(variable, ids=tf.constant(IDS), weights=weights if weighted else None))
    gradient = tape.gradient(total, variable).numpy()
    np.testing.assert_array_equal(gradient[IDS == 0], 0.0)
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).sum(axis=(1, 2)) > 0).tolist() == [True, True, False, True, True]


def test_the_maximum_of_negative_embeddings_is_not_the_padding():
    found = Pooling("max")(tf.constant([[[-2.0], [-1.0], [0.0]]]), ids=tf.constant([[3, 4, 0]]))
    assert found.numpy().tolist() == [[-1.0]]


def test_pooling_is_rebuilt_from_its_config():
    assert Pooling.from_config(Pooling("sqrtn", name="p").get_config()).combiner == "sqrtn"


MATRIX = np.array([[1.0, 2.0], [30.0, 40.0], [500.0, 600.0]], np.float32)


def test_frozen_vectors_at_literal_codes():
    layer = FrozenVectors.of(MATRIX, name="v")
    found = layer(tf.constant([[1, 3], [0, 2]]))
    np.testing.assert_array_equal(found, [[[1, 2], [500, 600]], [[0, 0], [30, 40]]])
    np.testing.assert_array_equal(layer(tf.constant([2, 0])), [[30, 40], [0, 0]])


def test_frozen_vectors_are_not_trained():
    layer = FrozenVectors.of(MATRIX, name="v")
    assert layer.trainable_weights == []
    assert [variable.name for variable in layer.weights] == ["v/table:0"]
    with tf.GradientTape() as tape:
        found = layer(tf.constant([1, 2]))
    assert tape.gradient(found, layer.table) is None


def test_a_table_without_rows_has_the_code_0_alone():
    layer = FrozenVectors.of(np.zeros((0, 3), np.float32))
    np.testing.assert_array_equal(layer(tf.constant([0])), np.zeros((1, 3)))


def test_frozen_vectors_are_rebuilt_from_config_and_weights():
    layer = FrozenVectors.of(MATRIX)
    again = FrozenVectors.from_config(layer.get_config())
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(tf.constant([3])), [[500, 600]])


@pytest.mark.parametrize(
    ("reduce_type", "expected"),
    [("sum", [[31, 42], [1000, 1200], [0, 0]]), ("mean", [[15.5, 21], [500, 600], [0, 0]])],
)
def test_an_id_without_a_vector_does_not_shrink_the_mean_of_the_others(reduce_type: str, expected: list[list[float]]):
    codes = tf.constant([[1, 0, 2, 0], [3, 3, 0, 0], [0, 0, 0, 0]])
    found = Pooling(reduce_type)(FrozenVectors.of(MATRIX)(codes), ids=codes)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_unit_norm():
    found = UnitNorm()(tf.constant([[3.0, 4.0], [0.0, 0.0], [-1e-3, 0.0]])).numpy()
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]], rtol=1e-6)
