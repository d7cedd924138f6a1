"""Optimizers, learning rates by step, and what happens to gradients before they are applied.

A step gives `apply_gradients` a dense tensor, or for an embedding's table tf.IndexedSlices of the rows that the batch
looked up. Keras sums slices of the same row before the update, so each of these optimizers may count on unique rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from dssm.model.optimizers.schedules import LearningRate
from dssm.sections.optimizers import OptimizerKind


def build_optimizer(
    settings: OptimizerKind,
    learning_rate: LearningRate,
    variables: Sequence[tf.Variable],
    tables: Sequence[tf.Variable],
) -> tf.keras.optimizers.Optimizer:
    """Returns the optimizer with its state made: `variables` holds all that ranks must share and checkpoints keep.

    Args:
      settings: `train.optimizer`.
      learning_rate: what `dssm.model.optimizers.schedules.build` returns.
      variables: all that are trained.
      tables: those of them that are embeddings' tables, (rows, dim); an optimizer that treats them differently has a
        method `row_wise`, which is called with them.
    """
    optimizer = settings.build(learning_rate)
    if hasattr(optimizer, "row_wise"):
        optimizer.row_wise(tables)
    optimizer.build(variables)
    return optimizer
