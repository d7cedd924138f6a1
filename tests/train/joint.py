"""Training on joint batches: what N ranks must do as one process does (`python -m tests.train.joint FOLDER`).

Each rank takes its share of the rows of each batch, and leaves what it saw in FOLDER/rankR.npz.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from dssm.config import Settings
from dssm.manifest import ITEM_ID, ITEM_INDEX, USER_KEY
from dssm.model.shards import Shard
from dssm.model.towers import build_towers
from dssm.model.two_tower import TwoTowerModel
from dssm.stream.batches import Batch
from dssm.train import scores
from dssm.train.collectives import sum_gradients
from dssm.train.exchange import exchange_of
from dssm.train.scores import encode, tower_vectors
from dssm.train.sharding import gathered_blocks, shard_states, shared_variables, whole_towers
from dssm.train.shares import ITEM_ROW_PROBABILITY
from dssm.train.step import EXCHANGE_S, RECEIVED_BYTES, loss_shares, make_optimizer, make_step, total_loss
from tests.datasets import ITEMS, NEGATIVE_KINDS, SIZES, VECTORS, Rows, make_catalogue, make_rows, make_settings
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
                "click": {"weight": 0.5},
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

GRADIENTS_OF = ("softmax", "mixed")  # whose gradients are looked at beside the weights and the optimizer's state

OF_ALL_RANKS = ("softmax", "batch_logq", "streaming", "mixed", "bpr", "hinge")  # the losses' candidates are

# At 1 and 2 ranks all cases are run; at 3 those where ranks share more than sums, and the shards; at 4 one of each.
AT_FOUR = (*OF_ALL_RANKS, "batch_norm", "dense_tables", "sharded_rowwise")
AT_THREE = (*AT_FOUR, "objectives", "sharded_lazy_adam", "sharded_adagrad", "sharded_sgd")

# One of each kind: candidates of all ranks, sampled negatives, batch norm, dense and sparse gradients, shards.
LONG_CASES = (*OF_ALL_RANKS, "batch_norm", "dense_tables", "sharded_rowwise")
MEASURED = ("softmax", "sharded_rowwise")  # whose vectors and towers for the export are looked at in the end

# Rows of each joint batch that are padding: none, one, all of the later ranks, some of each.
PADDED_ROWS = [(), (1,), (6, 7, 8, 9, 10, 11), (0, 4, 5, 11)]


def cases_at(ranks: int) -> tuple[str, ...]:
    return {3: AT_THREE, 4: AT_FOUR}.get(ranks, tuple(CASES))


def joint_batches(settings: Settings) -> list[Rows]:
    """Draws joint batches with few users and items, so that there are accidental hits, and uneven padding."""
    drawn = []
    for number, padded in enumerate(PADDED_ROWS):
        rows = make_rows(settings, JOINT_ROWS, seed=number)
        rows[USER_KEY] = rows[USER_KEY] % 5 + 1
        rows[ITEM_ROW_PROBABILITY] = np.random.default_rng(number).uniform(0.001, 0.1, JOINT_ROWS).astype(np.float32)
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


def gradient_function(
    settings: Settings, model: TwoTowerModel
) -> Callable[[Batch, Batch], list[tf.Tensor | tf.IndexedSlices]]:
    """Returns a function from a rank's batch to the gradient over all ranks of each trainable variable."""
    negatives = make_negatives(settings)

    @tf.function(autograph=False)
    def gradients(batch: Batch, catalogue: Batch) -> list[tf.Tensor | tf.IndexedSlices]:
        with tf.GradientTape() as tape:
            drawn = None if negatives is None else negatives.drawn(batch)
            encoded = encode(model.towers, batch, drawn, catalogue)
            share = total_loss(model, loss_shares(model, batch, catalogue, encoded, ITEMS))
        return sum_gradients(tape.gradient(share, model.trainable_variables))[0]

    return gradients


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
    how = {**CASES[name], "batch_size": share}
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
    found: Rows = {}
    if name in GRADIENTS_OF:
        found |= found_gradients(name, settings, model, parts)
    optimizer = make_optimizer(settings.train, 8, model)
    plan = exchange_of(settings, model, hvd.size())
    if name == "dense_tables":
        plan = plan.forced({table.use.name: "dense" for table in plan.tables})
    step = make_step(settings, model, optimizer, make_negatives(settings), ITEMS, plan)
    losses, received, exchange_s = [], [], []
    for batch, catalogue in parts * (LONG if name in LONG_CASES else PASSES):
        made = step(batch, catalogue)
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
        blocks = [block for _, block in gathered_blocks(state.variable, state.rows, state.shard, block_rows=8)]
        if hvd.rank() == 0:
            found[place(state.variable)] = np.concatenate(blocks)
    return found


def whole_of(settings: Settings, model: TwoTowerModel) -> Rows:
    """Returns the weights of the towers for the export, which rank 0 has."""
    towers = whole_towers(settings, model.towers)
    assert (towers is None) == (hvd.rank() > 0)
    return {variable.name: variable.numpy() for variable in towers.variables} if towers else {}


def found_gradients(name: str, settings: Settings, model: TwoTowerModel, parts: list[tuple[Batch, Batch]]) -> Rows:
    """Returns the gradients over all ranks of each part; with plain collectives as well for the first case."""
    found: Rows = {}
    variables, gradients = model.trainable_variables, gradient_function(settings, model)
    for number, part in enumerate(parts):
        of_part = list(zip(variables, gradients(*part), strict=True))
        for variable, gradient in of_part:
            found[f"{name}/gradient/{number}/{variable.name}"] = tf.convert_to_tensor(gradient).numpy()
        found[f"{name}/sparse"] = np.array(
            [v.name for v, gradient in of_part if isinstance(gradient, tf.IndexedSlices)]
        )
    if name == "softmax":
        with_reduce_scatter = scores.gather_candidates
        scores.gather_candidates = lambda vectors, _: hvd.allgather(vectors, name="plain_candidates")
        for variable, gradient in zip(variables, gradient_function(settings, model)(*parts[0]), strict=True):
            found[f"{name}/plain_allgather/{variable.name}"] = tf.convert_to_tensor(gradient).numpy()
        scores.gather_candidates = with_reduce_scatter
    return found


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


def all_found() -> Rows:
    """Returns what this rank sees in all cases, under the case's name."""
    found = exchanged_by_hand()
    for name in cases_at(hvd.size()):
        found |= train_on_joint_batches(name)
    return found


if __name__ == "__main__":
    hvd.init()
    np.savez(Path(sys.argv[1]) / f"rank{hvd.rank()}.npz", **all_found())
