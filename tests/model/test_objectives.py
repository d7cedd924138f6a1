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


def _expected(losses: np.ndarray, log_variances: np.ndarray, share: float = 1.0) -> float:
    """Σ e⁻ˢ L + share · s, in float64."""
    return float(sum(np.exp(-log_variances) * losses + share * log_variances))


def test_fixed_weights_are_the_factors_of_a_sum():
    weights, losses = _weights("fixed"), _losses()
    with tf.GradientTape() as tape:
        total = weights.combine(losses)
    assert float(total) == pytest.approx(0.7 + 0.25 * 2.0 + 3 * 0.1)
    assert {name: float(g) for name, g in tape.gradient(total, losses).items()} == WEIGHTS
    assert weights.trainable_variables == ()


def test_without_objectives_the_label_is_the_only_one():
    weights = ObjectiveWeights(Model())
    assert float(weights.combine({"label": tf.constant(0.5)})) == 0.5


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_uncertainty_weights_and_their_gradients(share: float):
    weights, losses = _weights("uncertainty"), _losses()
    for name, value in LOG_VARIANCES.items():
        weights.log_variance[name].assign(value)
    with tf.GradientTape() as tape:
        total = weights.combine(losses, share)
    by_loss, by_s = tape.gradient(total, [losses, dict(weights.log_variance)])
    raw, s = np.array(list(LOSSES.values())), np.array(list(LOG_VARIANCES.values()))
    assert float(total) == pytest.approx(_expected(raw, s, share), rel=1e-6)
    np.testing.assert_allclose([by_loss[n] for n in WEIGHTS], slope(lambda x: _expected(x, s, share), raw), rtol=1e-5)
    np.testing.assert_allclose([by_s[n] for n in WEIGHTS], slope(lambda x: _expected(raw, x, share), s), rtol=1e-5)


def test_uncertainty_begins_with_the_sum_of_the_losses():
    assert float(_weights("uncertainty").combine(_losses())) == pytest.approx(sum(LOSSES.values()))


def test_the_ranks_shares_add_up_to_the_whole():
    """Each rank has its part of every loss; the penalty must not be counted once a rank."""
    weights = _weights("uncertainty")
    for name, value in LOG_VARIANCES.items():
        weights.log_variance[name].assign(value)
    whole = weights.combine({name: tf.constant(loss) for name, loss in LOSSES.items()})
    parts = [
        weights.combine({name: tf.constant(part * loss) for name, loss in LOSSES.items()}, share=0.5)
        for part in (0.3, 0.7)
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)


def test_learned_weights_settle_at_the_logarithms_of_the_losses():
    weights, losses = _weights("uncertainty"), _losses()
    optimizer = tf.keras.optimizers.SGD(0.3)

    @tf.function
    def step() -> None:
        with tf.GradientTape() as tape:
            total = weights.combine(losses)
        variables = weights.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(total, variables), variables, strict=True))

    assert len(weights.trainable_variables) == 3
    optimizer.build(weights.trainable_variables)
    for _ in range(60):
        step()
    for name, s in weights.log_variance.items():
        assert float(s) == pytest.approx(np.log(LOSSES[name]), abs=1e-4)


def test_losses_of_other_objectives_are_refused():
    with pytest.raises(ValueError, match=r"found \['click'\], expected \['click', 'follow', 'like'\]"):
        _weights("fixed").combine({"click": tf.constant(1.0)})


def test_the_learned_weights_go_into_a_checkpoint(tmp_path: Path):
    saved, restored = _weights("uncertainty"), _weights("uncertainty")
    saved.log_variance["like"].assign(-2.0)
    path = tf.train.Checkpoint(weights=saved).save(str(tmp_path / "model"))
    tf.train.Checkpoint(weights=restored).restore(path).assert_consumed()
    assert {name: float(s) for name, s in restored.log_variance.items()} == {"click": 0, "like": -2, "follow": 0}
