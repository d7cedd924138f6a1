"""Softmax over a positive and the negatives that were drawn for it."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from dssm.model.losses import Rows, Sampled, Scored
from dssm.model.losses.parts import SMALLEST_PROBABILITY, known_labels, mask_candidates, positives, softmax_loss
from dssm.sections.losses import SampledSoftmax


def sampled_softmax_rows(settings: SampledSoftmax, scored: Scored) -> Rows:
    """−log softmax of each positive over itself and its drawn negatives.

    With the correction the negatives estimate, by importance sampling, the sum of eˢ over the rest of the catalogue
    (Bengio and Senécal, AISTATS 2003): each logit is less log(K q). Of several kinds each gives an estimate, and
    their mean by the kinds' weights is taken: its logits are less log(K q) of their kind, plus the log of the kind's
    share of the weights. q is the chance before items that the row may not have, those its user clicked, are left
    out: where these have a share m of it, the estimate is 1 / (1 − m) too large. Hard and unclicked negatives cover
    their own lists alone: with them it is no estimate of the catalogue's softmax. Without the correction it is the
    softmax of Huang et al. (CIKM 2013), where a negative of weight w counts w times.

    A row weighs nothing where it is no positive, or where no negative with a weight was drawn for it.

    Returns: losses and weights, (batch,) each.
    """
    sampled = scored.sampled
    assert sampled is not None
    label, weight = known_labels(scored.label, scored.weight)
    target = positives(label, weight)
    drawn = tf.logical_and(sampled.drawn, tf.logical_and(target[:, None], sampled.weight[None, :] > 0))
    factors = partition_factors(sampled, drawn) if settings.correction else sampled.weight[None, :]
    negatives = mask_candidates(sampled.logits + tf.math.log(factors), tf.logical_not(drawn))
    logits = tf.concat([scored.score[:, None], negatives], axis=1)
    loss = softmax_loss(logits, tf.zeros_like(scored.score, tf.int32))
    compared = tf.reduce_any(drawn, axis=1)
    return tf.where(compared, loss, 0.0), tf.where(compared, weight, 0.0)


def partition_factors(sampled: Sampled, drawn: tf.Tensor) -> tf.Tensor:
    """Returns what each negative's eˢ is multiplied by, so that the sum estimates that of the catalogue.

    It is 1 / (K q), times the kind's share of the weights of those kinds that the row has negatives of. K counts the
    negatives that the row has of the kind; q is at least 1e-9.

    Args: drawn: (batch, K) bool, the negatives that count.
    Returns: (batch, K), 0 where none counts.
    """
    kind = np.repeat(np.arange(len(sampled.kinds)), sampled.kinds)
    counts = tf.cast(drawn, tf.float32)
    of_kind = tf.matmul(counts, tf.constant(np.float32(kind[:, None] == kind[None, :])))
    weights = tf.math.divide_no_nan(counts * sampled.weight[None, :], of_kind)
    shares = tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=1, keepdims=True))
    return shares / tf.maximum(sampled.probability, SMALLEST_PROBABILITY)
