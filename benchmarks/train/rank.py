"""This project's side: a rank that trains a run's settings in this process, on cores of its own if so told.

    python -m benchmarks.train.rank bench.yaml --cores 0,1 --set train.batch_size=4096

One process is one rank; under horovodrun each takes, of the cores named, the one of its place on the machine. Rank 0
prints a JSON line at the end: the seconds of each epoch, and what the model's manifest says of the steps.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence

NAMES = ("input_wait", "bytes_per_step", "rows_per_epoch", "loss")  # of the manifest, as far as it has them


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train.rank")
    parser.add_argument("config")
    parser.add_argument("--cores", type=lambda text: [int(core) for core in text.split(",")], required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args(argv)
    ranks, local_rank = int(os.environ.get("HOROVOD_SIZE", "1")), int(os.environ.get("HOROVOD_LOCAL_RANK", "0"))
    # Before TensorFlow is imported: its threads, and their number, are made of the cores that it finds.
    os.sched_setaffinity(0, given.cores if ranks == 1 else {given.cores[local_rank]})

    from dssm.config import load_settings
    from dssm.train.progress import Report
    from dssm.train.worker import train_here

    seconds: dict[int, float] = {}
    steps: dict[int, int] = {}

    def show(told: object) -> None:
        if isinstance(told, Report):  # else it is text
            seconds[told.epoch], steps[told.epoch] = told.seconds, told.steps

    manifest = train_here(load_settings(given.config, given.set), show)
    if int(os.environ.get("HOROVOD_RANK", "0")) == 0:
        found = {name: getattr(manifest, name, None) for name in NAMES}
        print("\n" + json.dumps({"seconds": [*seconds.values()], "steps": [*steps.values()], **found}), flush=True)


if __name__ == "__main__":
    main()
