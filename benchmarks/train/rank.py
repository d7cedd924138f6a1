"""This project's side: a rank that trains a run's settings in this process, on cores of its own if so told.

    python -m benchmarks.train.rank bench.yaml --cores 0,1 --set train.batch_size=4096

One process is one rank; under horovodrun each takes, of the cores named, the one of its place on the machine. Rank 0
prints a JSON line at the end: the seconds of each epoch, the share of them that went into the ranks' exchange, and
what the model's manifest says of the steps.
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
    exchange: dict[int, list[float]] = {}

    def show(told: object) -> None:
        if isinstance(told, Report):  # else it is text
            seconds[told.epoch], steps[told.epoch] = told.seconds, told.steps
            if told.exchange is not None:  # with several ranks: of the steps since the report before
                exchange.setdefault(told.epoch, []).append(told.exchange)

    manifest = train_here(load_settings(given.config, given.set), show)
    if int(os.environ.get("HOROVOD_RANK", "0")) == 0:
        found = {name: getattr(manifest, name, None) for name in NAMES}
        of_epochs = {"seconds": [*seconds.values()], "steps": [*steps.values()]}
        of_epochs["exchange"] = [sum(shares) / len(shares) for shares in exchange.values()]
        print("\n" + json.dumps({**of_epochs, **found}), flush=True)


if __name__ == "__main__":
    main()
