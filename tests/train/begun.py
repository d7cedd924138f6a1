"""Runs in every rank of a launch (`python -m tests.train.begun SETTINGS…`): what a training begins with.

Of each file of settings, the state before the first step is left as the run's checkpoint `final`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import horovod.tensorflow as hvd

from dssm.config import Settings
from dssm.train import worker
from dssm.train.place import Place
from dssm.train.rank_watchdog import expect_nothing

if __name__ == "__main__":
    hvd.init()
    for name in sys.argv[1:]:
        trainer = worker._Trainer(Settings.model_validate_json(Path(name).read_text(encoding="utf-8")))
        trainer.state.claim()
        trainer.state.write_final(Place())
    expect_nothing()
