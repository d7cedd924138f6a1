"""The last state of an LSTM or a GRU."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from dssm.encoders import Gru, Lstm
from dssm.model.encoders.entries import Order, sorted_entries, zero_where_empty

_LAYERS = {"lstm": tf.keras.layers.LSTM, "gru": tf.keras.layers.GRU}


def build(settings: Lstm | Gru, dim: int, name: str) -> Recurrent:
    return Recurrent(settings.kind, settings.units, settings.order, name=name)


@tf.keras.utils.register_keras_serializable("dssm")
class Recurrent(tf.keras.layers.Layer):
    """Reads a list from its oldest entry to its newest; gives the state after the newest.

    Both are Keras' own, in the form that cuDNN computes: the GRU's reset gate acts after the matrix product,
    tanh(W e + b + r ∘ (U h + c)). An empty list gives zeros.

    Args:
      kind: lstm or gru.
      units: width of the state.
      order: the order that the lists are stored in.
    """

    def __init__(self, kind: str, units: int, order: Order, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind, self.units, self.order = kind, units, order
        self.recurrence = _LAYERS[kind](units, name=kind)

    def call(self, embeddings: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
        """Args: embeddings (batch, entries, dim); ids, weights (batch, entries). Returns: (batch, units)."""
        entries, real = sorted_entries(embeddings, ids, weights, self.order, "newest_last")
        return zero_where_empty(self.recurrence(entries, mask=real), real)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kind": self.kind, "units": self.units, "order": self.order}
