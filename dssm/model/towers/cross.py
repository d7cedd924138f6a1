"""A cross network over the features side by side."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from dssm.model.inputs import FeatureBlock
from dssm.model.towers import TowerContext, Vectors
from dssm.model.towers.dnn import dense, scaled, side_by_side
from dssm.sections.model import Cross


def build(settings: Cross, features: Sequence[FeatureBlock], context: TowerContext) -> Vectors:
    """Crosses the features `depth` times, and projects what comes out.

    Returns: {objective: (batch, vector_dim)}: the same vector for all of the context's objectives.
    """
    base = side_by_side(features, context)
    crossed = base
    for number in range(1, settings.depth + 1):
        crossed = _cross_layer(settings, base, crossed, number, context)
    vector = dense(crossed, context.vector_dim, "projection", context, settings.l2, dtype="float32")
    return dict.fromkeys(context.objectives, scaled(vector, context))


def _cross_layer(settings: Cross, base: tf.Tensor, crossed: tf.Tensor, number: int, context: TowerContext) -> tf.Tensor:
    """x₀ ∘ (W x + b) + x, with W = U V of `rank` where that is set (Wang et al., WWW 2021, eq. 1 and 2).

    Args: base x₀, crossed x (batch, width). Returns: (batch, width).
    """
    narrow = crossed
    if settings.rank is not None:
        narrow = dense(crossed, settings.rank, f"narrow_{number}", context, settings.l2, bias=False)
    made = dense(narrow, base.shape[-1], f"cross_{number}", context, settings.l2)
    product = tf.keras.layers.Multiply(name=f"{context.name}.product_{number}")([base, made])
    return tf.keras.layers.Add(name=f"{context.name}.crossed_{number}")([product, crossed])
