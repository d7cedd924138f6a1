"""Training on joint batches: what N ranks must do as one process does (`python -m tests.train.joint FOLDER`).

Each rank takes its share of the rows of each batch, and leaves what it saw in FOLDER/rankR.npz. FOLDER/measured.json
holds the settings of a written run, whose test samples all ranks measure.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from dssm.config import Settings
from dssm.manifest import ITEM_ID, ITEM_INDEX, USER_KEY, target_column
from dssm.model.shards import Shard
from dssm.model.towers import build_towers
from dssm.model.two_tower import TwoTowerModel
from dssm.stream.batches import Batch
from dssm.train import scores, worker
from dssm.train.collectives import Gradient, sum_gradients
from dssm.train.exchange import exchange_of
from dssm.train.measure import measure, predictions
from dssm.train.rank_watchdog import expect_nothing
from dssm.train.scores import tower_vectors
from dssm.train.sharding import Sources, gathered_blocks, shard_states, shared_variables, whole_towers
from dssm.train.shares import ITEM_ROW_PROBABILITY
from dssm.train.step import EXCHANGE_S, RECEIVED_BYTES, make_optimizer, make_step
from tests.datasets import ITEMS, NEGATIVE_KINDS, SIZES, VECTORS, Rows, make_catalogue, make_rows, make_settings
from tests.train.resident import tables_in_memory
from tests.train.tiny import make_model, make_negatives

JOINT_ROWS = 12  # of the batch of all ranks: a multiple of 1, 2, 3 and 4 ranks
PASSES, LONG = 2, 13  # over the four joint batches: 8 steps, and 52 of the cases in LONG_CASES

WITH_NEGATIVES = {
    "optimizer": "adagrad", "learning_rate": 0.05, "loss": "weighted_bce", "negatives": NEGATIVE_KINDS,
}  # fmt: skip
SLOW = {"optimizer": "adagrad", "learning_rate": 0.05}
NORMED = {"layers": [8], "activation": "prelu", "batch_norm": True, "l2": 0.01}
OBJECTIVE_TOWER = {"kind": "multi_objective", "shared": {"kind": "senet", **NORMED}, "head": {"layers": [4]}}

# Tables of 12, 20 and 7 rows: none can be spread evenly over 2, 3 and 4 ranks.
SHARDED = {"embedding": {"placement": "sharded", "min_rows": 7}}
RESIDUAL = {
    "user_tower": {"layers": [8], "activation": "tanh", "residual": ["user_id"]},
    "item_tower": {"layers": [6], "activation": "tanh", "residual": ["item_id"]},
    "vector_dim": 4,
}

# Settings under which the ranks must do what one process does with the joint batch.
CASES: dict[str, dict[str, Any]] = {
    "softmax": SLOW,
    "batch_logq": {**SLOW, "loss": {"logq": "batch", "logq_strength": 0.5, "mask_accidental_hits": False}},
    "streaming": {**SLOW, "loss": {"logq": "streaming", "impression_weight": 0.3, "frequency": {"buckets": 64}}},
    "mixed": {**SLOW, "loss": {"kind": "mixed_negative", "logq": "batch"}, "clip": {"limit": 0.5}},
    "bce": {"optimizer": "adam", "learning_rate": 0.01, "loss": {"kind": "weighted_bce", "positive_weight": 2.0}},
    "bpr": {"optimizer": "lazy_adam", "learning_rate": 0.01, "loss": {"kind": "bpr", "negatives": "batch"}},
    "hinge": {**SLOW, "loss": {"kind": "hinge", "negatives": "batch"}},
    "negatives": WITH_NEGATIVES,
    "frozen_table": {**WITH_NEGATIVES, "storage": "table"},
    "sampled": {**WITH_NEGATIVES, "optimizer": "rowwise_adagrad", "loss": "sampled_softmax"},
    "batch_norm": {
        **WITH_NEGATIVES,
        "half_life_days": 3.0,
        "model": {"user_tower": NORMED, "item_tower": {**NORMED, "activation": "dice"}, "embedding_l2": 0.01},
    },
    "objectives": {
        **WITH_NEGATIVES,
        "model": {
            "user_tower": OBJECTIVE_TOWER,
            "item_tower": OBJECTIVE_TOWER,
            "objectives": {
                "click": {},
                "like": {"label": "like", "loss": {"kind": "regression", "prediction": "sigmoid"}},
                "choice": {"loss": "in_batch_softmax"},
            },
            "objective_weights": "uncertainty",
            "score_bias": True,
            "scorer": {"kind": "shallow", "layers": [6]},
        },
    },
    # All tables' gradients go dense: an optimizer that leaves rows alone tells whether these are the same.
    "dense_tables": {**WITH_NEGATIVES, "optimizer": "lazy_adam", "learning_rate": 0.01},
    # Of several ranks each has a part of the tables; one process has them whole.
    "sharded_rowwise": {
        **SLOW, "optimizer": "rowwise_adagrad", "clip": {"limit": 0.3}, "model": {**RESIDUAL, "embedding_l2": 0.01},
    },
    "sharded_lazy_adam": {
        **WITH_NEGATIVES, "optimizer": "lazy_adam", "learning_rate": 0.01, "clip": {"by": "norm", "limit": 0.2},
    },
    "sharded_adagrad": {**SLOW, "loss": {"kind": "mixed_negative"}, "clip": {"by": "value", "limit": 0.1}},
    "sharded_sgd": {"optimizer": {"kind": "sgd", "momentum": 0.5}, "learning_rate": 0.02},
}  # fmt: skip

# Where a rank's rows are compared with its own items alone: what one process does with each rank's rows apart.
OWN_CANDIDATES: dict[str, dict[str, Any]] = {
    "own_frequency": {**SLOW, "loss": {"candidates": "rank"}},
    # Beside uniform items it makes a difference how often a rank draws from the batch: without them q has a factor.
    "own_streaming": {
        **SLOW,
        "loss": {
            "kind": "mixed_negative", "candidates": "rank", "logq": "streaming",
            "frequency": {"buckets": 64, "rate": 0.5, "initial_gap": 5.0},
        },
    },
    "own_hinge": {**SLOW, "loss": {"kind": "hinge", "negatives": "batch", "candidates": "rank", "margin": 2.0}},
}  # fmt: skip
OWN_CANDIDATES_AT = 2  # ranks

OF_ALL_RANKS = ("softmax", "batch_logq", "streaming", "mixed", "bpr", "hinge")  # the losses' candidates are

# Two cores run all ranks: of cases whose exchange is alike, some are left out at three ranks, and more at four. One of
# each kind never is: candidates of all ranks, with the catalogue's and without; frequencies; batch norm; dense and
# sparse gradients; tables in parts.
OF_OWN_ROWS = ("negatives", "frozen_table", "sampled", "bce")
AT_TWO_RANKS = (*OF_OWN_ROWS, "sharded_adagrad", "sharded_sgd")
LEFT_OUT = {
    3: AT_TWO_RANKS,
    4: (*AT_TWO_RANKS, "batch_logq", "bpr", "hinge", "objectives", "sharded_lazy_adam"),
}

# One of each kind: candidates of all ranks, sampled negatives, batch norm, dense and sparse gradients, shards.
LONG_CASES = (*OF_ALL_RANKS, "batch_norm", "dense_tables", "sharded_rowwise")
MEASURED = ("softmax", "sharded_rowwise")  # whose vectors and towers for the export are looked at in the end

# Rows of each joint batch that are padding: none, one, all of the later ranks, some of each.
PADDED_ROWS = [(), (1,), (6, 7, 8, 9, 10, 11), (0, 4, 5, 11)]


def cases_at(ranks: int) -> tuple[str, ...]:
    return tuple(case for case in CASES if case not in LEFT_OUT.get(ranks, ()))


def joint_batches(settings: Settings) -> list[Rows]:
    """Draws joint batches with few users and items, so that there are accidental hits, and uneven padding."""
    drawn = []
    for number, padded in enumerate(PADDED_ROWS):
        rows = make_rows(settings, JOINT_ROWS, seed=number)
        rows[USER_KEY] = rows[USER_KEY] % 5 + 1
        rows[ITEM_ROW_PROBABILITY] = np.random.default_rng(number).uniform(0.001, 0.1, JOINT_ROWS).astype(np.float32)
        if number == 1:  # which says nothing of it
            rows[target_column("like")][:] = np.nan
        for array in rows.values():
            array[list(padded)] = 0
        drawn.append(rows)
    return drawn


def joint_catalogue(settings: Settings, number: int) -> Rows:
    """Draws the catalogue's items of a joint step, as many as its rows; none where no loss reads them."""
    if not settings.train.loss.catalogue_items:
        return {}
    chosen = np.random.default_rng(number).integers(0, ITEMS, JOINT_ROWS)
    return {
        name: values[chosen] for name, values in make_catalogue(settings).items() if name not in (ITEM_ID, ITEM_INDEX)
    }


