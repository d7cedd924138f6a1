"""One training step: rows to loss, to gradients over all ranks, to new weights."""

from __future__ import annotations

from collections.abc import Callable

import horovod.tensorflow as hvd
import tensorflow as tf

from dssm.manifest import ITEM_KEY, ITEM_PROBABILITY, LABEL, USER_KEY, WEIGHT, ColumnSpec
from dssm.model import losses
from dssm.model.towers import TwoTowers
from dssm.sections import Model, Train
from dssm.stream.batches import Batch
from dssm.train.collectives import gather, gather_candidates, sum_gradients, total
from dssm.train.negatives import SampledNegatives

# What the losses need beside the features.
STEP_COLUMNS = {
    USER_KEY: ColumnSpec(dtype="int64"),
    ITEM_KEY: ColumnSpec(dtype="int64"),
    LABEL: ColumnSpec(dtype="float32"),
    WEIGHT: ColumnSpec(dtype="float32"),
    ITEM_PROBABILITY: ColumnSpec(dtype="float32"),
}


def tower_vectors(towers: TwoTowers, batch: Batch, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the user and item vectors of a batch, each (batch, dim)."""
    users = towers.user({name: batch[name] for name in towers.user.input}, training=training)
    items = towers.item({name: batch[name] for name in towers.item.input}, training=training)
    return users, items


def training_rows(
    towers: TwoTowers, batch: Batch, negatives: SampledNegatives | None
) -> tuple[Batch, tf.Tensor, tf.Tensor]:
    """Returns the rows that a step trains on, and the user and item vector of each, (rows, dim).

    Args:
      batch: the columns of both towers, STEP_COLUMNS and, with negatives, what `SampledNegatives.appended` needs.
      negatives: of the batch's positives; None: the batch's rows are all there are.
    """
    if negatives is None:
        return batch, *tower_vectors(towers, batch, training=True)
    rows, number = negatives.appended(batch)
    users, items = tower_vectors(towers, {**batch, **rows}, training=True)
    return rows, tf.gather(users, number), items


def row_losses(
    model: Model, train: Train, batch: Batch, users: tf.Tensor, items: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the loss of each row and the row's weight in it.

    In the in-batch softmax only positives are targets and candidates; other rows weigh nothing.
    Padding (weight 0) is never a candidate.

    Args:
      batch: STEP_COLUMNS, each (batch,); LABEL and WEIGHT are enough for weighted_bce.
      users: (batch, dim).
      items: (batch, dim).
    Returns: losses (batch,) and weights (batch,).
    """
    if train.loss == "weighted_bce":
        scores = tf.reduce_sum(users * items, axis=1) / model.temperature
        labels = tf.clip_by_value(batch[LABEL], 0.0, 1.0)
        return losses.weighted_bce(scores, labels, train.positive_weight), batch[WEIGHT]
    target = tf.logical_and(batch[LABEL] > 0, batch[WEIGHT] > 0)
    rows = tf.shape(users)[0]
    own = tf.range(rows)
    keys = tf.stack([batch[USER_KEY], batch[ITEM_KEY], tf.cast(target, tf.int64)], axis=1)
    candidates, probability = items, batch[ITEM_PROBABILITY]
    if train.candidates == "all_ranks" and hvd.size() > 1:
        candidates = gather_candidates(items)
        keys, probability = gather(keys, "candidate_keys"), gather(probability, "candidate_probability")
        own += hvd.rank() * rows
    candidate_users, candidate_items, valid = keys[:, 0], keys[:, 1], keys[:, 2] > 0
    logits = losses.candidate_logits(users, candidates, model.temperature)
    if train.logq != "off":
        if train.logq == "batch":
            probability = losses.batch_probability(candidate_items, valid)
        logits = losses.correct_sampling_bias(logits, probability, train.logq_strength)
    masked = tf.logical_not(valid)[None, :]
    if train.mask_accidental_hits:
        hits = losses.accidental_hits(batch[USER_KEY], batch[ITEM_KEY], candidate_users, candidate_items, own)
        masked = tf.logical_or(masked, hits)
    loss = losses.softmax_loss(losses.mask_candidates(logits, masked), own)
    # A row that is no target has its own candidate masked: its loss means nothing, and must not be NaN either.
    return tf.where(target, loss, 0.0), tf.where(target, batch[WEIGHT], 0.0)


def mean_loss(model: Model, train: Train, batch: Batch, users: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
    """Returns this rank's share of Σ weight · loss / Σ weight over all ranks' rows: the shares add up to the mean."""
    loss, weights = row_losses(model, train, batch, users, items)
    return tf.reduce_sum(loss * weights) / tf.maximum(total(tf.reduce_sum(weights), "loss_weight"), 1e-12)


def make_step(
    model: Model,
    train: Train,
    towers: TwoTowers,
    optimizer: tf.keras.optimizers.Optimizer,
    negatives: SampledNegatives | None = None,
) -> Callable[[Batch], tf.Tensor]:
    """Returns the compiled step: a batch in, the mean loss over all ranks' rows out; the weights have moved."""
    variables = towers.trainable_variables
    optimizer.build(variables)

    @tf.function
    def step(batch: Batch) -> tf.Tensor:
        with tf.GradientTape() as tape:
            rows, users, items = training_rows(towers, batch, negatives)
            share = mean_loss(model, train, rows, users, items)
        gradients = sum_gradients(tape.gradient(share, variables))
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return total(share, "loss")

    return step


def make_optimizer(train: Train) -> tf.keras.optimizers.Optimizer:
    if train.optimizer == "adam":
        return tf.keras.optimizers.Adam(train.learning_rate)
    return tf.keras.optimizers.Adagrad(train.learning_rate)
