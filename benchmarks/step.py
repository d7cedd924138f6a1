"""make bench-step: where the time of a training step goes, of the task of bench-train.

Batches are made once and stepped through in a loop, without reading; TensorFlow's profiler says how long each operation
ran. What no operation of the step accounts for is the runtime's: starting operations, and the call from Python.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.report import report
from benchmarks.train.data import TEST_ROWS, draw_log, write_run
from benchmarks.train.task import BATCHES, THREADS

BATCHES_HELD, WARM_UP, PROFILED = 20, 20, 40
ROWS = 131_072

# The first that fits names the group: by what an operation's name holds, then by its kind.
BY_NAME = {
    "updates of weights": ("Adagrad", "apply_gradients"),
    "look-ups and lists": ("pooling", "embedding", "Unique", "UnsortedSegmentSum"),
    "towers, all else": ("user_tower", "item_tower"),
}
BY_KIND = {
    "products of matrices": ("MatMul", "_MklMatMul", "_MklFusedMatMul", "_MklNativeFusedMatMul", "_FusedMatMul"),
}
OTHERS, RUNTIME = "loss, all else", "runtime: starting operations, waiting, Python"


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


def operation_ms(folder: str) -> Counter[str]:
    """Returns the milliseconds of all operations by group, of the profile in a folder."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    (path,) = Path(folder).glob("plugins/profile/*/*.xplane.pb")
    space = xplane_pb2.XSpace()
    space.ParseFromString(path.read_bytes())
    found: Counter[str] = Counter()
    for plane in space.planes:
        names = {key: event.name for key, event in plane.event_metadata.items()}
        for event in itertools.chain.from_iterable(line.events for line in plane.lines):
            name, colon, kind = names[event.metadata_id].rpartition(":")
            if colon and kind.isidentifier() and "::" not in names[event.metadata_id] and not name.startswith("Eager"):
                found[group_of(name, kind)] += event.duration_ps / 1e9
    return found


def profiled(config: Path, batch: int, cores: int) -> dict[str, float]:
    """Returns milliseconds a step by group, on all cores together, and of the step on the clock as `step`."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    from dssm.config import load_settings
    from dssm.stream.plan import Leg
    from dssm.train.devices import use_device
    from dssm.train.worker import _Trainer

    threads = [f"train.threads={THREADS[batch]}"] if batch in THREADS else []
    settings = load_settings(str(config), [f"train.batch_size={batch}", *threads])
    hvd.init()
    use_device(settings)
    trainer = _Trainer(settings)
    reading = trainer.passes.all[0].reading(settings.seed, [Leg(1, batch, 0)])
    held = list(itertools.islice(trainer.inputs.batches("train", reading), BATCHES_HELD))

    def run(steps: int) -> float:
        """Returns seconds."""
        began, losses = time.perf_counter(), {}
        for _, given in zip(range(steps), itertools.cycle(held), strict=False):
            losses = trainer.step(given, {})
        float(losses["loss"])
        return time.perf_counter() - began

    run(WARM_UP)
    step = min(run(PROFILED) for _ in range(3)) / PROFILED * 1000
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        run(PROFILED)
        tf.profiler.experimental.stop()
        groups = {name: ms / PROFILED for name, ms in operation_ms(folder).items()}
    return {"step": step, **groups, RUNTIME: max(cores * step - sum(groups.values()), 0.0)}


def rows_of(found: dict[int, dict[str, float]], cores: int) -> list[list[str]]:
    groups = [*BY_KIND, *BY_NAME, OTHERS, RUNTIME]
    lines = [["a step, on the clock", *itertools.chain.from_iterable((f"{f['step']:.2f}", "") for f in found.values())]]
    for group in groups:
        cells = [(of.get(group, 0.0), of.get(group, 0.0) / (cores * of["step"])) for of in found.values()]
        lines.append(
            [group, *itertools.chain.from_iterable((f"{ms:.2f}", f"{100 * part:.0f} %") for ms, part in cells)]
        )
    return lines


def _flat(parts: Iterable[Sequence[Any]]) -> list[Any]:
    return [*itertools.chain.from_iterable(parts)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, choices=BATCHES, help="one size alone")
    given = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="step-") as folder:
        config = write_run(Path(folder), draw_log(ROWS + TEST_ROWS), ROWS)
        # A process each: TensorFlow's threads are what they were at its start.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
            found = {
                batch: processes.submit(profiled, config, batch, cores).result()
                for batch in ([given.batch] if given.batch else BATCHES)
            }
    report(
        "step",
        f"A training step on {cores} cores: milliseconds of all cores",
        ["", *_flat((f"batch {batch:,}", "share") for batch in found)],
        rows_of(found, cores),
        {f"matrices_{batch}": of.get(next(iter(BY_KIND)), 0.0) / (cores * of["step"]) for batch, of in found.items()},
        notes=["Shares are of the step's time on the clock times the cores."],
        figures={str(batch): of for batch, of in found.items()},
        keep=given.batch is None,
    )


if __name__ == "__main__":
    main()
