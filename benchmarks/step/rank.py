"""A rank whose training step is profiled: `python -m benchmarks.step.rank CONFIG --cores 0,1`.

Batches are made once and stepped through in a loop, without reading; TensorFlow's profiler says how long each operation
ran. Under horovodrun each rank takes, of the cores named, the one of its place on the machine. Rank 0 prints a JSON
line: milliseconds of a step on the clock, of each group of operations and of the ranks' exchange, and the cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

BATCHES_HELD, WARM_UP, PROFILED = 20, 20, 40
STEP, EXCHANGE = "step", "exchange between ranks, waits for the other included"

# The first that fits names the group: by an operation's kind, then by what its name or kind holds.
BY_KIND = {
    "products of matrices": ("MatMul", "_MklMatMul", "_MklFusedMatMul", "_MklNativeFusedMatMul", "_FusedMatMul"),
}
BY_NAME = {
    "updates of weights": ("Adagrad", "apply_gradients"),
    "look-ups and lists": ("pooling", "embedding", "Unique", "UnsortedSegmentSum"),
    "towers, all else": ("user_tower", "item_tower"),
}
OTHERS = "loss, all else"


def group_of(name: str, kind: str) -> str:
    """Returns the group of an operation.

    >>> group_of("gradient_tape/user_tower/user.dense_1/MatMul", "_MklMatMul")
    'products of matrices'
    """
    for group, kinds in BY_KIND.items():
        if kind in kinds:
            return group
    for group, parts in BY_NAME.items():
        if any(part in name or part in kind for part in parts):
            return group
    return OTHERS


Event = tuple[float, float, str]  # begin and end in ms, group


def events_of(folder: str) -> Iterator[Event]:
    """Yields the operations of the profile in a folder; Horovod's are not among them.

    Theirs are of their start alone: the step itself times what they take.
    """
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    (path,) = Path(folder).glob("plugins/profile/*/*.xplane.pb")
    space = xplane_pb2.XSpace()
    space.ParseFromString(path.read_bytes())
    for plane in space.planes:
        names = {key: event.name for key, event in plane.event_metadata.items()}
        for line in plane.lines:
            for event in line.events:
                name, colon, kind = names[event.metadata_id].rpartition(":")
                if not colon or not kind.isidentifier() or "::" in names[event.metadata_id]:
                    continue
                if not name.startswith("Eager") and not kind.startswith("Horovod"):
                    begin = line.timestamp_ns / 1e6 + event.offset_ps / 1e9
                    yield begin, begin + event.duration_ps / 1e9, group_of(name, kind)


def time_of_cores(events: Iterable[Event], cores: int) -> Counter[str]:
    """Returns the cores' milliseconds by group: operations that run at once, more than there are cores, share them.

    >>> time_of_cores([(0, 2, "a"), (1, 3, "b")], cores=1)
    Counter({'a': 1.5, 'b': 1.5})
    """
    changes = sorted(change for begin, end, group in events for change in ((begin, 1, group), (end, -1, group)))
    found: Counter[str] = Counter()
    running: Counter[str] = Counter()
    for (now, change, group), (then, _, _) in itertools.pairwise(changes):
        running[group] += change
        at_once = running.total()
        for other, count in running.items():
            found[other] += (then - now) * count * min(1.0, cores / max(at_once, 1))
    return found


def wait_for(folder: Path, what: str, trainings: int, meanwhile: Callable[[], object]) -> None:
    """Says in a folder that this training has come to something, and waits until all have."""
    (folder / f"{what}-{os.getpid()}").touch()
    while len(list(folder.glob(f"{what}-*"))) < trainings:
        meanwhile()


def profiled(config: str, changes: Sequence[str], folder_of_all: Path | None, trainings: int) -> dict[str, float]:
    """Returns milliseconds a step of this rank.

    Args: folder_of_all, trainings: of several at once that share nothing: each is busy while any of them is measured.
    """
    import horovod.tensorflow as hvd
    import tensorflow as tf

    from dssm.config import load_settings
    from dssm.stream.plan import Leg
    from dssm.train.devices import use_device
    from dssm.train.rank_watchdog import expect_nothing
    from dssm.train.step import EXCHANGE_S
    from dssm.train.worker import _Trainer

    hvd.init()
    settings = load_settings(config, changes)
    use_device(settings)
    trainer = _Trainer(settings)
    reading = trainer.passes.all[0].reading(settings.seed, [Leg(hvd.size(), settings.train.batch_size, 0)])
    held = list(itertools.islice(trainer.inputs.batches("train", reading), BATCHES_HELD))

    def run(steps: int) -> tuple[float, float]:
        """Returns milliseconds a step, and those of the exchange."""
        began, losses, exchange = time.perf_counter(), {}, []
        for _, given in zip(range(steps), itertools.cycle(held), strict=False):
            losses = trainer.step(given, {})
            exchange.append(losses.get(EXCHANGE_S, 0.0))
        float(losses["loss"])
        return (time.perf_counter() - began) / steps * 1000, sum(map(float, exchange)) / steps * 1000

    run(WARM_UP)
    if folder_of_all is not None:
        wait_for(folder_of_all, "begun", trainings, lambda: run(1))
    step, exchange = min(run(PROFILED) for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        profiled_step, _ = run(PROFILED)
        tf.profiler.experimental.stop()
        of_steps = time_of_cores(events_of(folder), len(os.sched_getaffinity(0)))
        # A profile takes time itself, and no step is like another: parts of the steps that are told.
        groups = {name: ms / PROFILED * step / profiled_step for name, ms in of_steps.items()}
    if folder_of_all is not None:
        wait_for(folder_of_all, "done", trainings, lambda: run(1))
    expect_nothing()
    return {STEP: step, **groups, **({EXCHANGE: exchange} if hvd.size() > 1 else {})}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step.rank")
    parser.add_argument("config")
    parser.add_argument("--cores", type=lambda text: [int(core) for core in text.split(",")], required=True)
    parser.add_argument("--together", type=Path, help="a folder, of trainings that are measured at the same time")
    parser.add_argument("--trainings", type=int, default=1, help="how many these are")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args(argv)
    ranks, local_rank = int(os.environ.get("HOROVOD_SIZE", "1")), int(os.environ.get("HOROVOD_LOCAL_RANK", "0"))
    cores = set(given.cores) if ranks == 1 else {given.cores[local_rank]}
    os.sched_setaffinity(0, cores)  # before TensorFlow is imported, whose threads are made of the cores that it finds
    found = profiled(given.config, given.set, given.together, given.trainings)
    if int(os.environ.get("HOROVOD_RANK", "0")) == 0:
        print("\n" + json.dumps({"cores": len(cores), **found}), flush=True)


if __name__ == "__main__":
    main()
