"""A step of several objectives: what their learned weights are moved by, and the norms of all gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dssm.config import Settings
from dssm.manifest import WEIGHT, target_column
from dssm.train.scores import Encoded
from dssm.train.step import loss_shares, make_optimizer, make_step, total_loss
from tests.datasets import Rows, make_rows, make_settings
from tests.train.tiny import make_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("single_rank")]

HEADS = {"kind": "multi_objective", "shared": {"layers": [6]}, "head": {"layers": []}}
LEARNED: dict[str, Any] = {
    "user_tower": HEADS,
    "item_tower": HEADS,
    "objectives": {"click": {"loss": "weighted_bce"}, "like": {"label": "like", "loss": "regression"}},
    "objective_weights": "uncertainty",
}
LIKE, AT = target_column("like"), {"click": 0.3, "like": -0.7}
ROWS, RATE = 8, 0.5


def _batch(rows: Rows) -> dict[str, tf.Tensor]:
    return {name: tf.constant(values) for name, values in rows.items()}


@pytest.mark.parametrize("is_known", [True, False])
def test_a_batch_that_says_nothing_of_an_objective_leaves_its_learned_weight_alone(is_known: bool):
    settings = make_settings("unused", model=LEARNED)
    model, rows = make_model(settings), make_rows(settings, ROWS)
    for name, value in AT.items():
        model.weights.log_variance[name].assign(value)
    known = ~np.isnan(rows[LIKE])
    assert 0 < known.sum() < ROWS
    if not is_known:
        rows[LIKE][:] = np.nan
    users, items = np.random.default_rng(9).normal(size=(2, ROWS, 5)).astype(np.float32)
    encoded = Encoded(dict.fromkeys(AT, users), dict.fromkeys(AT, items), {}, {}, None)
    with tf.GradientTape() as tape:
        shares, row_weights = loss_shares(model, _batch(rows), {}, encoded)
        found = total_loss(model, shares, row_weights)
    slopes = tape.gradient(found, dict(model.weights.log_variance))

    weight = rows[WEIGHT].astype(float)
    of_rows = {"click": weight.sum(), "like": weight[known].sum() if is_known else 0.0}
    assert {name: float(total) for name, total in row_weights.items()} == pytest.approx(of_rows)
    losses = {name: np.exp(-s) * float(shares[name]) for name, s in AT.items()}
    assert (losses["like"] > 0.01) == is_known
    counted = list(AT) if is_known else ["click"]
    assert float(found) == pytest.approx(sum(losses[name] + AT[name] for name in counted), rel=1e-6)
    expected = {name: 1 - losses[name] if name in counted else 0.0 for name in AT}
    assert {name: float(slope) for name, slope in slopes.items()} == pytest.approx(expected, rel=1e-5)


GROUPS = {
    "user.": "user", "clicked.encoder/": "user",
    "item.": "item", "image.projection/": "item",
    "embedding_": "tables",
    "scorer_": "others", "bias_": "others", "log_variance_": "others",
}  # fmt: skip


def test_gradient_norms_are_of_each_tower_with_its_features_layers_of_the_tables_and_of_the_rest():
    """Plain gradient descent moves a variable by its gradient: the norms are those of how far the groups moved."""
    model = {**LEARNED, "scorer": {"kind": "logistic"}, "score_bias": True}
    plain = make_settings("unused", model=model, optimizer="sgd", learning_rate=RATE)
    described = plain.model_dump(mode="json")
    described["features"]["clicked"]["encoder"] = {"kind": "gru", "units": 3}
    described["features"]["image"]["projection"] = 2
    settings = Settings.model_validate(described)
    trained, batch = make_model(settings), _batch(make_rows(settings, ROWS))
    step = make_step(settings, trained, make_optimizer(settings.train, 20, trained))
    for _ in range(9):
        assert all(np.isnan(value) for name, value in step(batch, {}).items() if name.startswith("gradient_norm/"))
    before = [variable.numpy() for variable in trained.trainable_variables]
    found = step(batch, {})
    squares: dict[str, float] = {}
    for variable, old in zip(trained.trainable_variables, before, strict=True):
        (group,) = (group for start, group in GROUPS.items() if variable.name.startswith(start))
        gradient = (old - variable.numpy()).astype(float) / RATE
        squares[group] = squares.get(group, 0.0) + float(np.sum(gradient**2))
    assert squares.keys() == {"user", "item", "tables", "others"}
    expected = {f"gradient_norm/{group}": square**0.5 for group, square in squares.items()}
    norms = {name: float(value) for name, value in found.items() if name.startswith("gradient_norm/")}
    assert norms == pytest.approx(expected, rel=1e-3)
