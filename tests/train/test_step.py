"""The loss of a step in one process, against the formulas in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dssm.config import Settings
from dssm.manifest import EVENT_TIME, ITEM_KEY, ITEM_PROBABILITY, LABEL, USER_KEY, WEIGHT, target_column
from dssm.model.two_tower import TwoTowerModel
from dssm.train.collectives import merge_rows
from dssm.train.scores import Encoded, tower_vectors
from dssm.train.shares import ITEM_ROW_PROBABILITY
from dssm.train.step import Step, loss_shares, make_optimizer, make_step, total_loss, weighted_by_age
from tests.datasets import Rows, make_rows, make_settings
from tests.model import reference
from tests.train.tiny import make_model, mean_loss

pytestmark = pytest.mark.usefixtures("single_rank")


def _rows(count: int = 8, padded: tuple[int, ...] = (2, 7), seed: int = 0) -> Rows:
    """Few users and items, so that there are accidental hits; padding as the stream makes it."""
    rows = make_rows(make_settings("unused"), count, seed=seed)
    rows[USER_KEY] = rows[USER_KEY] % 4 + 1
    rows[ITEM_KEY] = rows[ITEM_KEY] % 5 + 1
    rows[ITEM_PROBABILITY][:1] = 0  # an item that the training window does not have
    rows[ITEM_ROW_PROBABILITY] = rows[ITEM_PROBABILITY] / 2
    for array in rows.values():
        array[list(padded)] = 0
    return rows


def _batch(rows: Rows) -> dict[str, tf.Tensor]:
    return {name: tf.constant(values) for name, values in rows.items()}


def _step(settings: Settings, model: TwoTowerModel) -> Step:
    return make_step(settings, model, make_optimizer(settings.train, 20, model))


def _vectors(count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(9).normal(size=(2, count, 3)).astype(np.float32)
    users, items = drawn / np.linalg.norm(drawn, axis=2, keepdims=True)
    return users, items


def _expected(users: np.ndarray, items: np.ndarray, rows: Rows, temperature: float, train: Any) -> float:
    """Σ weight · loss / Σ weight over the rows that are targets."""
    chosen = train.loss
    if chosen.kind == "weighted_bce":
        scores = (users.astype(float) * items).sum(axis=1) / temperature
        losses = [
            reference.bce(s, y, chosen.positive_weight) for s, y in zip(scores, rows[LABEL].astype(float), strict=True)
        ]
        weights = rows[WEIGHT].astype(float)
    else:
        targets = (rows[LABEL] > 0) & (rows[WEIGHT] > 0)
        shares = reference.batch_shares(rows[ITEM_KEY], targets)
        probability = {"frequency": rows[ITEM_PROBABILITY], "batch": shares, "off": None}[chosen.logq]
        losses = reference.in_batch_softmax(
            users, items,
            temperature=temperature, user_keys=rows[USER_KEY], item_keys=rows[ITEM_KEY], targets=targets,
            probability=probability, strength=chosen.logq_strength, mask_accidental_hits=chosen.mask_accidental_hits,
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
        {"kind": "weighted_bce", "positive_weight": 2.5},
    ],
)
def test_mean_loss_and_its_gradients(how: dict[str, Any]):
    settings = make_settings("unused", loss=how)
    rows = _rows()
    users, items = (tf.Variable(vectors) for vectors in _vectors())
    with tf.GradientTape() as tape:
        loss = mean_loss(settings, _batch(rows), users, items)
    by_users, by_items = tape.gradient(loss, [users, items])

    u, v, temperature = users.numpy(), items.numpy(), settings.model.tau
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
    found = mean_loss(settings, _batch(rows), users, items)
    same = mean_loss(settings, _batch(changed), other_users, other_items)
    assert float(found) == float(same) > 0


@pytest.mark.parametrize(
    "loss",
    [
        {"logq": "frequency"},
        {"logq": "batch"},
        {"logq": "streaming"},
        {"kind": "weighted_bce"},
        {"kind": "regression"},
        {"kind": "bpr", "negatives": "batch"},
    ],
)
def test_a_batch_of_padding_alone_has_no_loss_and_no_gradient(loss: dict[str, str]):
    settings = make_settings("unused", loss=loss)
    users, items = (tf.Variable(vectors) for vectors in _vectors())
    with tf.GradientTape() as tape:
        found = mean_loss(settings, _batch(_rows(padded=tuple(range(8)))), users, items)
    assert float(found) == 0.0
    for gradient in tape.gradient(found, [users, items]):
        np.testing.assert_array_equal(gradient, np.zeros((8, 3)))


def test_one_positive_alone_has_no_negatives():
    rows = _rows(padded=(1, 2, 3, 4, 5, 6, 7))
    rows[LABEL][0] = 1
    assert float(mean_loss(make_settings("unused"), _batch(rows), *_vectors())) == 0.0


def test_negatives_are_neither_targets_nor_candidates_of_the_softmax():
    settings = make_settings("unused", loss={"mask_accidental_hits": False, "logq": "off"})
    rows = _rows(padded=())
    users, items = _vectors()
    positive = rows[LABEL] > 0
    assert 0 < positive.sum() < 8
    whole = mean_loss(settings, _batch(rows), users, items)
    alone = mean_loss(settings, _batch({n: a[positive] for n, a in rows.items()}), users[positive], items[positive])
    assert float(whole) == pytest.approx(float(alone), rel=1e-6)


def test_unclicked_rows_are_targets_and_candidates_where_they_have_a_weight():
    """With weight 1 a row's label makes no difference; with less, its loss counts less."""
    rows, (users, items) = _rows(padded=()), _vectors()
    all_positive = {**rows, LABEL: np.ones_like(rows[LABEL])}
    losses = {
        weight: float(
            mean_loss(
                make_settings("unused", loss={"logq": "batch", "impression_weight": weight}), _batch(rows), users, items
            )
        )
        for weight in (0.0, 0.5, 1.0)
    }
    as_positives = mean_loss(make_settings("unused", loss={"logq": "batch"}), _batch(all_positive), users, items)
    assert losses[1.0] == pytest.approx(float(as_positives), rel=1e-6)
    assert len({round(loss, 4) for loss in losses.values()}) == 3


