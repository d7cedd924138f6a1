"""The bag of embeddings equals pooling of what is looked up entry by entry, in values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dssm.model import embedding_bag
from dssm.model.embedding_bag import EmbeddingBag
from tests.model import reference
from tests.model.tiny import draw_lists

ROWS, DIM = 9, 3


def _bag(combiner: str) -> EmbeddingBag:
    table = tf.keras.layers.Embedding(ROWS, DIM, embeddings_initializer=tf.keras.initializers.RandomNormal(seed=4))
    return EmbeddingBag(table, combiner)


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("product", [True, False])
def test_values_and_gradients_are_those_of_pooling(
    combiner: str, weighted: bool, seed: int, product: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(embedding_bag, "has_sparse_product", lambda: product)
    random, ids = draw_lists(seed, ROWS)
    bag = _bag(combiner)
    weights = random.uniform(0.1, 2, ids.shape).astype(np.float32) if weighted else None
    upstream = random.normal(size=(len(ids), DIM))
    table = bag.embedding.embeddings
    with tf.GradientTape() as tape:
        found = bag(tf.constant(ids), weights=weights)
        loss = tf.reduce_sum(found * upstream)
    gradient = tape.gradient(loss, table)

    def pooled(values: np.ndarray) -> np.ndarray:
        return reference.pooled(values[ids], ids, weights, combiner)

    np.testing.assert_allclose(found, pooled(table.numpy()), rtol=1e-5, atol=1e-7)
    assert len(set(gradient.indices.numpy())) == len(gradient.indices) == len(set(ids[ids > 0]))
    slope = reference.slope(lambda values: float((pooled(values) * upstream).sum()), table.numpy())
    np.testing.assert_allclose(tf.convert_to_tensor(gradient), slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("product", [True, False])
@pytest.mark.parametrize(("rows", "entries"), [(1, 1), (1, 7), (5, 3)])
def test_order_and_padding_change_nothing(
    combiner: str, product: bool, rows: int, entries: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(embedding_bag, "has_sparse_product", lambda: product)
    random, bag = np.random.default_rng(entries), _bag(combiner)
    ids = random.integers(0, ROWS, (rows, entries)).astype(np.int32)
    weights = random.uniform(0.1, 2, ids.shape).astype(np.float32)
    order = random.permutation(entries + 2)
    padded = np.pad(ids, ((0, 0), (0, 2)))[:, order]
    weights_there = np.pad(weights, ((0, 0), (0, 2)), constant_values=7)[:, order]  # the padding's own are not read
    found = bag(tf.constant(ids), weights=weights)
    np.testing.assert_allclose(bag(tf.constant(padded), weights=weights_there), found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("product", [True, False])
def test_padding_alone_gives_zeros_and_no_gradient(product: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedding_bag, "has_sparse_product", lambda: product)
    bag = _bag("mean")
    with tf.GradientTape() as tape:
        found = bag(tf.zeros((3, 4), tf.int32))
    np.testing.assert_array_equal(found, np.zeros((3, DIM)))
    assert tape.gradient(found, bag.embedding.embeddings).indices.shape == (0,)


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("product", [True, False])
def test_a_list_of_weights_0_gives_zeros_and_no_gradient(combiner: str, product: bool, monkeypatch: pytest.MonkeyPatch):
    """Beside a list of the ids 1 and 2 with weights."""
    monkeypatch.setattr(embedding_bag, "has_sparse_product", lambda: product)
    ids, weights = np.array([[3, 4, 3], [1, 0, 2]], np.int32), np.array([[0, 0, 0], [0.5, 7, 2]], np.float32)
    bag = _bag(combiner)
    table = bag.embedding.embeddings
    with tf.GradientTape() as tape:
        found = bag(tf.constant(ids), weights=tf.constant(weights))
        total = tf.reduce_sum(found)
    np.testing.assert_array_equal(found[0], np.zeros(DIM))
    np.testing.assert_allclose(found, reference.pooled(table.numpy()[ids], ids, weights, combiner), rtol=1e-5)
    gradient = tf.convert_to_tensor(tape.gradient(total, table)).numpy()
    assert np.isfinite(gradient).all()
    assert np.flatnonzero(np.abs(gradient).sum(axis=1)).tolist() == [1, 2]


@pytest.mark.parametrize(("deterministic", "gpus", "expected"), [(True, 1, False), (True, 0, True), (False, 1, True)])
def test_a_deterministic_gpu_has_no_sparse_product(
    deterministic: bool, gpus: int, expected: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(embedding_bag, "is_op_determinism_enabled", lambda: deterministic)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind] * gpus)
    assert embedding_bag.has_sparse_product() == expected


def test_the_maximum_is_no_sum():
    with pytest.raises(ValueError, match="combiner: found 'max', expected sum, mean or sqrtn"):
        _bag("max")
