"""The loss of a step in one process, against the formulas in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dssm.config import Settings
from dssm.manifest import EVENT_TIME, ITEM_KEY, ITEM_PROBABILITY, LABEL, USER_KEY, WEIGHT, target_column
from dssm.model.losses import Candidates, Scored
from dssm.model.two_tower import TwoTowerModel
from dssm.sections import LossKind
from dssm.train.collectives import merge_rows
from dssm.train.scores import Encoded, StepScores, tower_vectors
from dssm.train.shares import ITEM_ROW_PROBABILITY
from dssm.train.step import Step, loss_shares, make_optimizer, make_step, total_loss, weighted_by_age
from tests.datasets import ITEMS, Rows, make_catalogue, make_rows, make_settings
from tests.model import loss_reference, reference
from tests.train.tiny import make_model, mean_loss

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("single_rank")]


def _rows(count: int = 8, padded: tuple[int, ...] = (2, 7), seed: int = 0) -> Rows:
    """Few users and items, so that there are accidental hits; padding as the stream makes it."""
    rows = make_rows(make_settings("unused"), count, seed=seed)
    rows[USER_KEY] = rows[USER_KEY] % 4 + 1
    rows[ITEM_KEY] = rows[ITEM_KEY] % 5 + 1
    rows[ITEM_PROBABILITY][:1] = 0  # an item that the training window does not have
    rows[ITEM_ROW_PROBABILITY] = np.random.default_rng(seed + 70).uniform(0.001, 0.1, count).astype(np.float32)
    for array in rows.values():
        array[list(padded)] = 0
    return rows


def _catalogue(settings: Settings, count: int) -> Rows:
    """Draws items uniformly, as the stream of the catalogue gives them to a step."""
    random = np.random.default_rng(8)
    chosen, items = random.integers(0, ITEMS, count), make_catalogue(settings)
    rows = {ITEM_KEY: items[ITEM_KEY][chosen] % 5 + 1, ITEM_PROBABILITY: items[ITEM_PROBABILITY][chosen]}
    return {**rows, ITEM_ROW_PROBABILITY: random.uniform(0.001, 0.1, count).astype(np.float32)}


def _batch(rows: Rows) -> dict[str, tf.Tensor]:
    return {name: tf.constant(values) for name, values in rows.items()}


def _step(settings: Settings, model: TwoTowerModel) -> Step:
    return make_step(settings, model, make_optimizer(settings.train, 20, model))


def _vectors(count: int = 8, seed: int = 9) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(seed).normal(size=(2, count, 3)).astype(np.float32)
    users, items = drawn / np.linalg.norm(drawn, axis=2, keepdims=True)
    return users, items


def _seen(settings: Settings, vectors: Sequence[np.ndarray], rows: Rows, catalogue: Rows) -> Scored:
    """What the loss of the only objective must see, in NumPy; all candidates' logits stand in `user_vectors`.

    Args: vectors: of the users, of their items and of the catalogue's items.
    """
    (objective,) = settings.model.all_objectives.values()
    loss = objective.loss or settings.train.loss
    users, items, uniform = (values.astype(float) for values in vectors)
    label = rows[LABEL if objective.label == "label" else target_column(objective.label)]
    weight = np.where(np.isnan(label), 0, rows[WEIGHT])
    chance = ITEM_ROW_PROBABILITY if loss.draws_all_rows else ITEM_PROBABILITY
    zeros = np.zeros(len(uniform), np.int64)
    logits = users @ np.concatenate([items, uniform]).T / settings.model.tau
    candidates = Candidates(
        user_vectors=logits,
        vectors=np.eye(len(items) + len(uniform)),
        own=np.arange(len(users)),
        users=np.concatenate([rows[USER_KEY], zeros]),
        items=np.concatenate([rows[ITEM_KEY], catalogue[ITEM_KEY]]),
        positive=np.concatenate([(label > 0) & (weight > 0), zeros > 0]),
        real=np.concatenate([weight > 0, zeros == 0]),
        uniform=np.concatenate([np.zeros(len(users), bool), zeros == 0]),
        share=np.concatenate([rows[chance], catalogue[chance]]),
        catalogue_size=ITEMS,
    )
    return Scored(np.diag(logits), label, weight, rows[USER_KEY], rows[ITEM_KEY], candidates)


def _estimated(loss: LossKind, multipliers: np.ndarray, steps: Sequence[Scored]) -> np.ndarray:
    """The streaming estimate of the last step's candidates: a step's items are counted before it is asked."""
    chosen = loss.streaming
    assert chosen is not None
    estimate = loss_reference.StreamingFrequency(chosen.rate, chosen.initial_gap, chosen.buckets, multipliers)
    for scored in steps:
        assert scored.candidates is not None
        counted = scored.candidates.real if loss.draws_all_rows else scored.candidates.positive
        estimate.update(scored.candidates.items[counted & ~scored.candidates.uniform].tolist())
    return np.array([estimate.appearances(item) for item in scored.candidates.items.tolist()])


STREAMING = {"logq": "streaming", "frequency": {"buckets": 64, "rate": 0.5, "initial_gap": 5.0}}
MIXED = {"kind": "mixed_negative", "uniform": 4}


@pytest.mark.parametrize(
    ("how", "label"),
    [
        ({}, "label"),
        ({"logq": "batch"}, "label"),
        ({"logq": "off"}, "label"),
        ({"logq_strength": 0.5, "mask_accidental_hits": False}, "label"),
        ({"logq": "batch", "candidates": "rank"}, "label"),
        ({"impression_weight": 0.3}, "label"),
        (STREAMING, "label"),
        ({**STREAMING, "impression_weight": 0.3}, "label"),
        (MIXED, "label"),
        ({**MIXED, "impression_weight": 0.3}, "label"),
        ({**MIXED, "logq": "batch"}, "label"),
        ({**MIXED, **STREAMING}, "label"),
        ({"kind": "weighted_bce", "positive_weight": 2.5}, "label"),
        ({"logq": "batch"}, "like"),
        ({"logq": "off"}, "like"),
        (STREAMING, "like"),
        ({**MIXED, **STREAMING}, "like"),
        ({"logq": "batch", "impression_weight": 0.3}, "like"),
        ({"kind": "weighted_bce"}, "like"),
    ],
)
def test_mean_loss_and_its_gradients(how: dict[str, Any], label: str):
    """Of the second of two steps: the first one's items are known to a streaming estimate."""
    settings = make_settings("unused", model={"objectives": {"only": {"label": label, "loss": how}}})
    model = make_model(settings)
    loss = model.losses["only"]
    steps = [(_rows(seed=seed), _catalogue(settings, loss.catalogue_items)) for seed in (1, 0)]
    given = [*_vectors(), _vectors(loss.catalogue_items, seed=10)[1]]
    variables = [tf.Variable(vectors) for vectors in given]
    for rows, catalogue in steps:
        with tf.GradientTape() as tape:
            users, items, uniform = variables
            found = mean_loss(settings, _batch(rows), users, items, model, _batch(catalogue), uniform)

    appearances = None
    if loss.streaming is not None:
        seen = [_seen(settings, given, *step) for step in steps]
        appearances = _estimated(loss, model.frequencies["only"].multipliers, seen)
        assert len(set(appearances)) > 1
    rows_of = getattr(loss_reference, "weighted_bce_rows" if loss.is_pointwise else "in_batch_softmax_rows")

    def expected(vectors: Sequence[np.ndarray]) -> float:
        """Σ weight · loss / Σ weight over the rows that are targets."""
        scored = _seen(settings, vectors, *steps[-1])
        assert scored.candidates is not None
        losses, weights = rows_of(loss, replace(scored, candidates=replace(scored.candidates, appearances=appearances)))
        return float(np.dot(losses, weights) / weights.sum())

    assert float(found) == pytest.approx(expected(given), rel=1e-5)
    gradients = tape.gradient(found, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    for place in range(3 if loss.catalogue_items else 2):
        slope = reference.slope(lambda x, place=place: expected([*given[:place], x, *given[place + 1 :]]), given[place])
        np.testing.assert_allclose(gradients[place], slope, atol=3e-5)
        assert np.abs(slope).max() > 0.01


@pytest.mark.parametrize("initial_gap", [5.0, 1e300])
def test_items_never_seen_in_training_have_a_finite_loss_under_the_streaming_estimate(initial_gap: float):
    """First met as items of the batch and as uniform ones, after steps over others; q is then 1 over the first gap."""
    streaming = {**STREAMING, "frequency": {"buckets": 5000, "initial_gap": initial_gap}}
    settings = make_settings("unused", loss={**MIXED, **streaming})
    model, rows, (users, items), uniform = make_model(settings), _rows(), _vectors(), _vectors(4, seed=10)[1]
    catalogue = _catalogue(settings, 4)
    for _ in range(3):
        mean_loss(settings, _batch(rows), users, items, model, _batch(catalogue), uniform)
    rows[ITEM_KEY] += 100
    catalogue[ITEM_KEY] += 200
    unseen = tf.constant(np.concatenate([rows[ITEM_KEY], catalogue[ITEM_KEY]]))
    np.testing.assert_allclose(model.frequencies["label"].appearances(unseen), max(1 / initial_gap, 1e-9), rtol=1e-6)
    variables = [tf.Variable(vectors) for vectors in (users, items, uniform)]
    with tf.GradientTape() as tape:
        found = mean_loss(settings, _batch(rows), *variables[:2], model, _batch(catalogue), variables[2])
    assert 0 < float(found) < 100
    assert all(np.isfinite(gradient).all() for gradient in tape.gradient(found, variables))


def test_log_q_is_subtracted_after_the_temperature():
    """Two rows of one vector, for which ⟨u, v⟩ / τ is 10 with the first item and 5 with the second."""
    rows = {USER_KEY: np.array([1, 2]), ITEM_KEY: np.array([1, 2]), ITEM_PROBABILITY: np.float32([0.5, 0.125])}
    rows |= {LABEL: np.ones(2, np.float32), WEIGHT: np.ones(2, np.float32)}
    settings = make_settings("unused", loss={"logq_strength": 0.5}, model={"temperature": 0.1})
    users, items = np.float32([[1, 0], [1, 0]]), np.float32([[1, 0], [0.5, 0.75**0.5]])
    found = mean_loss(settings, _batch(rows), users, items)
    apart = (10 + 0.5 * np.log(2)) - (5 + 0.5 * np.log(8))
    assert float(found) == pytest.approx((np.logaddexp(0, -apart) + np.logaddexp(0, apart)) / 2, rel=1e-5)


def test_each_objective_takes_as_many_of_the_uniform_items_as_it_asks_for():
    towers = {"kind": "multi_objective", "shared": {"layers": [6]}, "head": {"layers": []}}
    losses = {"few": {**MIXED, "uniform": 2}, "many": {**MIXED, "uniform": 5, "impression_weight": 0.3}, "none": {}}
    objectives = {name: {"loss": loss} for name, loss in losses.items()}
    settings = make_settings("unused", model={"user_tower": towers, "item_tower": towers, "objectives": objectives})
    model, rows = make_model(settings), _rows()
    assert model.catalogue_rows == 5
    catalogue, (users, items), uniform = _catalogue(settings, 5), _vectors(), _vectors(5, seed=10)[1]
    of_users, of_items, of_uniform = (dict.fromkeys(losses, tf.constant(of)) for of in (users, items, uniform))
    encoded = Encoded(of_users, of_items, {}, of_uniform, None)
    scores = StepScores(model, _batch(rows), _batch(catalogue), encoded, ITEMS)
    for name, count in {"few": 2, "many": 5, "none": 0}.items():
        candidates = scores.of(name).candidates
        assert candidates is not None
        assert candidates.uniform.numpy().tolist() == [False] * 8 + [True] * count
        chance = ITEM_ROW_PROBABILITY if name == "many" else ITEM_PROBABILITY
        np.testing.assert_array_equal(candidates.share, [*rows[chance], *catalogue[chance][:count]])
        np.testing.assert_array_equal(candidates.items, [*rows[ITEM_KEY], *catalogue[ITEM_KEY][:count]])
        np.testing.assert_array_equal(candidates.users, [*rows[USER_KEY], *[0] * count])
        np.testing.assert_array_equal(candidates.vectors, [*items, *uniform[:count]])
        assert candidates.catalogue_size == ITEMS


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


@pytest.mark.parametrize("impression_weight", [0.0, 0.3])
def test_padding_is_not_seen_by_the_streaming_estimate(impression_weight: float):
    loss = {"logq": "streaming", "impression_weight": impression_weight, "frequency": {"buckets": 1 << 16}}
    settings = make_settings("unused", loss=loss)
    states = []
    for drop in ([], [2, 7]):  # as padding, and as rows that are not there
        model = make_model(settings)
        step = _step(settings, model)
        for seed in range(3):
            step(_batch({name: np.delete(array, drop, axis=0) for name, array in _rows(seed=seed).items()}), {})
        (frequency,) = model.frequencies.values()
        states.append([variable.numpy() for variable in (frequency.step, frequency.last_seen, frequency.gap)])
    for padded, without in zip(*states, strict=True):
        np.testing.assert_array_equal(padded, without)
    assert np.count_nonzero(states[0][1]) > 0


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
    shares, row_weights = loss_shares(model, batch, {}, encoded)

    click = mean_loss(make_settings("unused", loss="weighted_bce"), batch, users, items)
    like = mean_loss(
        make_settings("unused", loss={"kind": "regression", "prediction": "sigmoid"}),
        {**batch, LABEL: batch[target_column("like")]},
        users,
        items,
    )
    assert float(shares["click"]) == pytest.approx(float(click), rel=1e-6)
    assert float(shares["like"]) == pytest.approx(float(like), rel=1e-6)
    found = total_loss(model, shares, row_weights)
    assert float(found) == pytest.approx(0.5 * float(click) + 2.0 * float(like), rel=1e-6)


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