@contextmanager
def recording_gradients(variables: Sequence[tf.Variable]) -> Iterator[list[tf.Variable]]:
    """A step that is traced inside notes its gradients over all ranks, before they are clipped.

    Yields: the gradients of the last step, as of `variables`; those of shards are of this rank's rows.
    """
    recorded = [tf.Variable(tf.zeros_like(variable)) for variable in variables]
    unrecorded = Sources.sum_over_ranks

    def sum_over_ranks(sources: Sources, *arguments: Any) -> tuple[list[Gradient], tf.Tensor]:
        summed, received = unrecorded(sources, *arguments)
        for kept, gradient in zip(recorded, summed, strict=True):
            if gradient is not None:
                kept.assign(tf.convert_to_tensor(gradient))
        return summed, received

    Sources.sum_over_ranks = sum_over_ranks
    try:
        yield recorded
    finally:
        Sources.sum_over_ranks = unrecorded


def sharded_model(settings: Settings, whole: TwoTowerModel) -> TwoTowerModel:
    """Returns a model with the weights of another that has its tables whole, of which it holds this rank's rows."""
    shard = Shard(hvd.rank(), hvd.size())
    towers = build_towers(
        settings.model, settings.features, SIZES, settings.vectors, {"post": VECTORS}, shard, table_seed=None
    )
    model = TwoTowerModel(settings.model, settings.train.loss, towers)
    spread = {id(table.embeddings) for table in model.towers.sharded}
    assert len(spread) == 3
    for new, old in zip(model.variables, whole.variables, strict=True):
        new.assign(old[shard.rank :: shard.ranks] if id(new) in spread else old)
    return model


