"""What is done to gradients between the sum over ranks and the optimizer: first the penalty's part, then clipping.

A sparse gradient must hold each row once, as `dssm.train.collectives.merge_rows` leaves it: the norm and the limit of
a row given in two parts are not those of their sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from dssm.sections.optimizers import Clip

Gradient = Any  # a dense tensor, tf.IndexedSlices, or None


def clip_gradients(settings: Clip, gradients: Sequence[Gradient]) -> list[Gradient]:
    """Clips each number, each variable's norm, or the norm of all gradients together (Pascanu et al., ICML 2013).

    A gradient that is not finite stays so: with global_norm it makes all others NaN.
    """
    if settings.by == "global_norm":
        return list(tf.clip_by_global_norm(gradients, settings.limit)[0])
    if settings.by == "norm":
        return [None if g is None else tf.clip_by_norm(g, settings.limit) for g in gradients]
    return [None if g is None else tf.clip_by_value(g, -settings.limit, settings.limit) for g in gradients]


def add_l2(
    gradients: Sequence[Gradient],
    variables: Sequence[tf.Variable],
    penalties: Mapping[Any, float],
    tables: Iterable[tf.Variable],
) -> list[Gradient]:
    """Adds the gradient of Σ λ‖W‖², which is 2λW; of a table only the rows count that the step looked up, each once.

    After the sum over ranks, so that the penalty counts once and not once a rank.

    Args:
      gradients: as many as variables; None where the loss does not depend on the variable.
      variables: all that are trained.
      penalties: λ by `variable.ref()`; a variable that is not there has none.
      tables: variables of shape (rows, dim). Where a table's gradient is dense, the rows looked up are those in which
        it is not 0.
    Returns: the gradients; one that is sparse stays sparse, in the same rows.
    """
    table_refs = {table.ref() for table in tables}
    added = []
    for gradient, variable in zip(gradients, variables, strict=True):
        penalised = _with_table_penalty if variable.ref() in table_refs else _with_penalty
        added.append(penalised(gradient, variable, penalties.get(variable.ref(), 0.0)))
    return added


def _with_penalty(gradient: Gradient, variable: tf.Variable, penalty: float) -> Gradient:
    if not penalty:
        return gradient
    if isinstance(gradient, tf.IndexedSlices):
        return _with_row_penalty(gradient, variable, penalty)
    slope = 2 * penalty * tf.convert_to_tensor(variable)
    return slope if gradient is None else gradient + slope


def _with_table_penalty(gradient: Gradient, table: tf.Variable, penalty: float) -> Gradient:
    if not penalty or gradient is None:
        return gradient
    if isinstance(gradient, tf.IndexedSlices):
        return _with_row_penalty(gradient, table, penalty)
    touched = tf.reduce_any(tf.not_equal(gradient, 0), axis=1, keepdims=True)
    return gradient + tf.where(touched, 2 * penalty * table, 0.0)


def _with_row_penalty(gradient: tf.IndexedSlices, table: tf.Variable, penalty: float) -> tf.IndexedSlices:
    values = gradient.values + 2 * penalty * tf.gather(table, gradient.indices)
    return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
