"""Collectives whose gradients are those of one process with the joint batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import horovod.tensorflow as hvd
import tensorflow as tf

Gradient = Any  # a dense tensor, tf.IndexedSlices, or None


def gather_candidates(vectors: tf.Tensor, name: str = "candidates") -> tf.Tensor:
    """Joins the ranks' vectors, in rank order; each rank's batch must have the same size.

    The gradient of `hvd.allgather` averages over ranks. Here a vector's gradient is the sum of the
    gradients of all ranks' losses with respect to it, as in one process: a reduce-scatter.

    Args: vectors: (batch, dim). Returns: (ranks · batch, dim).
    """
    if hvd.size() == 1:
        return vectors

    @tf.custom_gradient
    def gathered(own: tf.Tensor) -> tuple[tf.Tensor, object]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return hvd.reducescatter(upstream, op=hvd.Sum, name=f"{name}_gradient")

        return hvd.allgather(own, name=name), gradient

    return gathered(vectors)


def sum_over_ranks(value: tf.Tensor, name: str) -> tf.Tensor:
    """Returns the sum of the ranks' values; its gradient is the sum of the ranks' gradients, as in one process."""
    if hvd.size() == 1:
        return value

    @tf.custom_gradient
    def summed(own: tf.Tensor) -> tuple[tf.Tensor, object]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return hvd.allreduce(upstream, op=hvd.Sum, name=f"{name}_gradient")

        return hvd.allreduce(own, op=hvd.Sum, name=name), gradient

    return summed(value)


def gather(values: tf.Tensor, name: str) -> tf.Tensor:
    """Joins the ranks' values along the first axis, in rank order, without a gradient."""
    return values if hvd.size() == 1 else hvd.allgather(tf.stop_gradient(values), name=name)


def total(value: tf.Tensor, name: str) -> tf.Tensor:
    """Returns the sum of the ranks' values, without a gradient."""
    return value if hvd.size() == 1 else hvd.allreduce(tf.stop_gradient(value), op=hvd.Sum, name=name)


def merge_rows(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    """Sums the rows of a sparse gradient that belong to the same table row: Horovod sends them all."""
    indices, place = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, place, tf.size(indices))
    return tf.IndexedSlices(values, indices, gradient.dense_shape)


def sum_gradients(gradients: Sequence[Gradient]) -> list[Gradient]:
    """Sums gradients over ranks: dense ones in one fused allreduce, sparse ones as gathered rows.

    Summed, not averaged: each rank's loss is already divided by the weight of all ranks' rows.
    """
    merged = [merge_rows(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
    if hvd.size() == 1:
        return merged
    dense = [place for place, g in enumerate(merged) if g is not None and not isinstance(g, tf.IndexedSlices)]
    summed: list[Gradient] = list(merged)
    if dense:
        for place, gradient in zip(dense, hvd.grouped_allreduce([merged[p] for p in dense], op=hvd.Sum), strict=True):
            summed[place] = gradient
    for place, gradient in enumerate(merged):
        if isinstance(gradient, tf.IndexedSlices):
            values = hvd.allgather(gradient.values, name=f"gradient_values_{place}")
            indices = hvd.allgather(gradient.indices, name=f"gradient_rows_{place}")
            summed[place] = merge_rows(tf.IndexedSlices(values, indices, gradient.dense_shape))
    return summed
