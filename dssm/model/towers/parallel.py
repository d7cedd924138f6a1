"""Towers side by side."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from dssm.model.inputs import FeatureBlock
from dssm.model.towers import TowerContext, Vectors
from dssm.sections.model import Parallel


def build(settings: Parallel, features: Sequence[FeatureBlock], context: TowerContext) -> Vectors:
    """Puts the channels' vectors one after another, each of unit norm by itself under cosine.

    The inner product of two such vectors is the sum of the channels' similarities.

    Returns: {objective: (batch, Σ width)}.
    """
    channels = [
        channel.build(features, context.below(name, f"channels.{name}")) for name, channel in settings.channels.items()
    ]
    return {
        objective: _joined([vectors[objective] for vectors in channels], f"{context.name}.channels_{objective}")
        for objective in context.objectives
    }


def _joined(vectors: Sequence[tf.Tensor], name: str) -> tf.Tensor:
    if len(vectors) == 1:
        return vectors[0]
    return tf.keras.layers.Concatenate(name=name, dtype="float32")(vectors)
