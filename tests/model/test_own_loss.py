"""A loss of one's own: its settings and its builder in one file, chosen by its kind, without a change elsewhere."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import pytest
import tensorflow as tf
from pydantic import Field, FiniteFloat, ValidationError

from dssm.model.losses import Rows, Scored
from dssm.model.losses.parts import known_labels
from dssm.sections import LossKind, Train
from tests.model.reference import slope


class Focal(LossKind):
    """−(1 − p)^γ log p of the label's own probability p (Lin et al., ICCV 2017): what is easy counts little."""

    kind: Literal["focal"] = "focal"
    builder: ClassVar[str] = f"{__name__}:focal_rows"
    gamma: FiniteFloat = Field(2.0, ge=0, description="γ; 0 is the cross entropy.")

    @property
    def is_pointwise(self) -> bool:
        return True


def focal_rows(settings: Focal, scored: Scored) -> Rows:
    label, weight = known_labels(scored.label, scored.weight)
    logit = tf.where(label > 0, scored.score, -scored.score)  # of the label's own probability
    return tf.sigmoid(-logit) ** settings.gamma * tf.math.softplus(-logit), weight


# The class was registered when it was defined. The suite's other tests list the project's own kinds.
REGISTERED = LossKind.choices.pop("focal")


@pytest.fixture(autouse=True)
def _focal_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LossKind.choices, "focal", REGISTERED)


def _expected(gamma: float, score: np.ndarray, label: np.ndarray) -> np.ndarray:
    p = 1 / (1 + np.exp(-score.astype(float)))
    own = np.where(label > 0, p, 1 - p)
    return -((1 - own) ** gamma) * np.log(own)


def test_it_is_chosen_by_its_kind():
    loss = Train.model_validate({"loss": {"kind": "focal", "gamma": 2}}).loss
    assert isinstance(loss, Focal)
    assert loss.gamma == 2
    assert loss.is_pointwise
    assert not loss.reads_candidates


def test_its_name_alone_means_its_defaults_and_a_dump_reads_back():
    train = Train.model_validate({"loss": "focal"})
    assert train.loss == Focal(gamma=2.0)
    assert train.model_dump()["loss"]["gamma"] == 2.0
    assert Train.model_validate_json(train.model_dump_json()) == train


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"kind": "focal", "gama": 1}, r"unknown key 'gama' \(did you mean 'gamma'\?\)"),
        ({"kind": "focal", "gamma": -1}, "greater than or equal to 0"),
        ({"kind": "focla"}, r"found 'focla' \(did you mean 'focal'\?\)"),
    ],
)
def test_its_settings_are_checked_as_those_of_other_losses(loss: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        Train.model_validate({"loss": loss})


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_its_losses_and_gradients(gamma: float):
    values, label = np.float32([-2, 0, 1.5, 3]), np.float32([1, 0, 1, 0])
    score, keys = tf.Variable(values), tf.range(4, dtype=tf.int64)
    loss = Train.model_validate({"loss": {"kind": "focal", "gamma": gamma}}).loss
    with tf.GradientTape() as tape:
        losses, weights = loss.build(Scored(score, tf.constant(label), tf.ones(4), keys, keys))
    np.testing.assert_allclose(losses, _expected(gamma, values, label), rtol=1e-5)
    assert weights.numpy().tolist() == [1, 1, 1, 1]
    expected = slope(lambda x: float(_expected(gamma, x, label).sum()), values)
    np.testing.assert_allclose(tape.gradient(losses, score), expected, rtol=1e-4, atol=1e-5)
