"""Adagrad with one operation a variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


@tf.keras.utils.register_keras_serializable("dssm")
class FusedAdagrad(tf.keras.optimizers.Adagrad):
    """Keras' Adagrad, whose update of a variable is one of TensorFlow's own operations.

    Keras' four operations a variable cost as much as all matrices of a small batch. Those of TensorFlow know no ε under
    the root: a ← a + g²; v ← v − learning_rate · g / √(a + ε) is theirs for a + ε, so that is what is kept.
    """

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        tf.keras.optimizers.Optimizer.build(self, var_list)
        if getattr(self, "_built", False):
            return
        self._accumulators = [self._accumulator(variable) for variable in var_list]
        self._built = True

    def _accumulator(self, variable: tf.Variable) -> tf.Variable:
        initial = tf.fill(variable.shape, tf.cast(self.initial_accumulator_value + self.epsilon, variable.dtype))
        return self.add_variable_from_reference(variable, "accumulator", initial_value=initial)

    def update_step(self, gradient: Any, variable: tf.Variable) -> None:
        """Moves one variable. The rows of a sparse gradient must be unique: `apply_gradients` sees to it."""
        accumulator = self._accumulators[self._index_dict[self._var_key(variable)]]
        rate = tf.cast(self.learning_rate, variable.dtype)
        if isinstance(gradient, tf.IndexedSlices):
            tf.raw_ops.ResourceSparseApplyAdagrad(
                var=variable.handle,
                accum=accumulator.handle,
                lr=rate,
                grad=gradient.values,
                indices=gradient.indices,
            )
        else:
            tf.raw_ops.ResourceApplyAdagrad(var=variable.handle, accum=accumulator.handle, lr=rate, grad=gradient)
