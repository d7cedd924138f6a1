"""Losses of a positive's score against that of each of its negatives."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from dssm.model.losses import Candidates, Rows, Scored
from dssm.model.losses.parts import accidental_pairs, known_labels, observe_hits, own_columns, positives
from dssm.sections.losses import Bpr, Hinge


def hinge_rows(settings: Hinge, scored: Scored) -> Rows:
    """max(0, m − s₊ + s₋), the mean over a positive's negatives. Returns: losses and weights, (batch,) each."""
    return _mean_over_negatives(settings, scored, lambda difference: tf.nn.relu(settings.margin + difference))


def bpr_rows(settings: Bpr, scored: Scored) -> Rows:
    """−log σ(s₊ − s₋), the mean over a positive's negatives (Rendle et al., UAI 2009).

    Returns: losses and weights, (batch,) each.
    """
    return _mean_over_negatives(settings, scored, tf.math.softplus)


def _mean_over_negatives(settings: Hinge | Bpr, scored: Scored, loss_of: Callable[[tf.Tensor], tf.Tensor]) -> Rows:
    """Takes the loss of each positive against each of its negatives, and their mean by the negatives' weights.

    A row weighs nothing where it is no positive, or has no negative with a weight.

    Args: loss_of: from s₋ − s₊ to the loss, each (batch, negatives).
    Returns: losses and weights, (batch,) each.
    """
    label, weight = known_labels(scored.label, scored.weight)
    target = positives(label, weight)
    candidates = scored.candidates if settings.negatives == "batch" else None
    if candidates is not None:
        logits = candidates.logits
        factors = in_batch_negatives(settings, scored, candidates, target)
    else:
        assert scored.sampled is not None
        logits = scored.sampled.logits
        factors = tf.where(scored.sampled.drawn, scored.sampled.weight[None, :], 0.0)
    factors = tf.where(target[:, None], factors, 0.0)
    difference = tf.where(factors > 0, logits - scored.score[:, None], 0.0)
    total = tf.reduce_sum(factors, axis=1)
    loss = tf.math.divide_no_nan(tf.reduce_sum(factors * loss_of(difference), axis=1), total)
    return loss, tf.where(total > 0, weight, 0.0)


def in_batch_negatives(settings: Hinge | Bpr, scored: Scored, candidates: Candidates, target: tf.Tensor) -> tf.Tensor:
    """Finds the other rows' positives, without accidental hits where they are masked.

    Args: target: (batch,) bool, rows with a loss: hits of others may stay.
    Returns: (batch, candidates), 1 for a negative, else 0.
    """
    own = own_columns(candidates.own, tf.size(candidates.items))
    negative = tf.logical_and(candidates.positive[None, :], tf.logical_not(own))
    factors = tf.cast(negative, tf.float32)
    if not settings.mask_accidental_hits:
        return factors
    positive = candidates.positive
    hits = accidental_pairs(
        scored.users, scored.items, candidates.users, candidates.items, candidates.own, target, positive, positive
    )
    observe_hits(lambda: tf.shape(hits)[0], target, positive)
    return tf.tensor_scatter_nd_update(factors, hits, tf.zeros(tf.shape(hits)[:1]))
