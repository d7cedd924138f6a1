"""Layers that Keras does not have. One layer, one idea."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from dssm.features import PADDING_ID
from dssm.model.randomness import uniform


@tf.keras.utils.register_keras_serializable("dssm")
class Pooling(tf.keras.layers.Layer):
    """Combines the embeddings of a list into one; padding never counts.

    With entries' weights w (1 where none are given) and embeddings e (or pretrained vectors, whose code 0 is
    padding as well): sum is Σwe; mean is Σwe / Σw;
    sqrtn is Σwe / √Σw²; max is the largest we in each dimension. An empty list gives zeros.
    """

    def __init__(self, combiner: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.combiner = combiner

    def call(self, embeddings: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
        """Args: embeddings (batch, entries, dim); ids, weights (batch, entries). Returns: (batch, dim)."""
        real = tf.cast(tf.not_equal(ids, PADDING_ID), embeddings.dtype)
        scale = real if weights is None else real * tf.cast(weights, real.dtype)
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
class FrozenVectors(tf.keras.layers.Layer):
    """A table of pretrained vectors that training never changes: code 0 is no vector, code r + 1 is its row r.

    A variable and not a constant: a SavedModel's graph, with the constants in it, holds at most 2 GB.
    """

    def __init__(self, rows: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows, self.width = rows, width
        self.table = self.add_weight(
            f"{self.name}/table", (rows + 1, width), tf.float32, "zeros", trainable=False, experimental_autocast=False
        )

    @classmethod
    def of(cls, matrix: np.ndarray, **kwargs: Any) -> FrozenVectors:
        """Returns a layer that holds the matrix, (rows, width)."""
        rows, width = matrix.shape
        layer = cls(rows, width, **kwargs)
        layer.table[1:].assign(matrix)
        return layer

    def call(self, codes: tf.Tensor) -> tf.Tensor:
        """Args: codes (batch, …) int32, 0…rows. Returns: (batch, …, width) float32."""
        return tf.gather(self.table, codes)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rows": self.rows, "width": self.width}


@tf.keras.utils.register_keras_serializable("dssm")
class UnitNorm(tf.keras.layers.Layer):
    """Scales each vector to length 1, so that the inner product is the cosine.

    Zeros stay zeros, without a gradient: it would be 10⁶ times its upstream's, and one row whose features are all empty
    would outweigh the batch.
    """

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Args: vectors (batch, dim). Returns: (batch, dim)."""
        unit = tf.math.l2_normalize(vectors, axis=-1, epsilon=1e-12)
        is_zero = tf.reduce_all(tf.equal(vectors, 0), axis=-1, keepdims=True)
        return tf.where(is_zero, tf.stop_gradient(unit), unit)


@tf.keras.utils.register_keras_serializable("dssm")
class SqueezeExcitation(tf.keras.layers.Layer):
    """Re-weights features: x ← aᵢ xᵢ with a = relu(W₂ relu(W₁ z)), zᵢ the mean of xᵢ (Huang et al., RecSys 2019).

    Args:
      units: rows of W₁.
      deviation: of the initial kernels, normal; None: uniform by fan-in and fan-out (Glorot).
    """

    def __init__(self, units: int, deviation: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.deviation = units, deviation

    def build(self, shapes: list[tf.TensorShape]) -> None:
        features = len(shapes)
        self.squeeze = self.add_weight("squeeze", (features, self.units), initializer=initial_kernel(self.deviation))
        self.excite = self.add_weight("excite", (self.units, features), initializer=initial_kernel(self.deviation))
        super().build(shapes)

    def call(self, vectors: list[tf.Tensor]) -> list[tf.Tensor]:
        """Args: vectors, of each feature (batch, its width). Returns: as given."""
        means = tf.stack([tf.reduce_mean(vector, axis=1) for vector in vectors], axis=1)
        factors = tf.nn.relu(tf.matmul(tf.nn.relu(tf.matmul(means, self.squeeze)), self.excite))
        return [vector * factor for vector, factor in zip(vectors, tf.split(factors, len(vectors), 1), strict=True)]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units, "deviation": self.deviation}


def initial_kernel(deviation: float | None) -> tf.keras.initializers.Initializer:
    """Returns what draws a kernel: normal of this deviation; None: uniform by fan-in and fan-out (Glorot)."""
    if deviation is None:
        return tf.keras.initializers.GlorotUniform()
    return tf.keras.initializers.RandomNormal(stddev=deviation)


@tf.keras.utils.register_keras_serializable("dssm")
class EntryDropout(tf.keras.layers.Layer):
    """Leaves entries of a list out in training, each with probability `rate`: their ids become padding."""

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, ids: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Args: ids (batch, entries) int32. Returns: (batch, entries)."""
        if not training:
            return ids
        return tf.where(uniform(tf.shape(ids)) < self.rate, PADDING_ID, ids)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}
