"""Activations by name, those that Keras does not have among them."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from dssm.model.batch_norm import BatchNorm
from dssm.sections.model import Activation

LEAKY_SLOPE = 0.01  # Maas et al., ICML workshop 2013
INITIAL_SLOPE = 0.25  # of prelu and dice: He et al., ICCV 2015


def activation(kind: Activation, name: str, dtype: str | None = None) -> tf.keras.layers.Layer:
    """Returns the layer of an activation, from (batch, units) to (batch, units).

    `leaky_relu` has the slope 0.01 below 0; `gelu` is x Φ(x), not its approximation by tanh; `swish` is x σ(x).

    Args:
      dtype: that it computes in; None: by the mixed-precision policy.
    """
    if kind == "prelu":
        slope = tf.keras.initializers.Constant(INITIAL_SLOPE)
        return tf.keras.layers.PReLU(alpha_initializer=slope, name=name, dtype=dtype)
    if kind == "dice":
        return Dice(name=name, dtype=dtype)
    if kind == "leaky_relu":
        return tf.keras.layers.LeakyReLU(LEAKY_SLOPE, name=name, dtype=dtype)
    return tf.keras.layers.Activation(kind, name=name, dtype=dtype)


@tf.keras.utils.register_keras_serializable("dssm")
class Dice(tf.keras.layers.Layer):
    """p x + (1 − p) α x with p = σ((x − E x) / √(Var x + 10⁻⁸)) and a learned α for each unit.

    Source: Zhou et al., KDD 2018. E and Var are those of `BatchNorm`: of all ranks' real rows in training, moving
    averages in inference.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm = BatchNorm(epsilon=1e-8, affine=False, name=f"{self.name}_norm", dtype=kwargs.get("dtype"))

    def build(self, shape: tf.TensorShape) -> None:
        slope = tf.keras.initializers.Constant(INITIAL_SLOPE)
        self.alpha = self.add_weight("alpha", (shape[-1],), initializer=slope)
        super().build(shape)

    def call(self, hidden: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Args: hidden (rows, units). Returns: (rows, units)."""
        kept = tf.sigmoid(self.norm(hidden, training=training))
        return hidden * (kept + (1 - kept) * self.alpha)
