"""Adagrad with one number of state for each row of an embedding's table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from dssm.model.optimizers.fused_adagrad import FusedAdagrad
from dssm.model.optimizers.schedules import LearningRate
from dssm.sections.optimizers import RowWiseAdagrad as RowWiseAdagradSettings


def build(settings: RowWiseAdagradSettings, learning_rate: LearningRate) -> RowWiseAdagrad:
    return RowWiseAdagrad(
        learning_rate,
        initial_accumulator_value=settings.initial_accumulator,
        epsilon=settings.epsilon,
        jit_compile=False,
    )


@tf.keras.utils.register_keras_serializable("dssm")
class RowWiseAdagrad(FusedAdagrad):
    """Adagrad whose accumulator holds, for a row of a table, the sum over steps of the mean of g² over the row.

    a ← a + mean(g²); row ← row − learning_rate · g / √(a + ε): FBGEMM's and DLRM's exact row-wise Adagrad, with ε
    under the root as in Keras' Adagrad, which it equals for tables of width 1. Tables are named by `row_wise`, before
    the state is made; it does not matter whether their gradients come sparse or dense. For other variables it is
    Adagrad.
    """

    _table_keys: frozenset[str] = frozenset()

    def row_wise(self, tables: Iterable[tf.Variable]) -> None:
        """Names the variables with an accumulator a row, each (rows, dim).

        Raises:
          ValueError: the state has been made already, or a variable is no matrix.
        """
        tables = list(tables)
        if getattr(self, "_built", False):
            raise ValueError("row_wise: the optimizer has its state already; name the tables before build")
        for table in tables:
            if table.shape.rank != 2:
                raise ValueError(f"row_wise: {table.name} has the shape {table.shape}; expected (rows, dim)")
        self._table_keys = frozenset(self._var_key(table) for table in tables)

    def _accumulator(self, variable: tf.Variable) -> tf.Variable:
        if self._var_key(variable) not in self._table_keys:
            return super()._accumulator(variable)
        initial = tf.fill(variable.shape[:1], tf.cast(self.initial_accumulator_value, variable.dtype))
        return self.add_variable_from_reference(variable, "accumulator", initial_value=initial)

    def update_step(self, gradient: Any, variable: tf.Variable) -> None:
        """Moves one variable. The rows of a sparse gradient must be unique: `apply_gradients` sees to it."""
        key = self._var_key(variable)
        if key not in self._table_keys:
            super().update_step(gradient, variable)
            return
        accumulator = self._accumulators[self._index_dict[key]]
        if not isinstance(gradient, tf.IndexedSlices):
            accumulator.assign_add(_row_means(gradient))
            variable.assign_sub(self._moves(gradient, accumulator))
            return
        rows = gradient.indices
        accumulator.scatter_add(tf.IndexedSlices(_row_means(gradient.values), rows))
        moves = self._moves(gradient.values, tf.gather(accumulator, rows))
        variable.scatter_sub(tf.IndexedSlices(moves, rows))

    def _moves(self, slopes: tf.Tensor, accumulated: tf.Tensor) -> tf.Tensor:
        """Args: slopes (rows, dim); accumulated (rows,). Returns: (rows, dim)."""
        rate = tf.cast(self.learning_rate, slopes.dtype)
        return rate * slopes / tf.sqrt(accumulated + self.epsilon)[:, None]


def _row_means(slopes: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.square(slopes), axis=1)
