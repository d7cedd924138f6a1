from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dssm.model.layers import Pooling, UnitNorm
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


def test_unit_norm():
    found = UnitNorm()(tf.constant([[3.0, 4.0], [0.0, 0.0], [-1e-3, 0.0]])).numpy()
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]], rtol=1e-6)
