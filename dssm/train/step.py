"""One training step: rows to losses, to gradients over all ranks, to new weights."""

from __future__ import annotations

from collections.abc import Callable

import horovod.tensorflow as hvd
import tensorflow as tf

from dssm.config import Settings
from dssm.manifest import EVENT_TIME, ITEM_KEY, ITEM_PROBABILITY, LABEL, USER_KEY, WEIGHT, ColumnSpec, target_column
from dssm.model.losses.parts import weighted_bce
from dssm.model.optimizers import build_optimizer
from dssm.model.optimizers.gradients import add_l2, clip_gradients
from dssm.model.randomness import randomness_of_step
from dssm.model.two_tower import TwoTowerModel
from dssm.sections import Train
from dssm.stream.batches import Batch
from dssm.train.collectives import sum_gradients, total
from dssm.train.negatives import SampledNegatives
from dssm.train.scores import MAIN, Encoded, StepScores, encode, scorer_rows

DAY_MS = 86_400_000

# What the losses need beside the features.
STEP_COLUMNS = {
    USER_KEY: ColumnSpec(dtype="int64"),
    ITEM_KEY: ColumnSpec(dtype="int64"),
    LABEL: ColumnSpec(dtype="float32"),
    WEIGHT: ColumnSpec(dtype="float32"),
    ITEM_PROBABILITY: ColumnSpec(dtype="float32"),
}
# What they need of the catalogue's items.
CATALOGUE_COLUMNS = {name: STEP_COLUMNS[name] for name in (ITEM_KEY, ITEM_PROBABILITY)}

Losses = dict[str, tf.Tensor]  # scalars: "loss" is the whole, others are its parts
Step = Callable[[Batch, Batch], Losses]


def step_columns(settings: Settings) -> dict[str, ColumnSpec]:
    """Returns the columns that the losses read beside the features."""
    labels = {objective.label for objective in settings.model.all_objectives.values()} - {MAIN}
    columns = {**STEP_COLUMNS, **{target_column(name): STEP_COLUMNS[LABEL] for name in sorted(labels)}}
    return columns | ({EVENT_TIME: ColumnSpec(dtype="int64")} if settings.train.half_life_days else {})


def loss_shares(
    model: TwoTowerModel,
    batch: Batch,
    catalogue: Batch,
    encoded: Encoded,
    catalogue_size: int = 0,
) -> Losses:
    """Returns this rank's share of each objective's Σ weight · loss / Σ weight over all ranks' rows.

    The ranks' shares add up to the mean. Beside the objectives, `scorer` where there is one.
    """
    scores = StepScores(model, batch, catalogue, encoded, catalogue_size)
    shares = {}
    for name, loss in model.losses.items():
        losses, weights = loss.build(scores.of(name))
        shares[name] = _share(losses, weights, name)
    if model.scorer is not None:
        logits, labels, weights = scorer_rows(model, batch, encoded)
        shares["scorer"] = _share(weighted_bce(logits, labels, 1.0), weights, "scorer")
    return shares


def _share(losses: tf.Tensor, weights: tf.Tensor, name: str) -> tf.Tensor:
    return tf.reduce_sum(losses * weights) / tf.maximum(total(tf.reduce_sum(weights), f"{name}_weight"), 1e-12)


def total_loss(model: TwoTowerModel, shares: Losses) -> tf.Tensor:
    """Returns this rank's share of what is minimised: the objectives' losses as they are weighed, and the scorer's."""
    objectives = {name: shares[name] for name in model.losses}
    loss = model.weights.combine(objectives, 1.0 / hvd.size())
    if model.scorer is not None:
        assert model.settings.scorer is not None
        loss += model.settings.scorer.weight * shares["scorer"]
    return loss


def weighted_by_age(batch: Batch, now_ms: int, half_life_days: float | None) -> Batch:
    """Halves the rows' weights with each half-life between their event and `now_ms`."""
    if half_life_days is None:
        return batch
    days = tf.cast(now_ms - batch[EVENT_TIME], tf.float32) / DAY_MS
    # Padding has the time 0, which is 50 years ago: its weight is 0 whatever its age.
    age = tf.where(batch[WEIGHT] > 0, days, 0.0)
    return {**batch, WEIGHT: batch[WEIGHT] * tf.pow(2.0, -age / half_life_days)}


def make_step(
    settings: Settings,
    model: TwoTowerModel,
    optimizer: tf.keras.optimizers.Optimizer,
    negatives: SampledNegatives | None = None,
    catalogue_size: int = 0,
) -> Step:
    """Returns the compiled step: a batch and items of the catalogue in, the mean losses out; the weights have moved."""
    variables = list(model.trainable_variables)
    penalties = {variable.ref(): strength for variable, strength in model.towers.penalties}
    now = settings.day_start_ms(0)

    @tf.function(autograph=False)  # the losses' builders are found by name, which AutoGraph can't follow
    def step(batch: Batch, catalogue: Batch) -> Losses:
        batch = weighted_by_age(batch, now, settings.train.half_life_days)
        with tf.GradientTape() as tape, randomness_of_step(settings.seed, hvd.rank(), optimizer.iterations):
            encoded = encode(model.towers, batch, negatives, catalogue)
            shares = loss_shares(model, batch, catalogue, encoded, catalogue_size)
            share = total_loss(model, shares)
        gradients = sum_gradients(tape.gradient(share, variables))
        gradients = add_l2(gradients, variables, penalties, settings.model.embedding_l2, model.towers.embeddings)
        if settings.train.clip is not None:
            gradients = clip_gradients(settings.train.clip, gradients)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        losses = {"loss": total(share, "loss")}
        if len(shares) > 1:
            losses |= {f"loss/{name}": total(part, f"{name}_part") for name, part in shares.items()}
        return losses

    return step


def make_optimizer(train: Train, steps: int, model: TwoTowerModel) -> tf.keras.optimizers.Optimizer:
    """Builds the optimizer, its schedule and its state. Args: steps: of the whole training."""
    rate = train.schedule.build(train.learning_rate, steps)
    return build_optimizer(train.optimizer, rate, list(model.trainable_variables), model.towers.embeddings)
