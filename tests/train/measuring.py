"""Runs in every rank of a launch (`python -m tests.train.measuring FOLDER`): measures its batches of the same rows."""

from __future__ import annotations

import sys
from pathlib import Path

import horovod.tensorflow as hvd
import numpy as np

from dssm.train import measure as measure_of_ranks
from dssm.train.measure import make_predict, measure
from tests.datasets import make_rows, make_settings
from tests.train.tiny import make_model

SCORED = ("auc", "scorer_auc")
BATCHES, BATCH_ROWS = 6, 8


def measured() -> dict[str, float]:
    """Returns the metrics of a model with a scorer; rank r of N has every N-th batch."""
    settings = make_settings("unused", model={"scorer": {"kind": "shallow", "layers": [4]}})
    model = make_model(settings)
    batches = [make_rows(settings, BATCH_ROWS, seed=number) for number in range(BATCHES)]
    return measure(model, make_predict(model), iter(batches[hvd.rank() :: hvd.size()]))


if __name__ == "__main__":
    hvd.init()
    np.savez(Path(sys.argv[1]) / f"few{hvd.rank()}.npz", **measured())
    measure_of_ranks.FEW_PLACES = 0
    np.savez(Path(sys.argv[1]) / f"many{hvd.rank()}.npz", **measured())
