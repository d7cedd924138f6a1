"""Layers that Keras does not have. One layer, one idea."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from dssm.features import PADDING_ID


@tf.keras.utils.register_keras_serializable("dssm")
class Pooling(tf.keras.layers.Layer):
    """Combines the embeddings of a list into one; padding never counts.

    With entries' weights w (1 where none are given) and embeddings e: sum is Σwe; mean is Σwe / Σw;
    sqrtn is Σwe / √Σw²; max is the largest we in each dimension. An empty list gives zeros.
    """

    def __init__(self, combiner: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.combiner = combiner

    def call(self, embeddings: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
        """Args: embeddings (batch, entries, dim); ids, weights (batch, entries). Returns: (batch, dim)."""
        real = tf.cast(tf.not_equal(ids, PADDING_ID), embeddings.dtype)
        scale = real if weights is None else real * weights
        if self.combiner == "max":
            lowest = embeddings.dtype.min
            scaled = tf.where(real[:, :, None] > 0, embeddings * scale[:, :, None], lowest)
            largest = tf.reduce_max(scaled, axis=1)
            return tf.where(tf.reduce_any(real > 0, axis=1, keepdims=True), largest, tf.zeros_like(largest))
        total = tf.einsum("be,bed->bd", scale, embeddings)
        if self.combiner == "mean":
            return tf.math.divide_no_nan(total, tf.reduce_sum(scale, axis=1, keepdims=True))
        if self.combiner == "sqrtn":
            return tf.math.divide_no_nan(total, tf.norm(scale, axis=1, keepdims=True))
        return total

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "combiner": self.combiner}


@tf.keras.utils.register_keras_serializable("dssm")
class UnitNorm(tf.keras.layers.Layer):
    """Scales each vector to length 1, so that the inner product is the cosine."""

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Args: vectors (batch, dim). Returns: (batch, dim)."""
        return tf.math.l2_normalize(vectors, axis=-1, epsilon=1e-12)
