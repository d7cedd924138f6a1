"""Lists of ids to one embedding each, without the embeddings of the entries in between."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled

from dssm.features import PADDING_ID
from dssm.model.sharded import Table, look_up


def has_sparse_product() -> bool:
    """Whether a sparse matrix can be multiplied: TensorFlow 2.15 refuses it on a GPU under `train.deterministic`."""
    return not (is_op_determinism_enabled() and tf.config.list_logical_devices("GPU"))


@tf.keras.utils.register_keras_serializable("dssm")
class EmbeddingBag(tf.keras.layers.Layer):
    """The embedding's rows and `Pooling` by sum, mean or sqrtn in one: a sparse matrix times the rows looked up.

    Each id of the batch is looked up once, so the gradient of the table holds each row once, and neither pass makes
    the (batch, entries, dim) embeddings: but for those of the real entries where there is no sparse product.

    Args:
      embedding: the table; it may be other layers' too.
      combiner: sum, mean or sqrtn.
    """

    def __init__(self, embedding: Table, combiner: str, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)  # sums of long lists need the digits
        if combiner not in ("sum", "mean", "sqrtn"):
            raise ValueError(f"combiner: found {combiner!r}, expected sum, mean or sqrtn")
        if not embedding.built:
            with tf.name_scope(embedding.name):  # as calling it would name its variable
                embedding.build(())
        self.embedding, self.combiner = embedding, combiner

    def call(self, ids: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
        """Args: ids, weights (batch, entries). Returns: (batch, dim)."""
        places = tf.where(tf.not_equal(ids, PADDING_ID))  # (real entries, 2): row, entry
        unique, column = tf.unique(tf.gather_nd(ids, places))
        rows = look_up(self.embedding, unique)
        scale = tf.ones_like(column, tf.float32) if weights is None else tf.gather_nd(weights, places)
        shape = tf.stack([tf.shape(ids, tf.int64)[0], tf.size(unique, tf.int64)])
        if has_sparse_product():
            bags = tf.SparseTensor(tf.stack([places[:, 0], tf.cast(column, tf.int64)], axis=1), scale, shape)
            total = tf.sparse.sparse_dense_matmul(bags, rows)
        else:
            total = tf.math.unsorted_segment_sum(tf.gather(rows, column) * scale[:, None], places[:, 0], shape[0])
        if self.combiner == "sum":
            return total
        real = tf.cast(tf.not_equal(ids, PADDING_ID), tf.float32)
        of_entry = real if weights is None else real * weights
        if self.combiner == "mean":
            return tf.math.divide_no_nan(total, tf.reduce_sum(of_entry, axis=1, keepdims=True))
        return tf.math.divide_no_nan(total, tf.norm(of_entry, axis=1, keepdims=True))

    def get_config(self) -> dict[str, Any]:
        embedding = tf.keras.layers.serialize(self.embedding)
        return {**super().get_config(), "embedding": embedding, "combiner": self.combiner}
