"""The loss of a step in one process, against the formulas in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dssm.manifest import ITEM_KEY, ITEM_PROBABILITY, LABEL, USER_KEY, WEIGHT
from dssm.train.collectives import merge_rows
from dssm.train.step import make_optimizer, make_step, mean_loss, row_losses, tower_vectors
from tests.datasets import Rows, make_rows, make_settings
from tests.model import reference
from tests.model.tiny import make_towers

pytestmark = pytest.mark.usefixtures("single_rank")


def _rows(count: int = 8, padded: tuple[int, ...] = (2, 7), seed: int = 0) -> Rows:
    """Few users and items, so that there are accidental hits; padding as the stream makes it."""
    rows = make_rows(make_settings("unused"), count, seed=seed)
    rows[USER_KEY] = rows[USER_KEY] % 4 + 1
    rows[ITEM_KEY] = rows[ITEM_KEY] % 5 + 1
    rows[ITEM_PROBABILITY][:1] = 0  # an item that the training window does not have
    for array in rows.values():
        array[list(padded)] = 0
    return rows


def _batch(rows: Rows) -> dict[str, tf.Tensor]:
    return {name: tf.constant(values) for name, values in rows.items()}


def _vectors(count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(9).normal(size=(2, count, 3)).astype(np.float32)
    users, items = drawn / np.linalg.norm(drawn, axis=2, keepdims=True)
    return users, items


def _expected(users: np.ndarray, items: np.ndarray, rows: Rows, temperature: float, train: Any) -> float:
    """Σ weight · loss / Σ weight over the rows that are targets."""
    if train.loss == "weighted_bce":
        scores = (users.astype(float) * items).sum(axis=1) / temperature
        losses = [
            reference.bce(s, y, train.positive_weight) for s, y in zip(scores, rows[LABEL].astype(float), strict=True)
        ]
        weights = rows[WEIGHT].astype(float)
    else:
        targets = (rows[LABEL] > 0) & (rows[WEIGHT] > 0)
        shares = reference.batch_shares(rows[ITEM_KEY], targets)
        probability = {"frequency": rows[ITEM_PROBABILITY], "batch": shares, "off": None}[train.logq]
        losses = reference.in_batch_softmax(
            users, items,
            temperature=temperature, user_keys=rows[USER_KEY], item_keys=rows[ITEM_KEY], targets=targets,
            probability=probability, strength=train.logq_strength, mask_accidental_hits=train.mask_accidental_hits,
        )  # fmt: skip
        weights = np.where(targets, rows[WEIGHT].astype(float), 0)
    return float(np.dot(losses, weights) / weights.sum())


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"logq": "batch"},
        {"logq": "off"},
        {"logq_strength": 0.5, "mask_accidental_hits": False},
        {"logq": "batch", "candidates": "rank"},
        {"loss": "weighted_bce", "positive_weight": 2.5},
    ],
)
def test_mean_loss_and_its_gradients(how: dict[str, Any]):
    settings = make_settings("unused", **how)
    rows = _rows()
    users, items = (tf.Variable(vectors) for vectors in _vectors())
    with tf.GradientTape() as tape:
        loss = mean_loss(settings.model, settings.train, _batch(rows), users, items)
    by_users, by_items = tape.gradient(loss, [users, items])

    u, v, temperature = users.numpy(), items.numpy(), settings.model.temperature
    assert float(loss) == pytest.approx(_expected(u, v, rows, temperature, settings.train), rel=1e-5)
    for found, slope in (
        (by_users, reference.slope(lambda x: _expected(x, v, rows, temperature, settings.train), u)),
        (by_items, reference.slope(lambda x: _expected(u, x, rows, temperature, settings.train), v)),
    ):
        np.testing.assert_allclose(found, slope, atol=3e-5)
        assert np.abs(slope).max() > 0.01


@pytest.mark.parametrize("loss", ["in_batch_softmax", "weighted_bce"])
def test_what_stands_in_padded_rows_makes_no_difference(loss: str):
    settings = make_settings("unused", loss=loss)
    rows = _rows()
    users, items = _vectors()
    changed = {name: values.copy() for name, values in rows.items()}
    for name in (USER_KEY, ITEM_KEY, LABEL, ITEM_PROBABILITY):
        changed[name][[2, 7]] = 1
    other_users, other_items = users.copy(), items.copy()
    other_users[[2, 7]] = other_items[[2, 7]] = 5.0
    found = mean_loss(settings.model, settings.train, _batch(rows), users, items)
    same = mean_loss(settings.model, settings.train, _batch(changed), other_users, other_items)
    assert float(found) == float(same) > 0


@pytest.mark.parametrize("loss", ["in_batch_softmax", "weighted_bce"])
@pytest.mark.parametrize("logq", ["frequency", "batch"])
def test_a_batch_of_padding_alone_has_no_loss_and_no_gradient(loss: str, logq: str):
    settings = make_settings("unused", loss=loss, logq=logq)
    users, items = (tf.Variable(vectors) for vectors in _vectors())
    with tf.GradientTape() as tape:
        found = mean_loss(settings.model, settings.train, _batch(_rows(padded=tuple(range(8)))), users, items)
    assert float(found) == 0.0
    for gradient in tape.gradient(found, [users, items]):
        np.testing.assert_array_equal(gradient, np.zeros((8, 3)))


def test_one_positive_alone_has_no_negatives():
    settings = make_settings("unused")
    rows = _rows(padded=(1, 2, 3, 4, 5, 6, 7))
    rows[LABEL][0] = 1
    losses, weights = row_losses(settings.model, settings.train, _batch(rows), *_vectors())
    assert losses.numpy().tolist() == [0.0] * 8
    assert weights.numpy().tolist() == [rows[WEIGHT][0]] + [0.0] * 7


def test_negatives_are_neither_targets_nor_candidates_of_the_softmax():
    settings = make_settings("unused", mask_accidental_hits=False, logq="off")
    rows = _rows(padded=())
    users, items = _vectors()
    positive = rows[LABEL] > 0
    assert 0 < positive.sum() < 8
    whole = row_losses(settings.model, settings.train, _batch(rows), users, items)
    alone = row_losses(
        settings.model,
        settings.train,
        _batch({n: a[positive] for n, a in rows.items()}),
        users[positive],
        items[positive],
    )
    for found, expected in zip(whole, alone, strict=True):
        np.testing.assert_allclose(found.numpy()[positive], expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(found.numpy()[~positive], 0.0)


def test_rows_of_a_sparse_gradient_are_sent_once():
    merged = merge_rows(
        tf.IndexedSlices(
            values=tf.constant([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]]),
            indices=tf.constant([7, 3, 7]),
            dense_shape=tf.constant([9, 2]),
        )
    )
    assert merged.indices.numpy().tolist() == [7, 3]
    assert merged.values.numpy().tolist() == [[101.0, 202.0], [10.0, 20.0]]


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
@pytest.mark.parametrize("loss", ["in_batch_softmax", "weighted_bce"])
def test_steps_lower_the_loss_that_they_report(loss: str, optimizer: str):
    settings = make_settings("unused", loss=loss, optimizer=optimizer, learning_rate=0.05)
    towers, batch = make_towers(settings), _batch(_rows())
    step = make_step(settings.model, settings.train, towers, make_optimizer(settings.train))
    before = mean_loss(settings.model, settings.train, batch, *tower_vectors(towers, batch, training=True))
    losses = [float(step(batch)) for _ in range(20)]
    assert losses[0] == pytest.approx(float(before), rel=1e-5)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_a_step_on_padding_alone_moves_nothing(optimizer: str):
    settings = make_settings("unused", optimizer=optimizer)
    towers = make_towers(settings)
    before = [variable.numpy() for variable in towers.variables]
    step = make_step(settings.model, settings.train, towers, make_optimizer(settings.train))
    assert float(step(_batch(_rows(padded=tuple(range(8)))))) == 0.0
    for variable, old in zip(towers.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)


def test_adagrad_moves_only_the_rows_of_the_batch():
    settings = make_settings("unused", optimizer="adagrad", loss="weighted_bce")
    towers, rows = make_towers(settings), _rows()
    (table,) = (v for v in towers.variables if v.name == "embedding_user_id/embeddings:0")
    before = table.numpy()
    step = make_step(settings.model, settings.train, towers, make_optimizer(settings.train))
    step(_batch(rows))
    moved = np.flatnonzero(np.abs(table.numpy() - before).max(axis=1))
    assert moved.tolist() == sorted(set(rows["user_id"][rows[WEIGHT] > 0]))
