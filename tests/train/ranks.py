"""Runs in every rank of a launch (`python -m tests.train.ranks FOLDER`) and leaves what it saw in FOLDER/rankR.npz.

That is what `tests.train.joint` finds, and two trainings by the worker: beside what that reads, FOLDER/run.json and
FOLDER/few.json hold the settings of two written runs, the second with fewer files than ranks. The tests compare the
ranks, and their launches with those of other numbers of ranks.
"""

from __future__ import annotations

import sys
from pathlib import Path

import horovod.tensorflow as hvd
import numpy as np

from dssm.config import Settings
from dssm.manifest import LABEL, USER_KEY, WEIGHT
from dssm.model.towers import TwoTowers
from dssm.sections import Model
from dssm.stream.batches import Batch
from dssm.train import worker
from dssm.train.saving import model_version
from dssm.train.step import Losses, make_step
from tests.datasets import Rows
from tests.train.joint import all_found


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


def steps_seen(name: str, seen: list[Batch], towers: TwoTowers, model: Model) -> Rows:
    found = {f"{name}/weights/{variable.name}": variable.numpy() for variable in towers.variables}
    shares = {objective: of.share for objective, of in model.all_objectives.items()}
    found[f"{name}/version"] = np.array(model_version(towers, model.similarity, shares))
    for short, column in (("keys", USER_KEY), ("row_weights", WEIGHT), ("labels", LABEL)):
        found[f"{name}/{short}"] = np.stack([batch[column].numpy() for batch in seen])
    return found


def main(folder: Path) -> None:
    hvd.init()
    rank = hvd.rank()
    run, few = (Settings.model_validate_json((folder / f"{name}.json").read_text()) for name in ("run", "few"))
    found = all_found(folder)

    seen: list[Batch] = []
    trained: list[TwoTowers] = []
    record_steps(seen, trained)
    worker._Trainer(few).run(lambda report: None)
    found |= steps_seen("few", seen, trained.pop(), few.model)
    seen.clear()
    found["manifest"] = np.array(worker.train_worker(run.model_dump_json()))
    found |= steps_seen("run", seen, trained.pop(), run.model)
    np.savez(folder / f"rank{rank}.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
