"""What is trained: the towers, and what the losses learn beside them."""

from __future__ import annotations

import tensorflow as tf

from dssm.model.frequency import ItemFrequency
from dssm.model.objectives import ObjectiveWeights
from dssm.model.outputs import output_name
from dssm.model.scorer import build_scorer
from dssm.model.towers import TwoTowers
from dssm.report.card_parts import PredictionCard
from dssm.sections import LossKind, Model


class TwoTowerModel(tf.Module):
    """The towers with, for each objective, its loss and what that learns.

    Attributes:
      towers: both.
      losses: the loss of each objective.
      biases: of each objective with a pointwise loss, where model.score_bias is set: added to its scores.
      frequencies: of each objective whose loss asks for it, the streaming estimate; its state belongs to a
        checkpoint, but no gradient reaches it.
      weights: of the objectives' losses.
      scorer: over the first objective's vectors; None where the settings have none.
    """

    def __init__(self, model: Model, default: LossKind, towers: TwoTowers) -> None:
        super().__init__(name="two_tower")
        self.settings = model
        self.towers = towers
        self.user, self.item = towers.user, towers.item  # tf.Module finds variables in attributes, not in a dataclass
        self.losses: dict[str, LossKind] = {
            name: objective.loss or default for name, objective in model.all_objectives.items()
        }
        self.biases = {
            name: tf.Variable(0.0, name=f"bias_{name}")
            for name, loss in self.losses.items()
            if model.score_bias and loss.is_pointwise
        }
        self.frequencies = {
            name: ItemFrequency(loss.streaming) for name, loss in self.losses.items() if loss.streaming is not None
        }
        self.weights = ObjectiveWeights(model)
        width = towers.user.output[next(iter(self.losses))].shape[-1]
        self.scorer = None if model.scorer is None else build_scorer(model.scorer, width)

    @property
    def catalogue_rows(self) -> int:
        """Items of the catalogue that a rank draws uniformly for each step; an objective that asks for fewer takes the
        first of them.
        """
        return max(loss.catalogue_items for loss in self.losses.values())

    @property
    def predictions(self) -> dict[str, PredictionCard]:
        """What the exported vectors say of each objective."""
        return {name: self._prediction(name, loss) for name, loss in self.losses.items()}

    def _prediction(self, name: str, loss: LossKind) -> PredictionCard:
        settings, alone = self.settings, len(self.losses) == 1
        return PredictionCard(
            output=output_name(None if alone else name),
            similarity=settings.similarity,
            # Of an only objective the combined vectors alone are exported, its own times √share.
            temperature=settings.tau * (settings.all_objectives[name].share if alone else 1.0),
            bias=float(self.biases[name]) if name in self.biases else 0.0,
            activation="sigmoid" if loss.is_log_odds else loss.rating,
            prediction="probability" if loss.is_log_odds else None if loss.rating is None else "value",
        )
