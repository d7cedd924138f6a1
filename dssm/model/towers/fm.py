"""The part of a factorization machine between the two sides."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from dssm.model.inputs import FeatureBlock
from dssm.model.towers import TowerContext, Vectors
from dssm.model.towers.dnn import dense, scaled
from dssm.sections.model import Fm


def build(settings: Fm, features: Sequence[FeatureBlock], context: TowerContext) -> Vectors:
    """Sums the features' vectors; one of another width is projected first, without a bias.

    Returns: {objective: (batch, dim)}: the same vector for all of the context's objectives.
    """
    width = settings.width(context.vector_dim)
    parts = [
        block.vector
        if block.width == width
        else dense(block.vector, width, f"projection_{block.name}", context, settings.l2, bias=False, dtype="float32")
        for block in features
    ]
    total = parts[0]
    if len(parts) > 1:
        total = tf.keras.layers.Add(name=f"{context.name}.sum", dtype="float32")(parts)
    return dict.fromkeys(context.objectives, scaled(total, context))
