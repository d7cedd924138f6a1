"""Features re-weighted by squeeze and excitation, then dense layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dssm.model.inputs import FeatureBlock
from dssm.model.layers import SqueezeExcitation
from dssm.model.towers import TowerContext, Vectors, dnn
from dssm.sections.model import Senet


def build(settings: Senet, features: Sequence[FeatureBlock], context: TowerContext) -> Vectors:
    """Returns {objective: (batch, vector_dim)}: the same vector for all of the context's objectives."""
    return dnn.build(settings, reweighted(settings, features, context), context)


def reweighted(settings: Senet, features: Sequence[FeatureBlock], context: TowerContext) -> list[FeatureBlock]:
    """Multiplies each feature by the factor that `SqueezeExcitation` gives it; both kernels are penalised."""
    units = math.ceil(len(features) / settings.reduction)
    layer = SqueezeExcitation(units, settings.initial_deviation, name=f"{context.name}.senet", dtype="float32")
    vectors = layer([block.vector for block in features])
    if settings.l2:
        context.penalties.extend([(layer.squeeze, settings.l2), (layer.excite, settings.l2)])
    return [FeatureBlock(block.name, vector) for block, vector in zip(features, vectors, strict=True)]
