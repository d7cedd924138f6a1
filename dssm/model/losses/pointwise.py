"""Losses of a row's own score."""

from __future__ import annotations

import tensorflow as tf

from dssm.model.losses import Rows, Scored
from dssm.model.losses.parts import known_labels, positives, weighted_bce
from dssm.sections.losses import Regression, WeightedBce


def weighted_bce_rows(settings: WeightedBce, scored: Scored) -> Rows:
    """Weighted cross entropy of the rows, and of their sampled negatives as rows of label 0.

    Returns: losses and weights, (batch · (1 + K),) each, or (batch,) without sampled negatives.
    """
    label, weight = known_labels(scored.label, scored.weight)
    label = tf.clip_by_value(label, 0.0, 1.0)
    loss = weighted_bce(scored.score, label, settings.positive_weight)
    if scored.sampled is None:
        return loss, weight
    sampled = scored.sampled
    drawn = tf.logical_and(sampled.drawn, positives(label, weight)[:, None])
    factors = tf.where(drawn, weight[:, None] * sampled.weight[None, :], 0.0)
    logits = tf.where(drawn, sampled.logits, 0.0)
    negatives = weighted_bce(logits, tf.zeros_like(logits), settings.positive_weight)
    return tf.concat([loss, tf.reshape(negatives, [-1])], 0), tf.concat([weight, tf.reshape(factors, [-1])], 0)


def regression_rows(settings: Regression, scored: Scored) -> Rows:
    """Squared error of the score, or of its sigmoid, against the label. Returns: (batch,) each."""
    label, weight = known_labels(scored.label, scored.weight)
    prediction = tf.sigmoid(scored.score) if settings.prediction == "sigmoid" else scored.score
    return tf.square(prediction - label), weight
