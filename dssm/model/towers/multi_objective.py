"""Shared hidden layers, then a tower for each objective."""

from __future__ import annotations

from collections.abc import Sequence

from dssm.model.inputs import FeatureBlock
from dssm.model.towers import TowerContext, Vectors
from dssm.model.towers.dnn import hidden_layers, side_by_side
from dssm.model.towers.senet import reweighted
from dssm.sections.model import Dnn, MultiObjective, Senet


def build(settings: MultiObjective, features: Sequence[FeatureBlock], context: TowerContext) -> Vectors:
    """Builds a head for each objective over the last hidden layer of `shared`, whose projection is not built.

    Returns: {objective: (batch, width of the head)}.
    """
    shared = settings.shared
    assert isinstance(shared, Dnn)  # the settings' checks ask for it
    if isinstance(shared, Senet):
        features = reweighted(shared, features, context)
    hidden = FeatureBlock("shared", hidden_layers(shared, side_by_side(features, context), context))
    return {
        objective: settings.head.build([hidden], context.below(objective, "head", objectives=(objective,)))[objective]
        for objective in context.objectives
    }
