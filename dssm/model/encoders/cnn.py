"""A convolution over the entries, then the maximum."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from dssm.encoders import Cnn as CnnSettings
from dssm.model.encoders.entries import Order, sorted_entries, zero_where_empty


def build(settings: CnnSettings, dim: int, name: str) -> Cnn:
    return Cnn(settings.filters, settings.window, settings.activation, settings.order, name=name)


@tf.keras.utils.register_keras_serializable("dssm")
class Cnn(tf.keras.layers.Layer):
    """The maximum over a list's windows of f(W [e₁; …; eₖ] + b) (Shen et al., CIKM 2014).

    There is a window around each entry, from ⌊(k − 1) / 2⌋ older to ⌊k / 2⌋ newer ones; places beyond the list's ends
    are zeros, and padding inside a list is no place of it. An empty list gives zeros.

    Args:
      filters: rows of W, the width of the vector.
      window: k.
      activation: f, tanh or relu.
      order: the order that the lists are stored in.
    """

    def __init__(self, filters: int, window: int, activation: str, order: Order, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.window, self.activation, self.order = filters, window, activation, order
        self.convolution = tf.keras.layers.Conv1D(
            filters, window, padding="same", activation=activation, name="convolution"
        )

    def call(self, embeddings: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
        """Args: embeddings (batch, entries, dim); ids, weights (batch, entries). Returns: (batch, filters)."""
        entries, real = sorted_entries(embeddings, ids, weights, self.order, "newest_last")
        windows = self.convolution(entries)
        largest = tf.reduce_max(tf.where(real[:, :, None], windows, windows.dtype.min), axis=1)
        return zero_where_empty(largest, real)

    def get_config(self) -> dict[str, Any]:
        own = {"filters": self.filters, "window": self.window, "activation": self.activation, "order": self.order}
        return {**super().get_config(), **own}
