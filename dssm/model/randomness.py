"""Random numbers of a training step that depend on its number alone, so that a resumed training draws the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import tensorflow as tf


class _Source:
    """Counts the draws while a step is traced: the layers' order is the same in every trace."""

    def __init__(self, seed: tf.Tensor) -> None:
        self._seed, self._draws = seed, 0

    def next(self) -> tf.Tensor:
        self._draws += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._draws)


_SOURCE: ContextVar[_Source | None] = ContextVar("randomness_of_step", default=None)


@contextmanager
def randomness_of_step(seed: int, rank: int, step: tf.Tensor) -> Iterator[None]:
    """Says what the layers that are called, or traced, inside draw from. Without it they draw from TensorFlow's state.

    Args: seed: of the run; rank: each draws other numbers; step: scalar int64.
    """
    of_rank = tf.random.experimental.stateless_fold_in(tf.constant([seed, 0], tf.int64), rank)
    token = _SOURCE.set(_Source(tf.random.experimental.stateless_fold_in(of_rank, step)))
    try:
        yield
    finally:
        _SOURCE.reset(token)


def uniform(shape: tf.Tensor) -> tf.Tensor:
    """Returns float32 in [0, 1)."""
    source = _SOURCE.get()
    return tf.random.uniform(shape) if source is None else tf.random.stateless_uniform(shape, source.next())


@tf.keras.utils.register_keras_serializable("dssm")
class Dropout(tf.keras.layers.Layer):
    """Sets each number to 0 with probability `rate` in training, and scales the others by 1 / (1 − rate).

    Keras' own draws from a state inside the compiled step, which no checkpoint holds.
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate
        self.supports_masking = True

    def call(self, values: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Args: values of any shape. Returns: the same shape."""
        if not training or not self.rate:
            return values
        kept = uniform(tf.shape(values)) >= self.rate
        return tf.where(kept, values / tf.cast(1 - self.rate, values.dtype), tf.zeros((), values.dtype))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}
