"""Softmax over the batch's items, with or without further items of the catalogue."""

from __future__ import annotations

import tensorflow as tf

from dssm.model.losses import Candidates, Rows, Scored
from dssm.model.losses.parts import (
    MASKED,
    accidental_pairs,
    batch_probability,
    in_batch_loss,
    known_labels,
    observe_hits,
    positives,
    sampling_bias,
)
from dssm.sections.losses import InBatchSoftmax


def in_batch_softmax_rows(settings: InBatchSoftmax, scored: Scored) -> Rows:
    """−log softmax of each positive over the candidates (Yi et al., RecSys 2019; Yang et al., WWW 2020).

    Targets, and candidates, are positives and, with `impression_weight` above 0, all other rows; padding never is.
    Returns: losses and weights, (batch,) each.
    """
    candidates = scored.candidates
    assert candidates is not None
    label, weight = known_labels(scored.label, scored.weight)
    weight = tf.where(positives(label, weight), weight, settings.impression_weight * weight)
    target, valid = weight > 0, candidates.positive
    if settings.impression_weight > 0:
        valid = candidates.real
    valid = tf.logical_or(valid, candidates.uniform)
    bias = tf.where(valid, 0.0, MASKED)
    if settings.logq != "off":
        bias += sampling_bias(drawing_probability(settings, candidates, valid), settings.logq_strength)
    hits = None
    if settings.mask_accidental_hits:
        targets = tf.logical_and(valid, tf.logical_not(candidates.uniform))
        hits = accidental_pairs(
            scored.users, scored.items, candidates.users, candidates.items, candidates.own, target, valid, targets
        )
        observe_hits(lambda: tf.shape(hits)[0], target, valid)
    loss = in_batch_loss(candidates.user_vectors, candidates.vectors, bias, candidates.own, hits)
    # A row that is no target has its own candidate masked: its loss means nothing, and must not be NaN either.
    return tf.where(target, loss, 0.0), tf.where(target, weight, 0.0)


def drawing_probability(settings: InBatchSoftmax, candidates: Candidates, valid: tf.Tensor) -> tf.Tensor:
    """Returns q of each candidate: its item's expected appearances among a step's candidates, over their number.

    With B candidates of the batch and M uniform ones out of N items that is (B p + M / N) / (B + M), p being the
    item's chance to be the next of the batch (Yang et al., WWW 2020).

    Args: valid: (candidates,) bool, those that are not masked for all rows.
    Returns: (candidates,).
    """
    in_batch = tf.logical_and(valid, tf.logical_not(candidates.uniform))
    rows = tf.reduce_sum(tf.cast(in_batch, tf.float32))
    uniform = tf.reduce_sum(tf.cast(candidates.uniform, tf.float32))
    if settings.logq == "streaming":
        assert candidates.appearances is not None
        appearances = candidates.appearances
    else:
        share = candidates.share if settings.logq == "frequency" else batch_probability(candidates.items, in_batch)
        appearances = rows * share
    appearances += uniform / max(candidates.catalogue_size, 1)
    return appearances / tf.maximum(rows + uniform, 1.0)