def train_on_joint_batches(name: str) -> Rows:
    """Returns what is found before and after the first step, the loss of each step, and what the last one leaves."""
    share = JOINT_ROWS // hvd.size()
    how = {**CASES, **OWN_CANDIDATES}[name] | {"batch_size": share}
    settings = make_settings("unused", **how)
    model = make_model(settings, seed=3)
    if name.startswith("sharded") and hvd.size() > 1:
        settings = make_settings("unused", **{**how, "model": {**how.get("model", {}), **SHARDED}})
        model = sharded_model(settings, model)
    own = slice(hvd.rank() * share, (hvd.rank() + 1) * share)

    def of_rank(rows: Rows) -> Batch:
        return {column: tf.constant(values[own]) for column, values in rows.items()}

    parts = [
        (of_rank(rows), of_rank(joint_catalogue(settings, number)))
        for number, rows in enumerate(joint_batches(settings))
    ]
    found = gradients_by_plain_allgather(settings, parts[0]) if name == "softmax" else {}
    optimizer = make_optimizer(settings.train, 8, model)
    plan = exchange_of(settings, model, hvd.size())
    if name == "dense_tables":
        plan = plan.forced({table.use.name: "dense" for table in plan.tables})
    step = make_step(settings, model, optimizer, make_negatives(settings), ITEMS, plan)
    losses, received, exchange_s = [], [], []
    with recording_gradients(model.trainable_variables) as recorded:
        for batch, catalogue in parts * (LONG if name in LONG_CASES else PASSES):
            made = step(batch, catalogue)
            if len(losses) < len(parts):
                found |= whole_gradients(f"{name}/gradient/{len(losses)}", model, recorded)
            losses.append(made["loss"].numpy())
            received.append(made.get(RECEIVED_BYTES, tf.constant(0)).numpy())
            exchange_s.append(made.get(EXCHANGE_S, tf.constant(np.nan, tf.float64)).numpy())
            if len(losses) == 1 and model.towers.sharded == ():
                found |= state_of(f"{name}/first", settings, model, optimizer)
    found[f"{name}/losses"] = np.array(losses)
    found[f"{name}/received"] = np.array(received)
    found[f"{name}/exchange_s"] = np.array(exchange_s)
    found[f"{name}/expected"] = np.array([plan.weight_bytes, plan.expected_bytes])
    found |= state_of(f"{name}/weights", settings, model, optimizer)
    if name in LONG_CASES:
        measured = measure(model, partial(predictions, model), iter([batch for batch, _ in parts]))
        found |= {f"{name}/metrics/{metric}": np.array(value) for metric, value in measured.items()}
    if name in MEASURED:
        found |= {f"{name}/whole/{variable}": values for variable, values in whole_of(settings, model).items()}
    for state in shard_states(model, optimizer):
        found[f"{name}/held/{state.name}"] = np.array([state.variable.shape[0], state.rows])
    predict = tf.function(lambda batch: tower_vectors(model.towers, batch, training=False), autograph=False)
    vectors = [predict(batch) for batch, _ in parts] if name in MEASURED else []
    for side in (0, 1) if vectors else ():
        found[f"{name}/vectors/{side}"] = np.stack([part[side]["label"].numpy() for part in vectors])
    return found


