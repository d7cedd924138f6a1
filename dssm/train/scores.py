"""From a batch to what the losses see of it: vectors by both towers, candidates of all ranks, sampled negatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import horovod.tensorflow as hvd
import tensorflow as tf

from dssm.manifest import ITEM_KEY, ITEM_PROBABILITY, LABEL, USER_KEY, WEIGHT, target_column
from dssm.model.batch_norm import rows_of_batch
from dssm.model.losses import Candidates, Scored
from dssm.model.losses.parts import known_labels, positives
from dssm.model.sharded import held_rows
from dssm.model.towers import TwoTowers, Vectors
from dssm.model.two_tower import TwoTowerModel
from dssm.sections import LossKind
from dssm.stream.batches import Batch
from dssm.train.collectives import gather, gather_candidates, sum_over_ranks
from dssm.train.negatives import DrawnRows
from dssm.train.sharding import fetch_rows, held_of
from dssm.train.shares import ITEM_ROW_PROBABILITY
from dssm.train.waits import note_wait

NO_KEY = tf.int64.min  # of a row that is no target
MAIN = "label"  # the sources' own label, among the objectives' labels


@dataclass(frozen=True)
class Encoded:
    """The vectors of a step's rows, by objective.

    Attributes:
      users, items: (batch, width), of the batch.
      negatives: (negatives, width), of `drawn`.
      uniform: (M, width), of the catalogue's items.
      drawn: the sampled negatives; None where there are none, or no loss takes them.
    """

    users: Vectors
    items: Vectors
    negatives: Vectors
    uniform: Vectors
    drawn: DrawnRows | None


def tower_vectors(towers: TwoTowers, batch: Batch, training: bool) -> tuple[Vectors, Vectors]:
    """Returns the user and item vectors of a batch, by objective, each (batch, width).

    Where tables are spread over ranks, all ranks call it, each with a batch of its own, and as often.
    """
    with held_rows(held_of(fetch_rows(towers.sharded, [batch], "vectors"))):
        return _vectors(towers.user, batch, training), _vectors(towers.item, batch, training)


def encode(towers: TwoTowers, batch: Batch, drawn: DrawnRows | None, catalogue: Batch) -> Encoded:
    """Passes the rows of a training step through the towers.

    The item tower sees the batch's items, the sampled negatives and the catalogue's items as one batch. Where tables
    are spread over ranks, the rows that these look up are in `held_rows`.

    Args:
      batch: the columns of both towers, and WEIGHT.
      drawn: the negatives of the batch's positives; None: there are none.
      catalogue: item columns of items drawn uniformly; empty where there are none.
    """
    real = batch[WEIGHT] > 0
    parts: list[Batch] = [batch, {} if drawn is None else drawn.columns, catalogue]
    any_input = next(iter(towers.item.input))
    sizes = [tf.shape(part[any_input])[0] if part else 0 for part in parts]
    items = {name: tf.concat([part[name] for part in parts if part], axis=0) for name in towers.item.input}
    with rows_of_batch(real, sum_over_ranks):
        users = _vectors(towers.user, batch, training=True)
    with rows_of_batch(tf.concat([real, tf.ones([sizes[1] + sizes[2]], tf.bool)], axis=0), sum_over_ranks):
        vectors = _vectors(towers.item, items, training=True)
    of_part: list[Vectors] = [{}, {}, {}]
    for objective, joined in vectors.items():
        for part, vector in zip(of_part, tf.split(joined, sizes, axis=0), strict=True):
            part[objective] = vector
    batch_items, negative_items, uniform_items = of_part
    return Encoded(users, batch_items, negative_items, uniform_items, drawn)


def _vectors(tower: tf.keras.Model, columns: Mapping[str, tf.Tensor], training: bool) -> Vectors:
    return tower({name: columns[name] for name in tower.input}, training=training)


def label_and_weight(batch: Batch, label: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns an objective's label of each row and the row's weight; 0 and 0 where the label is not known."""
    return known_labels(batch[LABEL if label == MAIN else target_column(label)], batch[WEIGHT])