def test_a_label_that_is_not_known_weighs_nothing():
    settings = make_settings("unused", loss="weighted_bce")
    rows, (users, items) = _rows(padded=()), _vectors()
    some = np.arange(8) % 3 == 0
    unknown = {**rows, LABEL: np.where(some, np.nan, rows[LABEL]).astype(np.float32)}
    known = {name: values[~some] for name, values in rows.items()}
    variable = tf.Variable(users)
    with tf.GradientTape() as tape:
        loss = mean_loss(settings, _batch(unknown), variable, items)
    assert float(loss) == pytest.approx(float(mean_loss(settings, _batch(known), users[~some], items[~some])), rel=1e-6)
    assert np.isfinite(tape.gradient(loss, variable)).all()


def test_a_rows_weight_halves_with_each_half_life():
    day, now = 86_400_000, 20 * 86_400_000
    batch = {WEIGHT: tf.constant([2.0, 2.0, 3.0, 0.0]), EVENT_TIME: tf.constant([now, now - 3 * day, now - 6 * day, 0])}
    found = weighted_by_age(batch, now, half_life_days=3.0)
    np.testing.assert_allclose(found[WEIGHT], [2.0, 1.0, 0.75, 0.0])
    assert weighted_by_age(batch, now, None) is batch


def test_objectives_have_labels_and_losses_of_their_own():
    """Two objectives over the same vectors: the losses that each has alone, summed with their weights."""
    towers = {"kind": "multi_objective", "shared": {"layers": [6]}, "head": {"layers": []}}
    objectives = {
        "click": {"weight": 0.5, "loss": "weighted_bce"},
        "like": {"label": "like", "weight": 2.0, "loss": {"kind": "regression", "prediction": "sigmoid"}},
    }
    both = make_settings("unused", model={"user_tower": towers, "item_tower": towers, "objectives": objectives})
    model, batch, (users, items) = make_model(both), _batch(_rows()), _vectors()
    encoded = Encoded(dict.fromkeys(objectives, users), dict.fromkeys(objectives, items), {}, {}, None)
    shares = loss_shares(model, batch, {}, encoded)

    click = mean_loss(make_settings("unused", loss="weighted_bce"), batch, users, items)
    like = mean_loss(
        make_settings("unused", loss={"kind": "regression", "prediction": "sigmoid"}),
        {**batch, LABEL: batch[target_column("like")]},
        users,
        items,
    )
    assert float(shares["click"]) == pytest.approx(float(click), rel=1e-6)
    assert float(shares["like"]) == pytest.approx(float(like), rel=1e-6)
    assert float(total_loss(model, shares)) == pytest.approx(0.5 * float(click) + 2.0 * float(like), rel=1e-6)


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


@pytest.mark.parametrize("optimizer", ["adam", "lazy_adam", "adagrad", "rowwise_adagrad", "sgd", "rmsprop"])
@pytest.mark.parametrize("loss", ["in_batch_softmax", "weighted_bce"])
def test_steps_lower_the_loss_that_they_report(loss: str, optimizer: str):
    settings = make_settings("unused", loss=loss, optimizer=optimizer, learning_rate=0.05)
    model, batch = make_model(settings), _batch(_rows())
    users, items = tower_vectors(model.towers, batch, training=True)
    before = mean_loss(settings, batch, users["label"], items["label"])
    step = _step(settings, model)
    losses = [float(step(batch, {})["loss"]) for _ in range(20)]
    assert losses[0] == pytest.approx(float(before), rel=1e-5)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_a_step_on_padding_alone_moves_nothing(optimizer: str):
    settings = make_settings("unused", optimizer=optimizer)
    model = make_model(settings)
    before = [variable.numpy() for variable in model.towers.variables]
    step = _step(settings, model)
    assert float(step(_batch(_rows(padded=tuple(range(8)))), {})["loss"]) == 0.0
    for variable, old in zip(model.towers.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)


@pytest.mark.parametrize("optimizer", ["adagrad", "rowwise_adagrad", "lazy_adam"])
def test_only_the_rows_of_the_batch_move(optimizer: str):
    settings = make_settings("unused", optimizer=optimizer, loss="weighted_bce")
    model, rows = make_model(settings), _rows()
    (table,) = (v for v in model.towers.variables if v.name == "embedding_user_id/embeddings:0")
    before = table.numpy()
    _step(settings, model)(_batch(rows), {})
    moved = np.flatnonzero(np.abs(table.numpy() - before).max(axis=1))
    assert moved.tolist() == sorted(set(rows["user_id"][rows[WEIGHT] > 0]))
