"""Attention pooling: a weighted mean of the entries, with learned weights."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from dssm.encoders import AttentionPooling as AttentionSettings
from dssm.model.encoders.entries import real_entries, scaled_entries


def build(settings: AttentionSettings, dim: int, name: str) -> AttentionPooling:
    return AttentionPooling(settings.units, settings.heads, name=name)


@tf.keras.utils.register_keras_serializable("dssm")
class AttentionPooling(tf.keras.layers.Layer):
    """Σ a e over a list's entries, where a is the softmax over them of vᵀ tanh(W e + b) (Yang et al., NAACL 2016).

    Each head has its own W, b and v. An entry's weight scales its embedding e. An empty list gives zeros.

    Args:
      units: rows of W.
      heads: poolings side by side.
    """

    def __init__(self, units: int, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.heads = units, heads

    def build(self, shape: tf.TensorShape) -> None:
        self.kernel = self.add_weight("kernel", (shape[-1], self.heads * self.units))
        self.bias = self.add_weight("bias", (self.heads * self.units,), initializer="zeros")
        self.query = self.add_weight("query", (self.units, self.heads))
        super().build(shape)

    def call(self, embeddings: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
        """Args: embeddings (batch, entries, dim); ids, weights (batch, entries). Returns: (batch, heads · dim)."""
        entries, real = scaled_entries(embeddings, ids, weights), real_entries(ids)[:, :, None]
        hidden = tf.tanh(tf.tensordot(entries, self.kernel, 1) + self.bias)
        of_heads = tf.reshape(hidden, [-1, tf.shape(ids)[1], self.heads, self.units])
        scores = tf.cast(tf.einsum("behu,uh->beh", of_heads, self.query), tf.float32)
        shares = tf.where(real, tf.nn.softmax(tf.where(real, scores, scores.dtype.min), axis=1), 0.0)
        pooled = tf.einsum("beh,bed->bhd", tf.cast(shares, entries.dtype), entries)
        return tf.reshape(pooled, [-1, self.heads * embeddings.shape[-1]])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units, "heads": self.heads}