class StepScores:
    """A step's rows, as each objective's loss sees them.

    Args:
      model: what is trained.
      batch: STEP_COLUMNS and the objectives' labels.
      catalogue: ITEM_KEY and ITEM_PROBABILITY of items drawn uniformly; empty where there are none.
      encoded: of the batch, the negatives and the catalogue's items.
      catalogue_size: items of the whole catalogue.
    """

    def __init__(
        self, model: TwoTowerModel, batch: Batch, catalogue: Batch, encoded: Encoded, catalogue_size: int
    ) -> None:
        self._model, self._batch, self._catalogue, self._encoded = model, batch, catalogue, encoded
        self._catalogue_size = catalogue_size

    def of(self, objective: str) -> Scored:
        """Returns what the objective's loss sees; a streaming estimate has seen the step's items afterwards."""
        model, batch, encoded = self._model, self._batch, self._encoded
        loss, tau = model.losses[objective], model.settings.tau
        users, items = encoded.users[objective], encoded.items[objective]
        label, weight = label_and_weight(batch, model.settings.all_objectives[objective].label)
        score = tf.reduce_sum(users * items, axis=1) / tau
        sampled = None
        if loss.takes_sampled and encoded.drawn is not None:
            sampled = encoded.drawn.beside(users, encoded.negatives[objective], tau)
        if objective in model.biases:
            score += model.biases[objective]
            if sampled is not None:
                sampled = replace(sampled, logits=sampled.logits + model.biases[objective])
        candidates = self._candidates(objective, loss, label, weight) if loss.reads_candidates else None
        return Scored(score, label, weight, batch[USER_KEY], batch[ITEM_KEY], candidates, sampled)

    def _candidates(self, objective: str, loss: LossKind, label: tf.Tensor, weight: tf.Tensor) -> Candidates:
        batch, users = self._batch, self._encoded.users[objective]
        joined = loss.joins_ranks and hvd.size() > 1
        rows = tf.shape(users)[0]

        def joint(values: tf.Tensor, name: str) -> tf.Tensor:
            return gather(values, f"{objective}_{name}") if joined else values

        positive = positives(label, weight)
        keys = tf.stack(
            [batch[USER_KEY], batch[ITEM_KEY], tf.cast(positive, tf.int64), tf.cast(weight > 0, tf.int64)], axis=1
        )
        chance = ITEM_ROW_PROBABILITY if loss.draws_all_rows else ITEM_PROBABILITY
        keys, share = joint(keys, "keys"), joint(batch[chance], "share")
        vectors = self._encoded.items[objective]
        if joined:
            own, vectors = vectors, gather_candidates(vectors, f"{objective}_candidates")
            note_wait([users, own], vectors)
        user_keys, item_keys, positive, real = tf.unstack(keys, axis=1)
        uniform = tf.zeros_like(real)
        if count := loss.catalogue_items:  # the rank drew as many as the objective that asks for most
            more = self._encoded.uniform[objective][:count]
            more_keys = joint(self._catalogue[ITEM_KEY][:count], "uniform_keys")
            more_share = joint(self._catalogue[chance][:count], "uniform_share")
            if joined:
                more = gather_candidates(more, f"{objective}_uniform")
            vectors, ones = tf.concat([vectors, more], 0), tf.ones_like(more_keys)
            share = tf.concat([share, more_share], 0)
            item_keys = tf.concat([item_keys, more_keys], 0)
            user_keys, positive = (tf.concat([old, tf.zeros_like(more_keys)], 0) for old in (user_keys, positive))
            real, uniform = tf.concat([real, ones], 0), tf.concat([uniform, ones], 0)
        return Candidates(
            user_vectors=users / self._model.settings.tau,
            vectors=vectors,
            own=tf.range(rows) + (hvd.rank() * rows if joined else 0),
            users=user_keys,
            items=item_keys,
            positive=positive > 0,
            real=real > 0,
            uniform=uniform > 0,
            share=share,
            appearances=self._appearances(objective, loss, item_keys, label, weight),
            catalogue_size=self._catalogue_size,
        )

    def _appearances(
        self, objective: str, loss: LossKind, items: tf.Tensor, label: tf.Tensor, weight: tf.Tensor
    ) -> tf.Tensor | None:
        """Shows the step's targets of all ranks to the streaming estimate, and asks it for the candidates."""
        frequency = self._model.frequencies.get(objective)
        if frequency is None:
            return None
        counts = weight > 0 if loss.draws_all_rows else positives(label, weight)
        drawn = gather(tf.where(counts, self._batch[ITEM_KEY], NO_KEY), f"{objective}_drawn")
        frequency.update(tf.boolean_mask(drawn, drawn != NO_KEY))
        appearances = frequency.appearances(items)
        # The estimate is of the joint batch: a rank's own has its share of that.
        return appearances if loss.joins_ranks else appearances / hvd.size()


def scorer_rows(model: TwoTowerModel, batch: Batch, encoded: Encoded) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the scorer's logits, labels and weights of the batch's rows and their negatives: (rows,) each."""
    assert model.scorer is not None
    objective = next(iter(model.losses))
    users, items = encoded.users[objective], encoded.items[objective]
    label, weight = label_and_weight(batch, model.settings.all_objectives[objective].label)
    drawn = encoded.drawn
    if drawn is not None:
        row, place = tf.unstack(drawn.places, axis=1)
        users = tf.concat([users, tf.gather(users, row)], axis=0)
        items = tf.concat([items, encoded.negatives[objective]], axis=0)
        weight = tf.concat([weight, tf.gather(weight, row) * tf.gather(drawn.weight, place)], axis=0)
        label = tf.concat([label, tf.zeros_like(row, tf.float32)], axis=0)
    return model.scorer([users, items], training=True), tf.clip_by_value(label, 0.0, 1.0), weight
