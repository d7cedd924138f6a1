"""The entries of lists, as encoders read them: scaled by their weights, padding out of the way."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

from dssm.features import PADDING_ID

Order = Literal["newest_first", "newest_last"]


def real_entries(ids: tf.Tensor) -> tf.Tensor:
    """Returns which entries are no padding, bool. Args: ids (batch, entries)."""
    return tf.not_equal(ids, PADDING_ID)


def scaled_entries(embeddings: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    """Scales each embedding by its weight, and those of padding to 0.

    Args: embeddings (batch, entries, dim); ids, weights (batch, entries). Returns: (batch, entries, dim).
    """
    if weights is not None:
        embeddings = embeddings * tf.cast(weights, embeddings.dtype)[:, :, None]
    return tf.where(real_entries(ids)[:, :, None], embeddings, tf.zeros([], embeddings.dtype))


def sorted_entries(
    embeddings: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor | None, stored: Order, wanted: Order
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scales the entries, and moves them so that the real ones stand first and padding behind them, wherever it was.

    Args:
      embeddings: (batch, entries, dim).
      ids, weights: (batch, entries).
      stored: the order that the lists are in.
      wanted: the order of the real entries returned.
    Returns: embeddings, (batch, entries, dim), zeros behind the real ones; which are real, (batch, entries) bool.
    """
    real, entries = real_entries(ids), tf.shape(ids)[1]
    place = tf.range(entries) if stored == wanted else -tf.range(entries)
    source = tf.argsort(tf.where(real, place[None, :], entries), axis=1, stable=True)
    moved = tf.gather(scaled_entries(embeddings, ids, weights), source, batch_dims=1)
    return moved, tf.gather(real, source, batch_dims=1)


def zero_where_empty(vectors: tf.Tensor, real: tf.Tensor) -> tf.Tensor:
    """Gives empty lists the zero vector.

    Args: vectors (batch, width); real (batch, entries) bool. Returns: (batch, width).
    """
    return tf.where(tf.reduce_any(real, axis=1, keepdims=True), vectors, tf.zeros([], vectors.dtype))
