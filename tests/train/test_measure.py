"""Metrics of scores over all rows, against NumPy over all pairs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from dssm.features import Side
from dssm.manifest import LABEL, WEIGHT, target_column
from dssm.model.export import LoadedTower, save_tower
from dssm.model.two_tower import TwoTowerModel
from dssm.sections import LossKind
from dssm.stream.batches import Batch
from dssm.train.measure import make_predict, measure, metric_names, predictions
from dssm.train.scores import label_and_weight
from tests.datasets import Rows, make_rows, make_settings
from tests.model.tiny import redraw, vectors_of
from tests.train.conftest import launch
from tests.train.measuring import SCORED, measured
from tests.train.tiny import make_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("single_rank")]

OBJECTIVES = {
    "user_tower": {"kind": "multi_objective", "shared": {"layers": [6]}, "head": {"layers": []}},
    "item_tower": {"kind": "multi_objective", "shared": {"layers": [6]}, "head": {"layers": []}},
    "objectives": {"like": {"label": "like", "loss": "weighted_bce"}, "click": {}},
}


def share_in_order(scores: np.ndarray, positive: np.ndarray) -> float:
    """Of all pairs of a positive and a negative, ties counting half."""
    pairs = [(p > n) + (p == n) / 2 for p in scores[positive] for n in scores[~positive]]
    return sum(pairs) / len(pairs) if pairs else np.nan


def logistic(parameters: list[np.ndarray], users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """wᵀ [u, v, u∘v, |u − v|] + b of each row, in float64."""
    (kernel, bias), (u, v) = parameters, (users.astype(float), items.astype(float))
    return np.concatenate([u, v, u * v, np.abs(u - v)], axis=1) @ kernel[:, 0].astype(float) + float(bias[0])


@pytest.mark.parametrize("more", [{}, OBJECTIVES])
def test_a_scorer_is_measured_on_the_first_objectives_vectors_and_label(more: dict[str, object]) -> None:
    settings = make_settings("unused", model={"scorer": {"kind": "logistic"}, **more})
    model, rows = make_model(settings), make_rows(settings, 40, seed=3)
    rows[WEIGHT][[5, 6, 30]] = 0
    assert model.scorer is not None
    redraw(model.scorer.variables)
    first, objective = next(iter(settings.model.all_objectives.items()))
    users, items = (vectors_of(tower, rows, first) for tower in (model.user, model.item))
    expected = logistic([variable.numpy() for variable in model.scorer.variables], users, items)
    found, label, _ = (tensor.numpy() for tensor in predictions(model, rows)["scorer"])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    given_label = rows[LABEL if objective.label == "label" else target_column(objective.label)]
    counts = (rows[WEIGHT] > 0) & ~np.isnan(given_label)
    np.testing.assert_array_equal(label[counts], given_label[counts])
    metrics = measure(model, make_predict(model), iter([rows]))
    assert metrics["scorer_auc"] == pytest.approx(share_in_order(found[counts], given_label[counts] > 0), abs=1e-12)
    assert metrics["scorer_auc"] != metrics["auc"]


@cache
def scored_model() -> TwoTowerModel:
    return make_model(make_settings("unused", model={"scorer": {}}))


SIGNS = {"scorer": 1.0, "label": -1.0}  # of a row's score
ROW = st.tuples(st.integers(0, 3), st.sampled_from([0, 1]), st.sampled_from([0.0, 0.5, 2.0]))


@given(batches=st.lists(st.lists(ROW, min_size=1, max_size=6), max_size=5), are_shares=st.booleans())
def test_a_scorers_auc_counts_ties_half_and_no_row_without_weight(
    batches: list[list[tuple[int, int, float]]], are_shares: bool
) -> None:
    """Other weights change nothing; of labels that are shares those above one half are positive."""
    model = scored_model()

    def predict(batch: Batch) -> dict[str, tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
        score, label, weight = tf.unstack(batch["rows"], axis=1)
        label = 0.25 + label / 2 if are_shares else label
        return {name: (sign * score, label, weight) for name, sign in SIGNS.items()}

    found = measure(model, predict, iter({"rows": tf.constant(rows, tf.float32)} for rows in batches))
    score, label, weight = np.array([row for rows in batches for row in rows]).reshape(-1, 3).T
    expected = share_in_order(score[weight > 0], label[weight > 0] == 1)
    assert found["scorer_auc"] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert found["auc"] == pytest.approx(1 - expected, abs=1e-12, nan_ok=True)


def test_an_auc_of_scores_that_are_alike_says_so_and_one_of_no_numbers_is_none(capsys: pytest.CaptureFixture[str]):
    model = make_model(make_settings("unused"))

    def measured_of(*scores: float) -> float:
        rows = [tf.constant(scores), tf.constant([1.0, 0.0, 1.0, 0.0]), tf.ones(4)]
        return measure(model, lambda _: {"label": tuple(rows)}, iter([{}]))["auc"]

    name = next(iter(model.losses))
    assert name == "label"
    assert measured_of(4.0, 3.0, 2.0, 1.0) == 0.75
    assert capsys.readouterr().err == ""
    assert measured_of(4.0, 4.0001, 4.0, 4.0001) == 0.5
    assert capsys.readouterr().err == "train: label: many scores are alike or equal, and the AUC may be off by 0.5000\n"
    assert np.isnan(measured_of(4.0, np.nan, 2.0, 1.0))


def test_a_label_beyond_1_is_measured_as_the_loss_takes_it() -> None:
    model = make_model(make_settings("unused", loss="weighted_bce"))
    (name,) = model.losses

    def measured_of(*labels: float) -> dict[str, float]:
        rows = (tf.constant([4.0, -2.0]), tf.constant(labels), tf.ones(2))
        return measure(model, lambda _: {name: rows}, iter([{}]))

    found = measured_of(3.0, -1.0)
    assert found == measured_of(1.0, 0.0)
    assert found["log_loss"] == pytest.approx((np.log1p(np.exp(-4.0)) + np.log1p(np.exp(-2.0))) / 2, abs=1e-6)


def test_without_a_scorer_there_is_no_such_metric() -> None:
    settings = make_settings("unused")
    rows: Rows = make_rows(settings, 8)
    model = make_model(settings)
    assert "scorer_auc" not in measure(model, make_predict(model), iter([rows]))


class Stars(LossKind):
    """A rating loss of one's own; without a name it is none of the choices."""

    squashed: bool = False

    @property
    def rating(self) -> Literal["linear", "sigmoid"]:
        return "sigmoid" if self.squashed else "linear"


