"""Trains each run of a folder (`python -m tests.gpu.training FOLDER [together]`), on the GPU where there is one.

FOLDER/NAME.json holds the settings of a written run. FOLDER/NAME.stops may hold numbers of steps after which the
training is broken off, one after the other, before it goes to its end. What is seen comes into FOLDER/NAME.npz.

`together` takes all collectives of several ranks, though there is one: what they exchange is this rank's own.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from dssm.config import Settings
from dssm.model.sharded import ShardedEmbedding
from dssm.train import collectives, scores, step, worker
from dssm.train.exchange import ExchangePlan, exchange_of
from dssm.train.scores import tower_vectors
from dssm.train.step import make_step
from tests.datasets import Rows, make_rows


class BrokenOffError(Exception):
    """Raised in the place of a step."""


def take_all_collectives() -> None:
    """Lets the code that leaves collectives out for one rank believe that there are more."""
    as_of_two = SimpleNamespace(**{**vars(hvd), "size": lambda: 2})
    for module in (collectives, scores, step):
        module.hvd = as_of_two
    # Tables that are made whole for the export have no seed.
    ShardedEmbedding.is_spread = property(lambda self: self.seed is not None)
    worker.exchange_of = planned_both_ways


def planned_both_ways(*arguments: Any) -> ExchangePlan:
    """Plans the exchange so that every other table's gradients go dense."""
    plan = exchange_of(*arguments)
    whole = [table.use.name for table in plan.tables if table.way != "sharded"]
    return plan.forced({name: "sparse" if number % 2 else "dense" for number, name in enumerate(whole)})


def train(settings: Settings, steps: int | None = None) -> Rows:
    """Trains; with `steps`, until so many have been taken. Returns: what is seen."""
    losses: list[Any] = []
    models = []

    def make(*arguments: Any) -> Any:
        models.append(arguments[1])
        made = make_step(*arguments)

        def counted(*batches: Any) -> Any:
            if len(losses) == steps:
                raise BrokenOffError
            found = made(*batches)
            losses.append(found["loss"])
            return found

        return counted

    worker.make_step = make
    worker.train_here(settings, lambda report: None)
    model = models[-1]
    rows = {name: tf.constant(values) for name, values in make_rows(settings, 50, seed=77).items()}
    users, items = tower_vectors(model.towers, rows, training=False)
    first = next(iter(users))  # of the objectives
    seen = {"losses": np.array(losses), "users": users[first].numpy(), "items": items[first].numpy()}
    seen["device"] = np.array([variable.device for variable in model.towers.variables])
    seen["tf32"] = np.array(tf.config.experimental.tensor_float_32_execution_enabled())
    if gpus := tf.config.list_logical_devices("GPU"):
        seen["growth"] = np.array(tf.config.experimental.get_memory_growth(tf.config.get_visible_devices("GPU")[0]))
        seen["peak_bytes"] = np.array(
            tf.config.experimental.get_memory_info(gpus[0].name.removeprefix("/device:"))["peak"]
        )
    return seen | {f"weights/{variable.name}": variable.numpy() for variable in model.variables}


def main(folder: Path, how: str = "") -> None:
    hvd.init()
    if how == "together":
        take_all_collectives()
    for file in sorted(folder.glob("*.json")):
        settings = Settings.model_validate_json(file.read_text(encoding="utf-8"))
        stops = file.with_suffix(".stops")
        try:
            for steps in map(int, stops.read_text(encoding="utf-8").split() if stops.exists() else ()):
                with contextlib.suppress(BrokenOffError):
                    train(settings, steps)
            seen = train(settings)
        except Exception:  # the other runs are trained all the same, and the test that looks for this one fails
            file.with_suffix(".error").write_text(traceback.format_exc(), encoding="utf-8")
            continue
        seen["nccl"] = np.array(hvd.nccl_built())
        np.savez(file.with_suffix(".npz"), **seen)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
