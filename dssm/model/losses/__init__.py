"""Losses. Each module holds the builders of one family; `parts` holds what they are composed of.

A builder takes its settings (`dssm.sections.losses`) and a batch's `Scored`, and returns the loss and the weight of
each row; the trainer takes the weighted mean over all ranks' rows. All numbers are float32, under mixed
precision too: float16 has no room for a masked logit.
"""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

Rows = tuple[tf.Tensor, tf.Tensor]  # losses and weights, each (rows,)


@dataclass(frozen=True)
class Candidates:
    """The items that each row's user is scored against: the batch's own, of this rank or of all, then items drawn
    uniformly from the catalogue.

    Attributes:
      user_vectors: (batch, dim), u / τ.
      vectors: (candidates, dim), v.
      own: (batch,) int32, the column of each row's own item.
      users, items: (candidates,) int64 keys of the candidates' rows; the user of a uniform one is 0.
      positive: (candidates,) bool, rows with a positive label and a weight.
      real: (candidates,) bool, all but padding.
      uniform: (candidates,) bool, drawn uniformly from the catalogue.
      share: (candidates,) the item's share of the training rows; 0 where it has none.
      appearances: (candidates,) by the streaming estimate, the item's expected appearances among a step's in-batch
        candidates: where those are this rank's, the estimate of all ranks' over their number. None where the loss
        does not ask for it.
      catalogue_size: items of the catalogue.
    """

    user_vectors: tf.Tensor
    vectors: tf.Tensor
    own: tf.Tensor
    users: tf.Tensor
    items: tf.Tensor
    positive: tf.Tensor
    real: tf.Tensor
    uniform: tf.Tensor
    share: tf.Tensor
    appearances: tf.Tensor | None = None
    catalogue_size: int = 0

    @property
    def logits(self) -> tf.Tensor:
        """(batch, candidates), ⟨u, v⟩ / τ."""
        return tf.matmul(self.user_vectors, self.vectors, transpose_b=True)


@dataclass(frozen=True)
class Sampled:
    """The negatives of each row, drawn when the samples were built; only positives have any.

    Attributes:
      logits: (batch, K), ⟨u, v⟩ / τ, with the learned bias where there is one; any finite number where none was
        drawn.
      probability: (batch, K), the chance of each to be drawn.
      drawn: (batch, K) bool.
      weight: (K,), the factor on the row's weight, by kind of negative.
      kinds: how many of the K places each kind has, in their order.
    """

    logits: tf.Tensor
    probability: tf.Tensor
    drawn: tf.Tensor
    weight: tf.Tensor
    kinds: tuple[int, ...]


@dataclass(frozen=True)
class Scored:
    """What a loss sees of a batch, for one objective.

    Attributes:
      score: (batch,), ⟨u, v⟩ / τ of each row's user and item, with the learned bias where there is one.
      label: (batch,), 0…1; 0 where it is not known. The project's own losses take NaN for that, too.
      weight: (batch,), 0 for padding and where the label is not known.
      users, items: (batch,) int64 keys.
      candidates: where the loss reads them.
      sampled: where the loss takes them and the samples have them.
    """

    score: tf.Tensor
    label: tf.Tensor
    weight: tf.Tensor
    users: tf.Tensor
    items: tf.Tensor
    candidates: Candidates | None = None
    sampled: Sampled | None = None
