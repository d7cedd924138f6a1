from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dssm.model.objectives import ObjectiveWeights
from dssm.sections import Model
from tests.model.reference import slope

WEIGHTS = {"click": 1.0, "like": 0.25, "follow": 3.0}
LOSSES = {"click": 0.7, "like": 2.0, "follow": 0.1}
LOG_VARIANCES = {"click": 0.3, "like": -1.2, "follow": 2.0}


def _weights(kind: str) -> ObjectiveWeights:
    tower = {"kind": "multi_objective"}
    objectives = {name: {"weight": weight} if kind == "fixed" else {} for name, weight in WEIGHTS.items()}
    settings: dict[str, Any] = {"user_tower": tower, "item_tower": tower, "objectives": objectives}
    return ObjectiveWeights(Model.model_validate({**settings, "objective_weights": kind}))


def _losses() -> dict[str, tf.Variable]:
    return {name: tf.Variable(loss) for name, loss in LOSSES.items()}


def _known(*names: str) -> dict[str, tf.Tensor]:
    """The weights of the joint batch's rows, of objectives that some count for and of others."""
    return {name: tf.constant(1.7 if name in names else 0.0) for name in WEIGHTS}


ALL_KNOWN = _known(*WEIGHTS)


def _expected(losses: np.ndarray, log_variances: np.ndarray, share: float, known: np.ndarray) -> float:
    """Σ e⁻ˢ L + share · s, the latter of objectives that are known, in float64."""
    return float(sum(np.exp(-log_variances) * losses + share * known * log_variances))


def test_fixed_weights_are_the_factors_of_a_sum():
    weights, losses = _weights("fixed"), _losses()
    with tf.GradientTape() as tape:
        total = weights.combine(losses, ALL_KNOWN)
    assert float(total) == pytest.approx(0.7 + 0.25 * 2.0 + 3 * 0.1)
    assert {name: float(g) for name, g in tape.gradient(total, losses).items()} == WEIGHTS
    assert weights.trainable_variables == ()


def test_without_objectives_the_label_is_the_only_one():
    weights = ObjectiveWeights(Model())
    assert float(weights.combine({"label": tf.constant(0.5)}, {"label": tf.constant(2.0)})) == 0.5


@pytest.mark.parametrize("share", [1.0, 0.25])
@pytest.mark.parametrize("unknown", [(), ("like",), ("click", "follow")])
def test_uncertainty_weights_and_their_gradients(share: float, unknown: tuple[str, ...]):
    """An objective that no row counts for has no loss, and its s no gradient."""
    weights, losses = _weights("uncertainty"), _losses()
    row_weights = _known(*(set(WEIGHTS) - set(unknown)))
    for name, value in LOG_VARIANCES.items():
        weights.log_variance[name].assign(value)
    for name in unknown:
        losses[name].assign(0.0)
    with tf.GradientTape() as tape:
        total = weights.combine(losses, row_weights, share)
    by_loss, by_s = tape.gradient(total, [losses, dict(weights.log_variance)])
    s, known = np.array(list(LOG_VARIANCES.values())), np.array([name not in unknown for name in WEIGHTS])
    raw = known * np.array(list(LOSSES.values()))
    assert float(total) == pytest.approx(_expected(raw, s, share, known), rel=1e-6)
    of_losses = slope(lambda x: _expected(x, s, share, known), raw)
    np.testing.assert_allclose([by_loss[n] for n in WEIGHTS], of_losses, rtol=1e-5)
    of_s = slope(lambda x: _expected(raw, x, share, known), s)
    np.testing.assert_allclose([by_s[n] for n in WEIGHTS], of_s, rtol=1e-5, atol=1e-9)
    assert all(float(by_s[name]) == 0 for name in unknown)


def test_uncertainty_begins_with_the_sum_of_the_losses():
    assert float(_weights("uncertainty").combine(_losses(), ALL_KNOWN)) == pytest.approx(sum(LOSSES.values()))


def test_the_ranks_shares_add_up_to_the_whole():
    """Each rank has its part of every loss; the penalty must not be counted once a rank."""
    weights = _weights("uncertainty")
    for name, value in LOG_VARIANCES.items():
        weights.log_variance[name].assign(value)
    whole = weights.combine({name: tf.constant(loss) for name, loss in LOSSES.items()}, ALL_KNOWN)
    parts = [
        weights.combine({name: tf.constant(part * loss) for name, loss in LOSSES.items()}, ALL_KNOWN, share=0.5)
        for part in (0.3, 0.7)
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)


@pytest.mark.parametrize("every", [1, 4])
def test_learned_weights_settle_at_the_logarithms_of_the_losses(every: int):
    """However rarely an objective is known: `like` in one of so many steps."""
    weights, losses = _weights("uncertainty"), _losses()
    optimizer = tf.keras.optimizers.SGD(0.3)

    @tf.function
    def step(likes: tf.Tensor) -> None:
        of_batch, row_weights = {**losses, "like": likes * losses["like"]}, {**ALL_KNOWN, "like": likes}
        with tf.GradientTape() as tape:
            total = weights.combine(of_batch, row_weights)
        variables = weights.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(total, variables), variables, strict=True))

    assert len(weights.trainable_variables) == 3
    optimizer.build(weights.trainable_variables)
    for number in range(60 * every):
        step(tf.constant(float(number % every == 0)))
    for name, s in weights.log_variance.items():
        assert float(s) == pytest.approx(np.log(LOSSES[name]), abs=1e-4)


def test_losses_of_other_objectives_are_refused():
    with pytest.raises(ValueError, match=r"found \['click'\], expected \['click', 'follow', 'like'\]"):
        _weights("fixed").combine({"click": tf.constant(1.0)}, ALL_KNOWN)


def test_the_learned_weights_go_into_a_checkpoint(tmp_path: Path):
    saved, restored = _weights("uncertainty"), _weights("uncertainty")
    saved.log_variance["like"].assign(-2.0)
    path = tf.train.Checkpoint(weights=saved).save(str(tmp_path / "model"))
    tf.train.Checkpoint(weights=restored).restore(path).assert_consumed()
    assert {name: float(s) for name, s in restored.log_variance.items()} == {"click": 0, "like": -2, "follow": 0}