@pytest.mark.parametrize("squashed", [False, True])
def test_a_rating_of_ones_own_loss_has_a_squared_error_and_no_log_loss(squashed: bool) -> None:
    settings = make_settings("unused", loss=Stars(squashed=squashed), model={"score_bias": True})
    model, rows = make_model(settings), make_rows(settings, 40, seed=3)
    model.biases["label"].assign(0.5)
    users, items = (vectors_of(tower, rows, "label").astype(float) for tower in (model.user, model.item))
    expected = (users * items).sum(axis=1) / settings.model.tau + 0.5
    expected = 1 / (1 + np.exp(-expected)) if squashed else expected
    found = measure(model, make_predict(model), iter([rows]))
    assert found.keys() == {"mse", "auc"} == set(metric_names(model))
    counts = rows[WEIGHT] > 0
    assert found["mse"] == pytest.approx(((expected - rows[LABEL]) ** 2)[counts].mean(), rel=1e-5)


BIASED = {
    "one, with a share": {"objectives": {"like": {"label": "like", "loss": "weighted_bce", "share": 0.25}}},
    "several": {
        **OBJECTIVES,
        "temperature": 0.5,
        "objectives": {
            "click": {},
            "like": {"label": "like", "loss": "weighted_bce", "share": 0.25},
            "watched": {"loss": {"kind": "regression", "prediction": "sigmoid"}, "share": 0.0},
            "stars": {"loss": "regression"},
        },
    },
}


@pytest.mark.parametrize("similarity", ["cosine", "inner_product"])
@pytest.mark.parametrize("name", BIASED)
def test_exported_vectors_and_the_manifest_give_what_is_measured(name: str, similarity: str, tmp_path: Path) -> None:
    settings = make_settings("unused", model={**BIASED[name], "similarity": similarity, "score_bias": True})
    model, rows = make_model(settings), make_rows(settings, 40, seed=3)
    for number, bias in enumerate(model.biases.values()):
        bias.assign(0.5 - number)
    shares = {objective: chosen.share for objective, chosen in settings.model.all_objectives.items()}
    sides: tuple[Side, ...] = ("user", "item")
    for side in sides:
        save_tower(getattr(model, side), f"{tmp_path}/{side}", shares)
    users, items = (LoadedTower(f"{tmp_path}/{side}").all_vectors(rows) for side in sides)
    told, expected = model.predictions, predictions(model, rows)
    assert list(told) == list(expected)
    for objective, (prediction, _, _) in expected.items():
        chosen = told[objective]
        assert chosen.similarity == similarity
        score = (users[chosen.output] * items[chosen.output]).sum(axis=1) / chosen.temperature + chosen.bias
        of_measure = score if chosen.prediction == "probability" or chosen.activation != "sigmoid" else expit(score)
        np.testing.assert_allclose(of_measure, prediction, rtol=1e-4, atol=1e-5, err_msg=objective)
    kinds = {objective: (of.prediction, of.activation, of.bias) for objective, of in told.items()}
    assert (
        kinds
        == {
            "one, with a share": {"like": ("probability", "sigmoid", 0.5)},
            "several": {
                "click": (None, None, 0.0),
                "like": ("probability", "sigmoid", 0.5),
                "watched": ("value", "sigmoid", -0.5),
                "stars": ("value", "linear", -1.5),
            },
        }[name]
    )


def test_a_label_that_is_not_known_counts_as_0_without_weight():
    batch = {LABEL: tf.constant([0.3, np.nan, 0.0]), WEIGHT: tf.constant([2.0, 3.0, 1.0])}
    label, weight = label_and_weight(batch, "label")
    np.testing.assert_array_equal(label, np.float32([0.3, 0, 0]))
    assert weight.numpy().tolist() == [2, 0, 1]


@pytest.mark.horovod
def test_two_ranks_find_what_one_process_finds(tmp_path: Path) -> None:
    launched = launch(2, "tests.train.measuring", str(tmp_path))
    assert launched.code == 0, launched.output
    expected = measured()
    assert set(SCORED) <= expected.keys()
    assert 0 < expected["scorer_auc"] < 1
    for rank in range(2):
        for places in ("few", "many"):
            assert dict(np.load(tmp_path / f"{places}{rank}.npz")) == expected
