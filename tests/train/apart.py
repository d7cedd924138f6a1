"""What ranks whose candidates are their own must come to: one process that takes each rank's rows apart."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from dssm.config import Settings
from dssm.manifest import ITEM_KEY, ITEM_PROBABILITY, LABEL, USER_KEY, WEIGHT
from dssm.sections.losses import Hinge, InBatchSoftmax
from dssm.train.step import make_optimizer
from tests.datasets import ITEMS, Rows, make_settings
from tests.model.loss_reference import StreamingFrequency
from tests.train.joint import JOINT_ROWS, OWN_CANDIDATES, PASSES, joint_batches, joint_catalogue
from tests.train.tiny import make_model


class Apart:
    """The loss of joint batches, whose rows are compared within each rank's share of them.

    Attributes: hits: pairs of a row and a candidate that were left out so far.
    """

    def __init__(self, settings: Settings, ranks: int, multipliers: np.ndarray | None) -> None:
        loss = settings.train.loss
        assert isinstance(loss, (InBatchSoftmax, Hinge))
        self._loss, self._tau, self._ranks, self.hits = loss, settings.model.tau, ranks, 0
        self._estimate = None
        if multipliers is not None:
            assert isinstance(loss, InBatchSoftmax)
            chosen = loss.frequency
            self._estimate = StreamingFrequency(chosen.rate, chosen.initial_gap, chosen.buckets, multipliers)

    def mean(self, rows: Rows, catalogue: Rows, users: tf.Tensor, items: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Returns Σ weight · loss / Σ weight over all ranks' rows that are targets, float64.

        Args: users, items, uniform: the vectors of the rows' users and items, and of the catalogue's items.
        """
        positive = (rows[LABEL] > 0) & (rows[WEIGHT] > 0)
        if self._estimate is not None:  # it is shown the joint batch, once
            self._estimate.update(rows[ITEM_KEY][positive].tolist())
        weighed, counted, share = [], 0.0, JOINT_ROWS // self._ranks
        for start in range(0, JOINT_ROWS, share):
            targets = start + np.flatnonzero(positive[start : start + share])
            if not len(targets):
                continue
            drawn = np.arange(start, start + share) if catalogue else np.arange(0)
            keys = np.concatenate([rows[ITEM_KEY][targets], catalogue.get(ITEM_KEY, drawn)[drawn]])
            vectors = tf.concat([tf.gather(items, targets), tf.gather(uniform, drawn)], axis=0)
            logits = tf.matmul(tf.gather(users, targets), vectors, transpose_b=True) / self._tau
            hits = _hits(rows[USER_KEY][targets], keys)
            self.hits += np.count_nonzero(hits)
            weights = rows[WEIGHT][targets].astype(float)
            if isinstance(self._loss, Hinge):
                losses, weights = _hinge(logits, hits, weights, self._loss.margin)
            else:
                logits -= np.log(np.maximum(self._probability(rows, targets, keys), 1e-9))
                logits = tf.where(hits, tf.constant(-np.inf, tf.float64), logits)
                losses = tf.reduce_logsumexp(logits, axis=1) - tf.linalg.diag_part(logits)
            weighed.append(tf.reduce_sum(losses * weights))
            counted += weights.sum()
        return tf.add_n(weighed) / counted

    def _probability(self, rows: Rows, targets: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Returns each candidate's expected appearances among those of its rank, over their number: (candidates,)."""
        uniform = len(keys) - len(targets)
        if self._estimate is None:
            assert uniform == 0
            return rows[ITEM_PROBABILITY][targets].astype(float)
        in_batch = np.array([self._estimate.appearances(int(key)) for key in keys]) / self._ranks
        return (in_batch + uniform / ITEMS) / len(keys)


def _hinge(logits: tf.Tensor, hits: np.ndarray, weights: np.ndarray, margin: float) -> tuple[tf.Tensor, np.ndarray]:
    """Returns the mean of max(0, m − s₊ + s₋) over each row's negatives, and the row's weight: 0 where it has none.

    Args: logits, hits: (targets, targets); a row's own item is on the diagonal.
    """
    negative = ~hits & ~np.eye(len(hits), dtype=bool)
    pairs = tf.nn.relu(margin - tf.linalg.diag_part(logits)[:, None] + logits)
    counts = negative.sum(axis=1)
    losses = tf.reduce_sum(pairs * negative.astype(float), axis=1) / np.maximum(counts, 1)
    return losses, np.where(counts > 0, weights, 0.0)


def _hits(users: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Marks candidates that are a row's own item again, or another one of its user: (targets, candidates) bool.

    Args: keys: of the candidates: the targets' items, then the uniform ones.
    """
    acted_on = set(zip(users.tolist(), keys.tolist(), strict=False))
    return np.array(
        [[c != r and (user, key) in acted_on for c, key in enumerate(keys.tolist())] for r, user in enumerate(users)]
    )


def train_apart(name: str, ranks: int) -> tuple[Rows, int]:
    """Trains as `train_on_joint_batches` does, with each rank's rows apart.

    Returns: what that finds of the losses, the first steps' gradients and the weights in the end; and how many
      accidental hits there were.
    """
    settings = make_settings("unused", **OWN_CANDIDATES[name], batch_size=JOINT_ROWS // ranks)
    model = make_model(settings, seed=3)
    optimizer = make_optimizer(settings.train, 8, model)
    frequency = model.frequencies.get("label")
    apart = Apart(settings, ranks, None if frequency is None else frequency.multipliers)
    parts = [(rows, joint_catalogue(settings, number)) for number, rows in enumerate(joint_batches(settings))]
    losses, found = [], {}
    for number, (rows, catalogue) in enumerate(parts * PASSES):
        with tf.GradientTape() as tape:
            users, items = (
                tf.cast(tower({of: rows[of] for of in tower.input}, training=True)["label"], tf.float64)
                for tower in (model.user, model.item)
            )
            uniform = items[:0]
            if catalogue:
                drawn = model.item({of: catalogue[of] for of in model.item.input}, training=True)
                uniform = tf.cast(drawn["label"], tf.float64)
            loss = apart.mean(rows, catalogue, users, items, uniform)
        slopes = [tf.convert_to_tensor(slope) for slope in tape.gradient(loss, model.trainable_variables)]
        if number < len(parts):
            for variable, slope in zip(model.trainable_variables, slopes, strict=True):
                found[f"{name}/gradient/{number}/{variable.name}"] = slope.numpy()
        optimizer.apply_gradients(zip(slopes, model.trainable_variables, strict=True))
        losses.append(loss.numpy())
    found |= {f"{name}/weights/{variable.name}": variable.numpy() for variable in model.trainable_variables}
    return {**found, f"{name}/losses": np.array(losses)}, apart.hits
