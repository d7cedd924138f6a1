"""One training step: rows to losses, to gradients over all ranks, to new weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import horovod.tensorflow as hvd
import tensorflow as tf

from dssm.config import Settings
from dssm.errors import UserError
from dssm.manifest import EVENT_TIME, ITEM_KEY, ITEM_PROBABILITY, LABEL, USER_KEY, WEIGHT, ColumnSpec, target_column
from dssm.model.losses.parts import weighted_bce
from dssm.model.observed import observing, observing_part
from dssm.model.optimizers import build_optimizer
from dssm.model.optimizers.gradients import add_l2
from dssm.model.optimizers.schedules import Later, LearningRate
from dssm.model.randomness import randomness_of_step
from dssm.model.scorer import SCORER
from dssm.model.sharded import held_rows
from dssm.model.two_tower import TwoTowerModel
from dssm.samples.days import DAY_MS
from dssm.sections import Train
from dssm.stream.batches import Batch
from dssm.train.collectives import Gradient, total
from dssm.train.exchange import exchange_of
from dssm.train.negatives import SampledNegatives
from dssm.train.scores import MAIN, Encoded, StepScores, encode, scorer_rows
from dssm.train.sharding import Sources, fetch_rows, held_of
from dssm.train.traffic import ExchangePlan
from dssm.train.waits import note_wait, timing_waits

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

RECEIVED_BYTES = "received_bytes"  # by this rank for gradients and rows of sharded tables, int64

EXCHANGE_S = "exchange_s"  # of the ranks' exchange, waiting for others included, while this rank can't go on
NORM_EVERY = 10  # steps

Losses = dict[str, tf.Tensor]  # scalars: "loss" is the whole, others are its parts, but for RECEIVED_BYTES
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
) -> tuple[Losses, Losses]:
    """Returns this rank's share of each objective's Σ weight · loss / Σ weight over all ranks' rows, and Σ weight.

    The ranks' shares add up to the mean. Beside the objectives, `scorer` where there is one.
    Raises: UserError where a loss gives no loss and weight of each row.
    """
    scores = StepScores(model, batch, catalogue, encoded, catalogue_size)
    shares: Losses = {}
    row_weights: Losses = {}
    for name, loss in model.losses.items():
        scored = scores.of(name)
        with observing_part(name) if len(model.losses) > 1 else contextlib.nullcontext():
            losses, weights = loss.build(scored)
        _check_rows(model, name, losses, weights)
        shares[name], row_weights[name] = _share(losses, weights, name)
    if model.scorer is not None:
        logits, labels, weights = scorer_rows(model, batch, encoded)
        shares[SCORER], row_weights[SCORER] = _share(weighted_bce(logits, labels, 1.0), weights, SCORER)
    return shares, row_weights


def _check_rows(model: TwoTowerModel, objective: str, losses: tf.Tensor, weights: tf.Tensor) -> None:
    """Checks what a builder gave: losses (rows, 1) times weights (rows,) would be the loss of rows² pairs."""
    found = [tf.TensorShape(given.shape) for given in (losses, weights)]
    if not found[0].is_compatible_with(found[1]) or not all(shape.is_compatible_with([None]) for shape in found):
        own = model.settings.all_objectives[objective].loss
        key = "train.loss" if own is None else f"model.objectives.{objective}.loss"
        raise UserError(
            f"{key}: the builder of {model.losses[objective].kind} made losses {found[0]} and weights {found[1]}; "
            "expected (rows,) of both, equally many"
        )


def _share(losses: tf.Tensor, weights: tf.Tensor, name: str) -> tuple[tf.Tensor, tf.Tensor]:
    own, weight = tf.reduce_sum(losses * weights), total(tf.reduce_sum(weights), f"{name}_weight")
    note_wait(own, weight)
    return own / tf.maximum(weight, 1e-12), weight


def total_loss(model: TwoTowerModel, shares: Losses, row_weights: Losses) -> tf.Tensor:
    """Returns this rank's share of what is minimised: the objectives' losses as they are weighed, and the scorer's.

    Args: as of `loss_shares`.
    """
    objectives = {name: shares[name] for name in model.losses}
    loss = model.weights.combine(objectives, row_weights, 1.0 / hvd.size())
    if model.scorer is not None:
        assert model.settings.scorer is not None
        loss += model.settings.scorer.weight * shares[SCORER]
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
    plan: ExchangePlan | None = None,
) -> Step:
    """Returns the compiled step: a batch and items of the catalogue in, the mean losses out; the weights have moved.

    With several ranks it also returns RECEIVED_BYTES.

    Args: plan: of the gradients' exchange, the same on all ranks; default: `exchange_of` these settings.
    """
    variables, sharded = list(model.trainable_variables), model.towers.sharded
    penalties = {variable.ref(): strength for variable, strength in model.towers.penalties}
    now = settings.day_start_ms(0)
    plan = exchange_of(settings, model, hvd.size()) if plan is None else plan

    # A clock is not deterministic; and a GPU computes behind the graph, whose clock would not see it.
    is_timed = hvd.size() > 1 and not settings.train.deterministic and not tf.config.list_logical_devices("GPU")

    @tf.function(autograph=False)  # the losses' builders are found by name, which AutoGraph can't follow
    def step(batch: Batch, catalogue: Batch) -> Losses:
        batch = weighted_by_age(batch, now, settings.train.half_life_days)
        drawn = None if negatives is None else negatives.drawn(batch)
        with timing_waits(is_timed) as waits:
            fetched = fetch_rows(sharded, [batch, {} if drawn is None else drawn.columns, catalogue], "step")
            sources = Sources.of(variables, sharded, fetched)
            with (
                tf.GradientTape() as tape,
                randomness_of_step(settings.seed, hvd.rank(), optimizer.iterations),
                held_rows(held_of(fetched)),
                observing() as observed,
            ):
                tape.watch([of_table.held.rows for of_table in fetched.values()])
                encoded = encode(model.towers, batch, drawn, catalogue)
                shares, row_weights = loss_shares(model, batch, catalogue, encoded, catalogue_size)
                share = total_loss(model, shares, row_weights)
            own = tape.gradient(share, sources.tensors)
            gradients, received = sources.sum_over_ranks(own, plan)
            note_wait(own, gradients)
        exchange: Losses = {EXCHANGE_S: tf.add_n(waits)} if is_timed else {}
        if hvd.size() > 1:
            exchange[RECEIVED_BYTES] = received
        gradients = add_l2(gradients, variables, penalties, model.towers.embeddings)
        if settings.train.clip is not None:
            gradients = sources.clip(settings.train.clip, gradients)
        norms = _norms(gradients, variables, model, optimizer.iterations)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return _losses(share, shares) | norms | observed | exchange

    return step


def _norms(gradients: list[Gradient], variables: list[tf.Variable], model: TwoTowerModel, step: tf.Variable) -> Losses:
    """Returns the gradients' norms of each tower, of the tables and of others, in one of NORM_EVERY steps; NaN in
    others.

    A tower's are those of all its layers but the tables, which both may share; others are what the losses learn.
    """
    group_of = {v.ref(): side for side in ("user", "item") for v in getattr(model, side).trainable_variables}
    group_of |= {table.ref(): "tables" for table in model.towers.embeddings}
    groups: dict[str, list[Gradient]] = {}
    for gradient, variable in zip(gradients, variables, strict=True):
        if gradient is not None:
            groups.setdefault(group_of.get(variable.ref(), "others"), []).append(gradient)
    due = tf.equal(step % NORM_EVERY, NORM_EVERY - 1)

    def norm(of_group: list[Gradient]) -> tf.Tensor:
        return tf.cond(due, lambda: tf.linalg.global_norm(of_group), lambda: tf.constant(float("nan")))

    return {f"gradient_norm/{name}": norm(of_group) for name, of_group in groups.items()}


def _losses(share: tf.Tensor, shares: Losses) -> Losses:
    """Returns the mean losses of all ranks' rows: the whole and, where there are several, its parts."""
    names = ["loss", *(f"loss/{name}" for name in shares if len(shares) > 1)]
    parts = [share, *shares.values()][: len(names)]
    return dict(zip(names, tf.unstack(total(tf.stack(parts), "losses"), len(names)), strict=True))


def planned_rate(train: Train, steps: int, before: int = 0) -> LearningRate:
    """Returns the learning rate, or the schedule. Args: as of `make_optimizer`."""
    rate = train.schedule.build(train.learning_rate, steps)
    return Later(rate, before) if before and callable(rate) else rate


def make_optimizer(train: Train, steps: int, model: TwoTowerModel, before: int = 0) -> tf.keras.optimizers.Optimizer:
    """Builds the optimizer, its schedule and its state.

    Args:
      steps: of the whole training.
      before: steps that the optimizer's state has seen in an earlier training; the schedule counts from there.
    """
    rate = planned_rate(train, steps, before)
    optimizer = build_optimizer(train.optimizer, rate, list(model.trainable_variables), model.towers.embeddings)
    optimizer._deduplicate_sparse_grad = list  # `merge_rows` has done it; twice costs a tenth of a small batch's step
    return optimizer
