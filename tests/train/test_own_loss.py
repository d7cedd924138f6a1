"""A loss of one's own in a training's step: its builder must give a loss and a weight of each row."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import tensorflow as tf

from dssm.errors import UserError
from dssm.model.losses import Rows, Scored
from dssm.sections import LossKind
from dssm.train.step import make_optimizer, make_step
from tests.datasets import make_rows, make_settings
from tests.train.tiny import make_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("single_rank")]

MADE = {
    "column": lambda losses, weights: (losses[:, None], weights),
    "columns": lambda losses, weights: (losses[:, None], weights[:, None]),
    "mean": lambda losses, weights: (tf.reduce_mean(losses), weights),
    "fewer": lambda losses, weights: (losses[1:], weights),
    "unknown": lambda losses, weights: (tf.boolean_mask(losses, weights > 0), tf.boolean_mask(weights, weights > 0)),
}


class Shaped(LossKind):
    """The squared error in a shape that is asked for; without a default name it is none of the choices."""

    builder: ClassVar[str] = f"{__name__}:shaped_rows"
    kind: str = ""
    made: str


def shaped_rows(settings: Shaped, scored: Scored) -> Rows:
    return MADE[settings.made](tf.square(scored.score - scored.label), scored.weight)


def _loss_of_a_step(made: str, **model: Any) -> float:
    settings = make_settings("unused", loss=Shaped(kind="shaped", made=made), model=model)
    trained = make_model(settings)
    step = make_step(settings, trained, make_optimizer(settings.train, 20, trained))
    batch = {name: tf.constant(values) for name, values in make_rows(settings, 8).items()}
    return float(step(batch, {})["loss"])


@pytest.mark.parametrize(
    ("made", "found"),
    [
        ("column", "losses (8, 1) and weights (8,)"),
        ("columns", "losses (8, 1) and weights (8, 1)"),
        ("mean", "losses () and weights (8,)"),
        ("fewer", "losses (7,) and weights (8,)"),
    ],
)
def test_losses_and_weights_that_are_not_of_the_rows_are_refused(made: str, found: str) -> None:
    expected = f"the builder of shaped made {found}; expected (rows,) of both, equally many"
    with pytest.raises(UserError) as caught:
        _loss_of_a_step(made)
    assert str(caught.value) == f"train.loss: {expected}"
    with pytest.raises(UserError) as caught:
        _loss_of_a_step(made, objectives={"opened": {"loss": Shaped(kind="shaped", made=made)}})
    assert str(caught.value) == f"model.objectives.opened.loss: {expected}"


def test_rows_whose_number_is_not_known_before_the_step_are_taken() -> None:
    assert _loss_of_a_step("unknown") > 0
