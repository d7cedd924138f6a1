"""Runs in every rank of a launch (`python -m tests.train.ranks FOLDER`) and leaves what it saw in FOLDER/rankR.npz.

FOLDER/run.json and FOLDER/few.json hold the settings of two written runs, the second with fewer files
than ranks. The tests compare the ranks, and their launches with those of other numbers of ranks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from dssm.config import Settings
from dssm.manifest import LABEL, USER_KEY, WEIGHT
from dssm.model.export import weights_digest
from dssm.model.towers import TwoTowers
from dssm.stream.batches import Batch
from dssm.train import step as step_module
from dssm.train import worker
from dssm.train.collectives import sum_gradients
from dssm.train.step import make_optimizer, make_step, mean_loss, training_rows
from tests.datasets import NEGATIVE_KINDS, Rows, make_rows, make_settings
from tests.model.tiny import make_towers
from tests.train.tiny import make_negatives

JOINT_ROWS = 12  # of the batch of all ranks: a multiple of 1, 2 and 3 ranks

WITH_NEGATIVES = {
    "optimizer": "adagrad", "learning_rate": 0.05, "loss": "weighted_bce", "negatives": NEGATIVE_KINDS,
}  # fmt: skip

# Settings under which the ranks must do what one process does with the joint batch.
CASES = {
    "softmax": {"optimizer": "adagrad", "learning_rate": 0.05},
    "batch_logq": {
        "optimizer": "adagrad", "learning_rate": 0.05,
        "logq": "batch", "logq_strength": 0.5, "mask_accidental_hits": False,
    },
    "bce": {"optimizer": "adam", "learning_rate": 0.01, "loss": "weighted_bce", "positive_weight": 2.0},
    "negatives": WITH_NEGATIVES,
    "frozen_table": {**WITH_NEGATIVES, "storage": "table"},
}  # fmt: skip

# Rows of each joint batch that are padding: none, one, all of the later ranks, some of each.
PADDED_ROWS = [(), (1,), (6, 7, 8, 9, 10, 11), (0, 4, 5, 11)]


def joint_batches(settings: Settings) -> list[Rows]:
    """Draws joint batches with few users and items, so that there are accidental hits, and uneven padding."""
    drawn = []
    for number, padded in enumerate(PADDED_ROWS):
        rows = make_rows(settings, JOINT_ROWS, seed=number)
        rows[USER_KEY] = rows[USER_KEY] % 5 + 1
        for array in rows.values():
            array[list(padded)] = 0
        drawn.append(rows)
    return drawn


def gradient_function(settings: Settings, towers: TwoTowers) -> Callable[[Batch], list[tf.Tensor | tf.IndexedSlices]]:
    """Returns a function from a rank's batch to the gradient over all ranks of each trainable variable."""
    negatives = make_negatives(settings)

    @tf.function
    def gradients(batch: Batch) -> list[tf.Tensor | tf.IndexedSlices]:
        with tf.GradientTape() as tape:
            rows, users, items = training_rows(towers, batch, negatives)
            share = mean_loss(settings.model, settings.train, rows, users, items)
        return sum_gradients(tape.gradient(share, towers.trainable_variables))

    return gradients


def train_on_joint_batches(name: str) -> Rows:
    """Returns gradients before the first step, the loss of each step and the weights after the last."""
    settings = make_settings("unused", **CASES[name])
    towers = make_towers(settings, seed=3)
    share = JOINT_ROWS // hvd.size()
    own = slice(hvd.rank() * share, (hvd.rank() + 1) * share)
    parts = [{column: tf.constant(values[own]) for column, values in rows.items()} for rows in joint_batches(settings)]
    variables = towers.trainable_variables

    found: Rows = {}
    gradients = gradient_function(settings, towers)
    for number, part in enumerate(parts):
        of_part = list(zip(variables, gradients(part), strict=True))
        for variable, gradient in of_part:
            found[f"{name}/gradient/{number}/{variable.name}"] = tf.convert_to_tensor(gradient).numpy()
        found[f"{name}/sparse"] = np.array(
            [v.name for v, gradient in of_part if isinstance(gradient, tf.IndexedSlices)]
        )
    if name == "softmax":
        with_reduce_scatter = step_module.gather_candidates
        step_module.gather_candidates = lambda vectors: hvd.allgather(vectors, name="plain_candidates")
        for variable, gradient in zip(variables, gradient_function(settings, towers)(parts[0]), strict=True):
            found[f"{name}/plain_allgather/{variable.name}"] = tf.convert_to_tensor(gradient).numpy()
        step_module.gather_candidates = with_reduce_scatter

    step = make_step(settings.model, settings.train, towers, make_optimizer(settings.train), make_negatives(settings))
    found[f"{name}/losses"] = np.array([step(part).numpy() for part in parts * 2])
    for variable in towers.trained_variables:
        found[f"{name}/weights/{variable.name}"] = variable.numpy()
    return found


def record_steps(seen: list[Batch], trained: list[TwoTowers]) -> None:
    """Lets the worker keep the batches that it steps over and the towers that it trains."""

    def recording_make_step(model, train, towers, optimizer, negatives):
        step = make_step(model, train, towers, optimizer, negatives)
        trained.append(towers)

        def recording_step(batch: Batch) -> tf.Tensor:
            seen.append(batch)
            return step(batch)

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
    found["auc"] = np.array(worker._Trainer(run)._test_auc())

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
