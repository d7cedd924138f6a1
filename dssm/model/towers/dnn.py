"""Dense layers over the features side by side; what other towers share of it."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from dssm.checks import check_residual
from dssm.model.activations import activation
from dssm.model.batch_norm import BatchNorm
from dssm.model.inputs import FeatureBlock
from dssm.model.layers import UnitNorm, initial_kernel
from dssm.model.randomness import Dropout
from dssm.model.towers import TowerContext, Vectors
from dssm.sections.model import Dnn


def build(settings: Dnn, features: Sequence[FeatureBlock], context: TowerContext) -> Vectors:
    """Returns {objective: (batch, vector_dim)}: the same vector for all of the context's objectives."""
    vector = projected(settings, hidden_layers(settings, side_by_side(features, context), context), context)
    return dict.fromkeys(context.objectives, vector)


def side_by_side(features: Sequence[FeatureBlock], context: TowerContext) -> tf.Tensor:
    """Joins the features' vectors: (batch, Σ width)."""
    vectors = [block.vector for block in features]
    return vectors[0] if len(vectors) == 1 else tf.keras.layers.Concatenate(name=f"{context.name}.features")(vectors)


def dense(
    hidden: tf.Tensor,
    units: int,
    name: str,
    context: TowerContext,
    l2: float,
    deviation: float | None = None,
    *,
    bias: bool = True,
    dtype: str | None = None,
) -> tf.Tensor:
    """A dense layer without activation.

    Args:
      hidden: (batch, width).
      units: rows of the kernel W.
      name: the layer's, behind the tower's.
      l2: λ of the penalty λ‖W‖².
      deviation: of the initial kernel, see `initial_kernel`.
      bias: whether there is one.
      dtype: that it computes in; None: by the mixed-precision policy.
    Returns: (batch, units).
    """
    layer = tf.keras.layers.Dense(
        units,
        use_bias=bias,
        kernel_initializer=initial_kernel(deviation),
        name=f"{context.name}.{name}",
        dtype=dtype,
    )
    made = layer(hidden)
    if l2:
        context.penalties.append((layer.kernel, l2))
    return made


def hidden_layers(settings: Dnn, hidden: tf.Tensor, context: TowerContext) -> tf.Tensor:
    """Args: hidden (batch, width). Returns: (batch, width of the last of `layers`)."""
    kinds = settings.activation
    of_each = (kinds,) * len(settings.layers) if isinstance(kinds, str) else kinds
    for number, (width, kind) in enumerate(zip(settings.layers, of_each, strict=True), start=1):
        hidden = dense(hidden, width, f"dense_{number}", context, settings.l2, settings.initial_deviation)
        if settings.batch_norm:
            hidden = BatchNorm(name=f"{context.name}.norm_{number}")(hidden)
        hidden = activation(kind, f"{context.name}.{kind}_{number}")(hidden)
        if settings.dropout:
            hidden = Dropout(settings.dropout, name=f"{context.name}.dropout_{number}")(hidden)
    return hidden


def projected(settings: Dnn, hidden: tf.Tensor, context: TowerContext) -> tf.Tensor:
    """Projects the last hidden layer to the vector, adds what `residual` names, and scales to unit norm.

    Args: hidden (batch, width). Returns: (batch, vector_dim).
    """
    vector = dense(
        hidden, context.vector_dim, "projection", context, settings.l2, settings.initial_deviation, dtype="float32"
    )
    if settings.last_activation != "linear":
        last = activation(settings.last_activation, f"{context.name}.{settings.last_activation}", dtype="float32")
        vector = last(vector)
    if settings.residual:
        added = [_residual(name, context) for name in settings.residual]
        vector = tf.keras.layers.Add(name=f"{context.name}.residual", dtype="float32")([vector, *added])
    return scaled(vector, context)


def _residual(name: str, context: TowerContext) -> tf.Tensor:
    widths = {feature: block.width for feature, block in context.features.items()}
    check_residual(f"{context.setting}.residual", name, widths, context.vector_dim)
    return context.features[name].vector


def scaled(vector: tf.Tensor, context: TowerContext) -> tf.Tensor:
    """Gives vectors their last form: float32, and of unit norm where the similarity is cosine.

    Args, returns: (batch, width).
    """
    if context.unit_norm:
        return UnitNorm(name=f"{context.name}.vector", dtype="float32")(vector)
    return tf.keras.layers.Activation("linear", name=f"{context.name}.vector", dtype="float32")(vector)
