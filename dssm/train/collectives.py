"""Collectives whose gradients are those of one process with the joint batch."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import horovod.tensorflow as hvd
import tensorflow as tf

from dssm.train.traffic import NUMBER_BYTES, allreduce_share
from dssm.train.waits import note_wait

Gradient = Any  # a dense tensor, tf.IndexedSlices, or None
# What Horovod 0.28.1, Gloo and NCCL write in their errors; Gloo names its source file, and Horovod not always itself.
OF_COLLECTIVES = re.compile(r"Horovod|/gloo/|[Nn]ccl|NCCL")


def lost_rank_in(error: BaseException) -> str | None:
    """Returns what a collective said that ended because another rank was lost; None for other errors."""
    if not isinstance(error, (tf.errors.UnknownError, tf.errors.AbortedError)):
        return None
    lines = [line.strip() for line in str(error).splitlines()]
    # A node's traceback names files: a folder of theirs may be called after Gloo or NCCL.
    found = [line for line in lines if OF_COLLECTIVES.search(line) and not line.startswith('File "')]
    return found[-1] if found else None


def broadcast_variables(variables: Sequence[tf.Variable]) -> None:
    """Gives all ranks the values of rank 0's variables.

    Not by Horovod's function of this name: AutoGraph rewrites it variable by variable, which takes a second of a start.
    """

    @tf.function(autograph=False)
    def of_first_rank() -> None:
        for place, variable in enumerate(variables):
            variable.assign(hvd.broadcast(variable, root_rank=0, name=f"variable_{place}"))

    of_first_rank()


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

        of_all = hvd.allreduce(own, op=hvd.Sum, name=name)
        note_wait(own, of_all)
        return of_all, gradient

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


def sum_gradients(
    gradients: Sequence[Gradient], dense: Collection[int] = (), name: str = "gradients"
) -> tuple[list[Gradient], tf.Tensor]:
    """Sums gradients over ranks: dense ones in one fused allreduce, sparse ones as gathered rows.

    Summed, not averaged: each rank's loss is already divided by the weight of all ranks' rows.

    Args:
      gradients: dense float32 tensors, tf.IndexedSlices of tables, (rows, dim) float32 each, or None.
      dense: places of sparse ones that go with the dense ones, for tables of which the ranks look up so much that
        the rows and their ids would be more bytes than the table. Which rows were looked up goes with them.
      name: of the collectives.
    Returns: the sums; what was sparse stays so, each row once, whichever way it went; and the bytes that this rank
      received, int64.
    """
    merged = [merge_rows(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
    if hvd.size() == 1:
        return merged, tf.constant(0, tf.int64)
    sparse = [place for place, g in enumerate(merged) if isinstance(g, tf.IndexedSlices) and place not in dense]
    reduced = [place for place, g in enumerate(merged) if g is not None and place not in sparse]
    summed: list[Gradient] = list(merged)
    received = tf.constant(0, tf.int64)
    if reduced:
        sent = [_marked_table(merged[p]) if isinstance(merged[p], tf.IndexedSlices) else merged[p] for p in reduced]
        made = hvd.grouped_allreduce(sent, op=hvd.Sum, name=f"{name}_dense")
        for place, total_of_ranks in zip(reduced, made, strict=True):
            is_table = isinstance(merged[place], tf.IndexedSlices)
            summed[place] = _rows_of_marked(total_of_ranks) if is_table else total_of_ranks
        numbers = sum(tf.size(tensor, tf.int64) for tensor in sent)
        received += tf.cast(allreduce_share(hvd.size()) * tf.cast(numbers * NUMBER_BYTES, tf.float64), tf.int64)
    if sparse:
        values, ids = [merged[p].values for p in sparse], [tf.cast(merged[p].indices, tf.int32) for p in sparse]
        # Two groups, each of one type, which Horovod fuses.
        all_values = hvd.grouped_allgather(values, name=f"{name}_values")
        all_ids = hvd.grouped_allgather(ids, name=f"{name}_rows")
        for place, rows, of_rows in zip(sparse, all_values, all_ids, strict=True):
            summed[place] = merge_rows(tf.IndexedSlices(rows, of_rows, merged[place].dense_shape))
        numbers = sum(tf.size(made, tf.int64) for made in (*all_values, *all_ids))
        received += NUMBER_BYTES * (numbers - sum(tf.size(own, tf.int64) for own in (*values, *ids)))
    return summed, received


def marked(gradient: tf.IndexedSlices, rows: int | tf.Tensor) -> tf.Tensor:
    """Returns a sparse gradient as a whole matrix, with how often a row stands in it as its last number.

    Returns: (rows, dim + 1).
    """
    values = tf.concat([gradient.values, tf.ones_like(gradient.values[:, :1])], axis=1)
    return tf.math.unsorted_segment_sum(values, gradient.indices, rows)


def _marked_table(gradient: tf.IndexedSlices) -> tf.Tensor:
    rows = tf.get_static_value(gradient.dense_shape[0])
    return marked(gradient, gradient.dense_shape[0] if rows is None else int(rows))


def _rows_of_marked(table: tf.Tensor) -> tf.IndexedSlices:
    """Returns the rows of a sum of `marked` that stood in any summand."""
    ids = tf.cast(tf.where(table[:, -1] > 0)[:, 0], tf.int32)
    return tf.IndexedSlices(tf.gather(table[:, :-1], ids), ids, tf.stack([tf.shape(table)[0], tf.shape(table)[1] - 1]))