def state_of(key: str, settings: Settings, model: TwoTowerModel, optimizer: tf.keras.optimizers.Optimizer) -> Rows:
    """Returns the weights and the optimizer's state; tables that are spread over ranks are made whole on rank 0."""
    slots = {id(variable) for variable in optimizer.variables}

    def place(variable: tf.Variable) -> str:
        return f"{key}/{'slots/' if id(variable) in slots else ''}{variable.name}"

    found = {place(variable): variable.numpy() for variable in shared_variables(model, optimizer)}
    if not any(table.is_spread for table in model.towers.sharded):
        return found
    for state in shard_states(model, optimizer):
        found |= of_first_rank(place(state.variable), state.variable, state.rows, state.shard)
    return found


def whole_gradients(key: str, model: TwoTowerModel, recorded: Sequence[tf.Variable]) -> Rows:
    """Returns the recorded gradients; those of tables that are spread over ranks are made whole on rank 0."""
    spread = {table.embeddings.ref(): table for table in model.towers.sharded if table.is_spread}
    found: Rows = {}
    for variable, gradient in zip(model.trainable_variables, recorded, strict=True):
        place = f"{key}/{variable.name}"
        if table := spread.get(variable.ref()):
            found |= of_first_rank(place, gradient, table.rows, table.shard)
        else:
            found[place] = gradient.numpy()
    return found


def of_first_rank(place: str, variable: tf.Variable, rows: int, shard: Shard) -> Rows:
    """Returns on rank 0 the whole of what is spread over ranks, in its place; on others nothing."""
    blocks = [block for _, block in gathered_blocks(variable, rows, shard, block_rows=8)]
    return {place: np.concatenate(blocks)} if hvd.rank() == 0 else {}


def whole_of(settings: Settings, model: TwoTowerModel) -> Rows:
    """Returns the weights of the towers for the export, which rank 0 has."""
    towers = whole_towers(settings, model.towers)
    assert (towers is None) == (hvd.rank() > 0)
    return {variable.name: variable.numpy() for variable in towers.variables} if towers else {}


def gradients_by_plain_allgather(settings: Settings, part: tuple[Batch, Batch]) -> Rows:
    """Returns the gradients of the first step where the candidates are gathered as Horovod does it."""
    model = make_model(settings, seed=3)
    with_reduce_scatter = scores.gather_candidates
    scores.gather_candidates = lambda vectors, _: hvd.allgather(vectors, name="plain_candidates")
    with recording_gradients(model.trainable_variables) as recorded:
        make_step(settings, model, make_optimizer(settings.train, 1, model), catalogue_size=ITEMS)(*part)
    scores.gather_candidates = with_reduce_scatter
    return whole_gradients("softmax/plain_allgather", model, recorded)


def exchanged_by_hand() -> Rows:
    """Sums gradients that differ between ranks, each table's either way: rank r has rows r, r + 1 (twice), or none."""
    rank, ranks = hvd.rank(), hvd.size()
    rows = [] if rank == 2 else [rank, rank + 1, rank + 1]
    values = np.arange(len(rows) * 2, dtype=np.float32).reshape(-1, 2) + 10 * rank
    table = tf.IndexedSlices(tf.constant(values), tf.constant(rows, tf.int64), tf.constant([6, 2]))
    summed, received = sum_gradients([table, None, tf.fill([3], rank + 1.0), table], dense=[3], name="by_hand")
    assert summed[1] is None
    found = {"by_hand/received": received.numpy(), "by_hand/plain": summed[2].numpy(), "by_hand/ranks": np.array(ranks)}
    for way, place in (("sparse", 0), ("dense", 3)):
        found[f"by_hand/{way}/ids"] = summed[place].indices.numpy()
        found[f"by_hand/{way}/table"] = tf.convert_to_tensor(
            tf.IndexedSlices(summed[place].values, summed[place].indices, tf.constant([6, 2]))
        ).numpy()
    return found


def metrics_of_test(settings: Settings) -> Rows:
    """Returns what a training of a written run, before its first step, measures of all ranks' test samples."""
    measured = worker._Trainer(settings).measures.test()
    expect_nothing()  # as a training does in the end
    return {f"metrics/{name}": np.array(value) for name, value in measured.items()}


def all_found(folder: Path) -> Rows:
    """Returns what this rank sees in all cases, under the case's name. Args: folder: with measured.json."""
    found = tables_in_memory() | exchanged_by_hand()
    found |= metrics_of_test(Settings.model_validate_json((folder / "measured.json").read_text(encoding="utf-8")))
    for name in (*cases_at(hvd.size()), *(OWN_CANDIDATES if hvd.size() == OWN_CANDIDATES_AT else ())):
        found |= train_on_joint_batches(name)
    return found


if __name__ == "__main__":
    hvd.init()
    here = Path(sys.argv[1])
    np.savez(here / f"rank{hvd.rank()}.npz", **all_found(here))
