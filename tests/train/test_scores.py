"""The bias on scores and the scorer's loss, with sampled negatives, against float64 NumPy written from the formulas."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import tensorflow as tf

from dssm.config import Settings
from dssm.manifest import LABEL, NEGATIVES, WEIGHT, target_column
from dssm.model.two_tower import TwoTowerModel
from dssm.train.scores import Encoded, encode
from dssm.train.step import loss_shares, make_optimizer, make_step, total_loss
from tests.datasets import NEGATIVE_KINDS, Rows, make_rows, make_settings
from tests.model import reference
from tests.model.tiny import redraw
from tests.train.tiny import make_model, make_negatives

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("single_rank")]

TAU, BIASES, FACTORS = 0.5, {"first": 0.7, "second": -0.4}, (0.5, 0.5, 2.0)  # the factors: of a row's three places
POSITIVE_WEIGHT, SCORER_WEIGHT, WEIGHTS = 2.5, 0.6, {"first": 0.5, "second": 2.0}
LIKE = target_column("like")
RATE = 0.05

At = Mapping[str, np.ndarray]  # what the loss is a function of, by name


def _settings(label: str) -> Settings:
    """Two objectives: cross entropy of this label, over vectors that the scorer takes as well, and a squared error."""
    tower = {"kind": "multi_objective", "shared": {"layers": [6]}, "head": {"layers": []}}
    losses = {
        "first": {"label": label, "loss": {"kind": "weighted_bce", "positive_weight": POSITIVE_WEIGHT}},
        "second": {"label": "like", "loss": {"kind": "regression", "prediction": "sigmoid"}},
    }
    model = {
        "user_tower": tower,
        "item_tower": tower,
        "temperature": TAU,
        "score_bias": True,
        "scorer": {"kind": "shallow", "layers": [4], "weight": SCORER_WEIGHT},
        "objectives": {name: {**loss, "weight": WEIGHTS[name]} for name, loss in losses.items()},
    }
    optimizer = {"optimizer": "sgd", "learning_rate": RATE}
    return make_settings("unused", negatives=NEGATIVE_KINDS, model=model, **optimizer)


def _rows(settings: Settings, seed: int) -> Rows:
    """Rows with negatives, of which some are not there; a label above 1, which is 1; padding as the stream makes it."""
    rows = make_rows(settings, 9, seed=seed)
    first, second = np.flatnonzero(rows[LABEL])[:2]
    rows[NEGATIVES][first] = [3, -1, 5]
    rows[LABEL][second] = 3
    for array in rows.values():
        array[[2, 8]] = 0
    return rows


def _batch(rows: Rows) -> dict[str, tf.Tensor]:
    return {name: tf.constant(values) for name, values in rows.items()}


def _model(settings: Settings) -> TwoTowerModel:
    """A model whose biases are BIASES, and none of whose scorer's variables is 0."""
    model = make_model(settings)
    assert model.scorer is not None
    redraw(model.scorer.variables)
    for name, bias in model.biases.items():
        bias.assign(BIASES[name])
    return model


def _variables(model: TwoTowerModel) -> dict[str, tf.Variable]:
    scorer = {f"scorer {number}": variable for number, variable in enumerate(model.scorer.trainable_variables)}
    return scorer | {f"bias {name}": bias for name, bias in model.biases.items()}


def _places(rows: Rows) -> list[tuple[int, int]]:
    """The row and the place of each negative, in their order."""
    has = (rows[LABEL] > 0) & (rows[WEIGHT] > 0)
    return [(row, place) for (row, place), item in np.ndenumerate(rows[NEGATIVES]) if has[row] and item >= 0]


