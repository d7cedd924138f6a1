"""Numbers in the towers' weights, and multiply-adds of a row, from the settings alone.

Of kinds of towers and encoders that are not this project's own both are NaN: the plan says "not known".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dssm import encoders
from dssm.config import Settings
from dssm.features import AnyFeature, DenseFeat, SparseFeat, of_side
from dssm.sections import TowerKind, VectorTable
from dssm.sections.model import Cross, Dnn, Fm, MultiObjective, Parallel, Scorer, Senet

LEARNED_SLOPE = ("prelu", "dice")  # activations with a weight a unit


@dataclass(frozen=True)
class Cost:
    """weights: trained numbers. products: multiply-adds of a row, forward. NaN: not known."""

    weights: float = 0
    products: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.weights + other.weights, self.products + other.products)


UNKNOWN = Cost(math.nan, math.nan)


def dense(width: int, units: int, bias: bool = True) -> Cost:
    """Returns the cost of a dense layer.

    >>> dense(3, 2)
    Cost(weights=8, products=6)
    """
    return Cost(width * units + units * bias, width * units)


def total(costs: Sequence[Cost]) -> Cost:
    return sum(costs, Cost())


# Features --------------------------------------------------------------------------------------------------


def feature_cost(feature: AnyFeature, vectors: Mapping[str, VectorTable]) -> tuple[int, Cost]:
    """Returns the width of what a feature gives to its tower, and what that costs beside the look-up."""
    if isinstance(feature, SparseFeat):
        return feature.dim, Cost()
    if isinstance(feature, DenseFeat):
        if feature.pre_embed is None:
            return 1, Cost()
        width = vectors[feature.pre_embed].width
        if feature.projection is None:
            return width, Cost()
        return feature.projection, dense(width, feature.projection, bias=False)
    return feature.encoder.width(feature.dim), encoder_cost(feature.encoder, feature.dim, feature.maxlen)


def encoder_cost(encoder: encoders.EncoderKind, dim: int, entries: int) -> Cost:
    if isinstance(encoder, encoders.AttentionPooling):
        units = encoder.heads * encoder.units
        return Cost(dim * units + 2 * units, entries * (dim * units + units + encoder.heads * dim))
    if isinstance(encoder, encoders.Cnn):
        once = dense(encoder.window * dim, encoder.filters)
        return Cost(once.weights, entries * once.products)
    if isinstance(encoder, (encoders.Lstm, encoders.Gru)):
        gates, biases = (4, 1) if isinstance(encoder, encoders.Lstm) else (3, 2)
        units = encoder.units
        return Cost(gates * units * (dim + units + biases), entries * gates * units * (dim + units))
    if isinstance(encoder, encoders.Transformer):
        attention = 4 * (dim * dim + dim)
        forward = dense(dim, encoder.hidden) + dense(encoder.hidden, dim)
        block = attention + forward.weights + 4 * dim
        products = entries * (4 * dim * dim + forward.products) + 2 * entries**2 * dim
        return Cost(entries * dim + 2 * dim + encoder.blocks * block, encoder.blocks * products)
    return Cost() if isinstance(encoder, encoders.Pooling) else UNKNOWN


# Towers ----------------------------------------------------------------------------------------------------


def side_cost(settings: Settings, side: str) -> Cost:
    """Returns the cost of a side's tower, its features' encoders included."""
    found = [feature_cost(f, settings.vectors) for f in of_side(settings.features, side)]  # type: ignore[arg-type]
    tower = settings.model.user_tower if side == "user" else settings.model.item_tower
    objectives = len(settings.model.all_objectives)
    made = tower_cost(tower, [width for width, _ in found], settings.model.vector_dim, objectives)
    return made + total([cost for _, cost in found])


def tower_cost(tower: TowerKind, widths: Sequence[int], vector_dim: int, objectives: int) -> Cost:
    """Args: widths: of the features that it takes."""
    width = sum(widths)
    if isinstance(tower, Dnn):
        hidden, last = hidden_cost(tower, widths)
        slope = vector_dim if tower.last_activation in LEARNED_SLOPE else 0
        return hidden + dense(last, vector_dim) + Cost(slope)
    if isinstance(tower, Fm):
        made = tower.width(vector_dim)
        return total([dense(each, made, bias=False) for each in widths if each != made])
    if isinstance(tower, Cross):
        layer = dense(width, width)
        if tower.rank is not None:
            layer = dense(width, tower.rank, bias=False) + dense(tower.rank, width)
        return total([layer] * tower.depth) + dense(width, vector_dim)
    if isinstance(tower, Parallel):
        return total([tower_cost(channel, widths, vector_dim, objectives) for channel in tower.channels.values()])
    if isinstance(tower, MultiObjective):
        assert isinstance(tower.shared, Dnn)
        hidden, last = hidden_cost(tower.shared, widths)
        return hidden + total([tower_cost(tower.head, [last], vector_dim, 1)] * objectives)
    return UNKNOWN


def hidden_cost(tower: Dnn, widths: Sequence[int]) -> tuple[Cost, int]:
    """Returns the cost of the hidden layers, and the width of the last one."""
    cost, width = Cost(), sum(widths)
    if isinstance(tower, Senet):
        units = math.ceil(len(widths) / tower.reduction)
        cost += Cost(2 * len(widths) * units, 2 * len(widths) * units)
    kinds = (tower.activation,) * len(tower.layers) if isinstance(tower.activation, str) else tower.activation
    for units, kind in zip(tower.layers, kinds, strict=True):
        cost += dense(width, units) + Cost(units * (2 * tower.batch_norm + (kind in LEARNED_SLOPE)))
        width = units
    return cost, width


def model_weights(settings: Settings) -> float:
    """Returns the trained numbers beside the embeddings' tables, of all that a training learns."""
    model, objectives = settings.model, settings.model.all_objectives
    losses = [objective.loss or settings.train.loss for objective in objectives.values()]
    biases = sum(loss.is_pointwise for loss in losses) if model.score_bias else 0
    learned = len(objectives) if model.objective_weights == "uncertainty" else 0
    scorer = scorer_cost(model.scorer, model.user_tower.width(model.vector_dim)).weights if model.scorer else 0
    return side_cost(settings, "user").weights + side_cost(settings, "item").weights + biases + learned + scorer


def scorer_cost(scorer: Scorer, vector: int) -> Cost:
    """Of a head over u, v, u∘v and |u − v|."""
    cost, width = Cost(), 4 * vector
    for units in scorer.layers if scorer.kind == "shallow" else ():
        cost, width = cost + dense(width, units), units
    return cost + dense(width, 1)
