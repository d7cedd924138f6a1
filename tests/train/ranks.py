"""Runs in every rank of a launch (`python -m tests.train.ranks FOLDER`) and leaves what it saw in FOLDER/rankR.npz.

FOLDER/run.json and FOLDER/few.json hold the settings of two written runs, the second with fewer files
than ranks. The tests compare the ranks, and their launches with those of other numbers of ranks.
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
from dssm.manifest import ITEM_ID, ITEM_INDEX, ITEM_PROBABILITY, LABEL, USER_KEY, WEIGHT
from dssm.model.export import weights_digest
from dssm.model.towers import TwoTowers
from dssm.model.two_tower import TwoTowerModel
from dssm.stream.batches import Batch
from dssm.train import scores, worker
from dssm.train.collectives import sum_gradients
from dssm.train.scores import encode
from dssm.train.shares import ITEM_ROW_PROBABILITY
from dssm.train.step import Losses, loss_shares, make_optimizer, make_step, total_loss
from tests.datasets import ITEMS, NEGATIVE_KINDS, Rows, make_catalogue, make_rows, make_settings
from tests.train.tiny import make_model, make_negatives

JOINT_ROWS = 12  # of the batch of all ranks: a multiple of 1, 2 and 3 ranks

WITH_NEGATIVES = {
    "optimizer": "adagrad", "learning_rate": 0.05, "loss": "weighted_bce", "negatives": NEGATIVE_KINDS,
}  # fmt: skip
SLOW = {"optimizer": "adagrad", "learning_rate": 0.05}
NORMED = {"layers": [8], "activation": "prelu", "batch_norm": True, "l2": 0.01}
OBJECTIVE_TOWER = {"kind": "multi_objective", "shared": {"kind": "senet", **NORMED}, "head": {"layers": [4]}}

# Settings under which the ranks must do what one process does with the joint batch.
CASES: dict[str, dict[str, Any]] = {
    "softmax": SLOW,
    "batch_logq": {**SLOW, "loss": {"logq": "batch", "logq_strength": 0.5, "mask_accidental_hits": False}},
    "streaming": {**SLOW, "loss": {"logq": "streaming", "impression_weight": 0.3, "frequency": {"buckets": 64}}},
    "mixed": {**SLOW, "loss": {"kind": "mixed_negative", "logq": "batch"}, "clip": {"limit": 0.5}},
    "bce": {"optimizer": "adam", "learning_rate": 0.01, "loss": {"kind": "weighted_bce", "positive_weight": 2.0}},
    "bpr": {"optimizer": "lazy_adam", "learning_rate": 0.01, "loss": {"kind": "bpr", "negatives": "batch"}},
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
}  # fmt: skip

GRADIENTS_OF = ("softmax", "mixed", "negatives", "frozen_table")  # whose gradients are looked at beside the weights

# Rows of each joint batch that are padding: none, one, all of the later ranks, some of each.
PADDED_ROWS = [(), (1,), (6, 7, 8, 9, 10, 11), (0, 4, 5, 11)]


def joint_batches(settings: Settings) -> list[Rows]:
    """Draws joint batches with few users and items, so that there are accidental hits, and uneven padding."""
    drawn = []
    for number, padded in enumerate(PADDED_ROWS):
        rows = make_rows(settings, JOINT_ROWS, seed=number)
        rows[USER_KEY] = rows[USER_KEY] % 5 + 1
        rows[ITEM_ROW_PROBABILITY] = rows[ITEM_PROBABILITY] / 2
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
            encoded = encode(model.towers, batch, negatives, catalogue)
            share = total_loss(model, loss_shares(model, batch, catalogue, encoded, ITEMS))
        return sum_gradients(tape.gradient(share, model.trainable_variables))

    return gradients


def train_on_joint_batches(name: str) -> Rows:
    """Returns gradients before the first step, the loss of each step and the weights after the last."""
    settings = make_settings("unused", **CASES[name])
    model = make_model(settings, seed=3)
    share = JOINT_ROWS // hvd.size()
    own = slice(hvd.rank() * share, (hvd.rank() + 1) * share)

    def of_rank(rows: Rows) -> Batch:
        return {column: tf.constant(values[own]) for column, values in rows.items()}

    parts = [
        (of_rank(rows), of_rank(joint_catalogue(settings, number)))
        for number, rows in enumerate(joint_batches(settings))
    ]
    variables = model.trainable_variables

    found: Rows = {}
    if name in GRADIENTS_OF:
        gradients = gradient_function(settings, model)
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

    optimizer = make_optimizer(settings.train, 8, model)
    step = make_step(settings, model, optimizer, make_negatives(settings), ITEMS)
    found[f"{name}/losses"] = np.array([step(*part)["loss"].numpy() for part in parts * 2])
    for variable in model.variables:
        if "vectors_" not in variable.name:  # a frozen table
            found[f"{name}/weights/{variable.name}"] = variable.numpy()
    return found


def record_steps(seen: list[Batch], trained: list[TwoTowers]) -> None:
    """Lets the worker keep the batches that it steps over and the towers that it trains."""

    def recording_make_step(settings, model, *others):
        step = make_step(settings, model, *others)
        trained.append(model.towers)

        def recording_step(batch: Batch, catalogue: Batch) -> Losses:
            seen.append(batch)
            return step(batch, catalogue)

        return recording_step

    worker.make_step = recording_make_step


def steps_seen(name: str, seen: list[Batch], towers: TwoTowers) -> Rows:
    found = {f"{name}/weights/{variable.name}": variable.numpy() for variable in towers.variables}
    found[f"{name}/digest"] = np.array(weights_digest(towers.variables))
    for short, column in (("keys", USER_KEY), ("row_weights", WEIGHT), ("labels", LABEL)):
        found[f"{name}/{short}"] = np.stack([batch[column].numpy() for batch in seen])
    return found


def main(folder: Path) -> None:
    hvd.init()
    rank = hvd.rank()
    run, few = (Settings.model_validate_json((folder / f"{name}.json").read_text()) for name in ("run", "few"))
    found: Rows = {}
    for name in CASES:
        found |= train_on_joint_batches(name)
    found["auc"] = np.array(worker._Trainer(run)._test_metrics()["auc"])

    seen: list[Batch] = []
    trained: list[TwoTowers] = []
    record_steps(seen, trained)
    worker._Trainer(few).run(lambda report: None)
    found |= steps_seen("few", seen, trained.pop())
    seen.clear()
    found["manifest"] = np.array(worker.train_worker(run.model_dump_json()))
    found |= steps_seen("run", seen, trained.pop())
    np.savez(folder / f"rank{rank}.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