def _losses(rows: Rows, label: str, at: At) -> dict[str, float]:
    """Σ weight · loss / Σ weight of each objective and of the scorer, and `loss`, the sum that is minimised.

    Args: at: users, items and negatives of each objective, (rows, width); the biases; the scorer's kernels and biases.
    """
    like, weight = rows[LIKE].astype(float), rows[WEIGHT].astype(float)
    of_first = np.minimum(rows[LABEL].astype(float), 1) if label == "label" else like
    users, items, negatives = (at[f"first {kind}"] for kind in ("users", "items", "negatives"))
    parameters = [values for name, values in at.items() if name.startswith("scorer")]
    examples: dict[str, list[tuple[float, float]]] = {"first": [], "second": [], "scorer": []}  # loss and weight

    def add_to_first_and_scorer(user: np.ndarray, item: np.ndarray, y: float, counts: float, is_of_first: bool) -> None:
        if is_of_first:
            score = float(user @ item) / TAU + float(at["bias first"])
            examples["first"].append((reference.bce(score, y, POSITIVE_WEIGHT), counts))
        (logit,) = reference.scorer_logits(parameters, user[None], item[None])
        examples["scorer"].append((reference.bce(logit, y, 1.0), counts))

    for row in range(len(weight)):
        if not math.isnan(of_first[row]):
            add_to_first_and_scorer(users[row], items[row], of_first[row], weight[row], True)
        if not math.isnan(like[row]):
            score = float(at["second users"][row] @ at["second items"][row]) / TAU + float(at["bias second"])
            examples["second"].append(((1 / (1 + math.exp(-score)) - like[row]) ** 2, weight[row]))
    for (row, place), item in zip(_places(rows), negatives, strict=True):
        if not math.isnan(of_first[row]):  # of the objective, a positive by its own label has negatives
            add_to_first_and_scorer(users[row], item, 0.0, weight[row] * FACTORS[place], of_first[row] > 0)
    means = {name: sum(loss * w for loss, w in of) / sum(w for _, w in of) for name, of in examples.items()}
    objectives = sum(weight * means[name] for name, weight in WEIGHTS.items())
    return {**means, "loss": objectives + SCORER_WEIGHT * means["scorer"]}


def _slope(rows: Rows, label: str, at: At, name: str) -> np.ndarray:
    return reference.slope(lambda x: _losses(rows, label, {**at, name: x})["loss"], at[name])


@pytest.mark.parametrize("label", ["label", "like"])
@pytest.mark.parametrize("seed", [0, 1])
def test_losses_with_biases_and_a_scorer_and_their_slopes(label: str, seed: int):
    settings = _settings(label)
    model, rows, random = _model(settings), _rows(settings, seed), np.random.default_rng(seed + 20)
    batch = _batch(rows)
    drawn = make_negatives(settings).drawn(batch)
    counts = {"users": 9, "items": 9, "negatives": len(_places(rows))}
    vectors = {
        f"{name} {kind}": tf.Variable(random.normal(scale=0.6, size=(count, 5)).astype(np.float32))
        for name in BIASES
        for kind, count in counts.items()
    }
    with tf.GradientTape() as tape:
        users, items, negatives = (
            {name: tf.convert_to_tensor(vectors[f"{name} {kind}"]) for name in BIASES} for kind in counts
        )
        shares, row_weights = loss_shares(model, batch, {}, Encoded(users, items, negatives, {}, drawn))
        found = {**shares, "loss": total_loss(model, shares, row_weights)}
    moved = {name: variable for name, variable in vectors.items() if name != "second negatives"} | _variables(model)
    gradients = tape.gradient(found["loss"], moved)

    at = {name: variable.numpy().astype(float) for name, variable in (vectors | _variables(model)).items()}
    expected = _losses(rows, label, at)
    assert found.keys() == expected.keys()
    for name, loss in expected.items():
        assert float(found[name]) == pytest.approx(loss, rel=1e-5), name
    for name, gradient in gradients.items():
        slope = _slope(rows, label, at, name)
        np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=3e-5, err_msg=name)
        assert np.abs(slope).max() > 0.005


def test_a_step_moves_biases_and_scorer_against_their_slopes():
    settings = _settings("label")
    model, rows = _model(settings), _rows(settings, 0)
    negatives, batch = make_negatives(settings), _batch(rows)
    drawn = negatives.drawn(batch)
    encoded = encode(model.towers, batch, drawn, {})
    at = {name: variable.numpy().astype(float) for name, variable in _variables(model).items()}
    for kind in ("users", "items", "negatives"):
        at |= {f"{name} {kind}": vectors.numpy().astype(float) for name, vectors in getattr(encoded, kind).items()}

    losses = make_step(settings, model, make_optimizer(settings.train, 1, model), negatives)(batch, {})
    expected = _losses(rows, "label", at)
    for name, loss in expected.items():
        assert float(losses["loss" if name == "loss" else f"loss/{name}"]) == pytest.approx(loss, rel=1e-5), name
    for name, variable in _variables(model).items():
        moved = at[name] - RATE * _slope(rows, "label", at, name)
        np.testing.assert_allclose(variable, moved, rtol=1e-5, atol=1e-6, err_msg=name)
        assert np.abs(moved - at[name]).max() > 1e-4
