"""Batch normalisation over the real rows of all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

Total = Callable[[tf.Tensor, str], tf.Tensor]


@dataclass(frozen=True)
class _Rows:
    real: tf.Tensor
    total: Total


_ROWS: ContextVar[_Rows | None] = ContextVar("rows_of_batch", default=None)


@contextmanager
def rows_of_batch(real: tf.Tensor, total: Total) -> Iterator[None]:
    """Says which rows count in the statistics of the towers that are called, or traced, inside.

    Without it all rows of this process count.

    Args:
      real: (rows,) bool, of the rows that the tower is called with: False is padding.
      total: sums a tensor over the ranks, under a name that is a layer's own. Its gradient must be that of one
        process with the joint batch: each rank's loss depends on the sum, so the gradient of a rank's summand is the
        sum of all ranks' gradients of the sum, an allreduce as well. A tower that is called twice in a step
        gives the same names twice: the caller tells them apart.
    """
    token = _ROWS.set(_Rows(real, total))
    try:
        yield
    finally:
        _ROWS.reset(token)


def batch_statistics(values: tf.Tensor, name: str) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Computes the statistics over the real rows of all ranks (`rows_of_batch`), in two passes and two sums.

    Args:
      values: (rows, units) float32; those of padding may be anything.
      name: of the sums, one for each layer.
    Returns: mean and population variance, (units,) each, and the number of real rows; zeros where there are none.
    """
    rows = _ROWS.get()
    real = tf.ones_like(values[:, :1], tf.bool) if rows is None else rows.real[:, None]
    total: Total = (lambda value, _: value) if rows is None else rows.total
    number = tf.reduce_sum(tf.cast(real, values.dtype), axis=0)
    sums = total(tf.concat([tf.reduce_sum(tf.where(real, values, 0), axis=0), number], axis=0), f"{name}_mean")
    number = sums[-1]
    divisor = tf.maximum(number, 1)
    mean = sums[:-1] / divisor
    # The variance's derivative by the mean is 0, as deviations sum to 0 over the ranks: without it the gradients of
    # both sums need not wait for each other.
    deviations = tf.where(real, values - tf.stop_gradient(mean), 0)
    variance = total(tf.reduce_sum(tf.square(deviations), axis=0), f"{name}_variance") / divisor
    return mean, variance, number


@tf.keras.utils.register_keras_serializable("dssm")
class BatchNorm(tf.keras.layers.Layer):
    """γ (x − E x) / √(Var x + ε) + β of each unit (Ioffe and Szegedy, ICML 2015).

    In training E and Var are of the real rows of all ranks (`batch_statistics`), whose moving averages stand for
    them in inference. They are float32, whatever the layer computes in, and the same on all ranks.

    Args:
      momentum: share of a moving average that stays at a step.
      epsilon: ε.
      affine: whether there are γ and β.
    """

    def __init__(self, momentum: float = 0.99, epsilon: float = 1e-3, affine: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.momentum, self.epsilon, self.affine = momentum, epsilon, affine

    def build(self, shape: tf.TensorShape) -> None:
        def vector(name: str, initializer: str, trainable: bool) -> tf.Variable:
            return self.add_weight(
                name, (shape[-1],), tf.float32, initializer, trainable=trainable, experimental_autocast=False
            )

        self.gamma = vector("gamma", "ones", True) if self.affine else None
        self.beta = vector("beta", "zeros", True) if self.affine else None
        self.moving_mean = vector("moving_mean", "zeros", False)
        self.moving_variance = vector("moving_variance", "ones", False)
        super().build(shape)

    def call(self, hidden: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Args: hidden (rows, units). Returns: (rows, units)."""
        values = tf.cast(hidden, tf.float32)
        if training:
            mean, variance, number = batch_statistics(values, self.name)
            self._move(mean, variance, number)
        else:
            mean, variance = tf.convert_to_tensor(self.moving_mean), tf.convert_to_tensor(self.moving_variance)
        normal = (values - mean) * tf.math.rsqrt(variance + self.epsilon)
        if self.affine:
            normal = normal * self.gamma + self.beta
        return tf.cast(normal, hidden.dtype)

    def _move(self, mean: tf.Tensor, variance: tf.Tensor, number: tf.Tensor) -> None:
        step = tf.where(number > 0, 1 - self.momentum, 0.0)
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign_add(step * (tf.stop_gradient(value) - average))

    def get_config(self) -> dict[str, Any]:
        own = {"momentum": self.momentum, "epsilon": self.epsilon, "affine": self.affine}
        return {**super().get_config(), **own}
