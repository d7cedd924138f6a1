"""make bench-train: samples a second of a training, reading from Parquet included.

Rows of MovieLens' shape, drawn at random. The same two-tower, loss and optimizer as DeepMatch's DSSM, which Keras fits
on arrays in memory; then two ranks on a core each beside one, a table of five million rows beside one of fifty
thousand, and the memory of a rank at two sizes of the data. Every run is a process of its own; the rounds of all sides
go in turns, the best epoch of all rounds counts, and a run's first epoch, in which TensorFlow traces, never does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.report import report
from benchmarks.samples.measured import Measured, measured
from benchmarks.train.cores import cores_together
from benchmarks.train.data import TEST_ROWS, draw_log, write_arrays, write_run
from benchmarks.train.task import BATCHES, ROWS, THREADS
from dssm.config import load_settings
from dssm.paths import RunPaths

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / "data" / "bench"
PEER_PYTHON = PROJECT / ".venv-deepmatch" / "bin" / "python"
GLOBAL_BATCH = 4096  # of two ranks together, and of the one beside them
SMALL_TABLE, BIG_TABLE = 50_000, 5_000_000
TABLE_ROWS = 4096 * 40
MEMORY_FACTOR = 4
EPOCHS, ROUNDS, CORES = 2, 3, 2
GIB = 2**30

COLUMNS = ("", "samples/s", "ms a step", "input wait", "exchange", "bytes a step", "peak GiB")
NOTES = (
    "samples/s: of the fastest epoch but the first, from its begin to its end; reading and shuffling are part of it.",
    "DeepMatch: 0.3.2 on TensorFlow 2.15, Keras' fit on arrays in memory, no L2, the same maths; both sides: Adagrad,",
    "softmax over the batch less log q, six user and two item features and a history of 50, all 64 wide. This project",
    "takes batches of 256 with train.threads: 1. Ranks: the same joint batch; one core each. Tables: of user ids,",
    "row-wise Adagrad, no checkpoint in the time. Peak: PSS of the side's processes, saving the model included.",
    "exchange: of the last epoch's steps, in the ranks' collectives, waits for the slower rank included.",
    "cores_together: products of matrices by both cores at once over those of one, which bounds two_ranks.",
)


@dataclass(frozen=True)
class Run:
    """One training of one side.

    Attributes:
      name: of its row.
      rows, batch: an epoch's rows and a step's, of all ranks.
      seconds: of each epoch.
      peak_bytes: of all its processes.
      told: what the side says of itself beside that, such as input_wait.
    """

    name: str
    rows: int
    batch: int
    seconds: tuple[float, ...]
    peak_bytes: int
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def steady_s(self) -> float:
        """Seconds of the fastest epoch after the first; of the first where there is no other."""
        return min(self.seconds[1:] or self.seconds)

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.steady_s

    @property
    def step_s(self) -> float:
        return self.steady_s / -(-self.rows // self.batch)

    def row(self) -> list[str]:
        wait, sent = self.told.get("input_wait"), self.told.get("bytes_per_step")
        exchange = self.told.get("exchange") or [None]  # by epoch
        return [
            self.name,
            f"{self.rows_per_s:,.0f}",
            f"{1000 * self.step_s:.2f}",
            "" if wait is None else f"{100 * wait:.1f} %",
            "" if exchange[-1] is None else f"{100 * exchange[-1]:.0f} %",
            "" if sent is None else f"{sent:,.0f}",
            f"{self.peak_bytes / GIB:.2f}",
        ]


def last_json(output: str) -> dict[str, Any]:
    """Returns what a side printed last, whatever a launcher put before it on the line.

    Raises: RuntimeError with the output's end where there is none.
    """
    for line in reversed(output.splitlines()):
        if '{"' in line and line.rstrip().endswith("}"):
            return dict(json.loads(line[line.index('{"') :]))
    raise RuntimeError(f"no JSON line in the output\n{output[-4000:]}")


def as_run(name: str, rows: int, batch: int, used: Measured) -> Run:
    told = last_json(used.output)
    return Run(name, rows, batch, tuple(told.pop("seconds")), used.peak_bytes, told)


class Bench:
    """What all runs share: the folder of the drawn rows, the cores, the number of rows."""

    def __init__(self, work: Path, cores: Sequence[int], rows: int) -> None:
        self.work, self.cores, self.rows = work, list(cores), rows

    def ours(
        self, name: str, config: Path, rows: int, batch: int, *changes: str, ranks: int = 1, cores: int = CORES
    ) -> Run:
        """Trains once in a run folder of its own, on the samples that lie beside the settings."""
        changes = (f"train.batch_size={batch // ranks}", f"train.ranks={ranks}", "name=run", *changes)
        if ranks > 1:
            changes = (*changes, "train.launch=horovodrun")
        samples = RunPaths(load_settings(str(config)).run_folder).samples
        folder = Path(RunPaths(load_settings(str(config), changes).run_folder).folder)
        shutil.rmtree(folder, ignore_errors=True)  # else the training would go on where the last one ended
        folder.mkdir(parents=True)
        (folder / "samples").symlink_to(samples)
        command = [sys.executable, "-m", "benchmarks.train.rank", str(config)]
        command += ["--cores", ",".join(map(str, self.cores[:cores]))]
        command += [part for change in changes for part in ("--set", change)]
        if ranks > 1:
            launcher = str(Path(sys.executable).with_name("horovodrun"))
            command = [launcher, "-np", str(ranks), "--gloo", "--start-timeout", "300", *command]
        used = measured(command, PROJECT, {"TF_CPP_MIN_LOG_LEVEL": "3", "HOROVOD_GLOO_TIMEOUT_SECONDS": "300"})
        shutil.rmtree(folder)
        return as_run(name, rows, batch, used)

    def peer(self, arrays: Path, batch: int, epochs: int) -> Run:
        command = ["taskset", "-c", ",".join(map(str, self.cores)), str(PEER_PYTHON)]
        command += ["-m", "benchmarks.train.deepmatch_peer", str(arrays), str(batch), str(epochs)]
        used = measured(command, PROJECT, {"TF_CPP_MIN_LOG_LEVEL": "3"})
        return as_run(f"DeepMatch, batch {batch:,}", self.rows, batch, used)


Sides = Mapping[str, Callable[[], Run]]  # by key; each call is one more run


def deepmatch_sides(bench: Bench) -> Sides:
    log = draw_log(bench.rows + TEST_ROWS)
    config = write_run(bench.work / "movielens", log, bench.rows)
    arrays = bench.work / "rows.npz"
    write_arrays(arrays, log, bench.rows)
    sides: dict[str, Callable[[], Run]] = {}
    for batch in BATCHES:
        sides[f"deepmatch_{batch}"] = partial(bench.peer, arrays, batch, EPOCHS)
        name, changes = f"this project, batch {batch:,}", [f"train.epochs={EPOCHS}"]
        if batch in THREADS:
            changes.append(f"train.threads={THREADS[batch]}")
        sides[f"ours_{batch}"] = partial(bench.ours, name, config, bench.rows, batch, *changes)
    return sides


def rank_sides(bench: Bench) -> Sides:
    config = write_run(bench.work / "ranks", draw_log(bench.rows + TEST_ROWS), bench.rows)
    common = (config, bench.rows, GLOBAL_BATCH, f"train.epochs={EPOCHS}")
    return {
        "one_rank": partial(bench.ours, "one rank on one core", *common, cores=1),
        "two_ranks": partial(bench.ours, "two ranks on a core each", *common, ranks=2),
    }


def table_sides(bench: Bench) -> Sides:
    rows = min(bench.rows, TABLE_ROWS)
    sides: dict[str, Callable[[], Run]] = {}
    for key, size in (("small_table", SMALL_TABLE), ("big_table", BIG_TABLE)):
        config = write_run(bench.work / key, draw_log(rows + TEST_ROWS, shown_users=size), rows)
        # The step's time is asked for: no checkpoint of either table is written beside it.
        changes = (f"train.epochs={EPOCHS}", "train.optimizer=rowwise_adagrad", "train.checkpoint.epoch_minutes=60")
        sides[key] = partial(bench.ours, f"table of {size:,} rows", config, rows, GLOBAL_BATCH, *changes)
    return sides


def memory_sides(bench: Bench) -> Sides:
    sides: dict[str, Callable[[], Run]] = {}
    for key, rows in (("rows", bench.rows), ("rows_times_4", bench.rows * MEMORY_FACTOR)):
        config = write_run(bench.work / key, draw_log(rows + TEST_ROWS), rows)
        sides[key] = partial(bench.ours, f"{rows:,} rows, one epoch", config, rows, GLOBAL_BATCH, "train.epochs=1")
    return sides


PARTS = {"deepmatch": deepmatch_sides, "ranks": rank_sides, "table": table_sides, "memory": memory_sides}
ONCE = ("memory",)  # a peak, not a time


def best(rounds: Sequence[Run]) -> Run:
    """Returns the fastest round."""
    return min(rounds, key=lambda run: run.steady_s)


def ratios(runs: Mapping[str, Run]) -> dict[str, float]:
    """Returns what the runs that were made say: above 1 is faster, but more for big_table_step and memory_4x_rows."""
    found = {}
    for batch in BATCHES:
        if f"deepmatch_{batch}" in runs:
            found[f"vs_deepmatch_{batch}"] = runs[f"ours_{batch}"].rows_per_s / runs[f"deepmatch_{batch}"].rows_per_s
    waits = [runs[f"ours_{batch}"].told.get("input_wait") for batch in BATCHES if f"ours_{batch}" in runs]
    if known := [wait for wait in waits if wait is not None]:
        found["input_wait"] = max(known)
    if "two_ranks" in runs:
        found["two_ranks"] = runs["two_ranks"].rows_per_s / runs["one_rank"].rows_per_s
    if "big_table" in runs:
        found["big_table_step"] = runs["big_table"].step_s / runs["small_table"].step_s
    if "rows_times_4" in runs:
        found["memory_4x_rows"] = runs["rows_times_4"].peak_bytes / runs["rows"].peak_bytes
    return found


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=positive, default=ROWS, help="rows of an epoch; %(default)s")
    parser.add_argument("--rounds", type=positive, default=ROUNDS, help="runs of each side; the best counts")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part of the benchmark; may be repeated")
    given = parser.parse_args(argv)
    wanted = given.only or list(PARTS)
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    if len(cores) < CORES:
        raise SystemExit(f"bench-train: {len(cores)} core, but two ranks and both sides are measured on {CORES}.")
    if "deepmatch" in wanted and not PEER_PYTHON.exists():
        raise SystemExit(f"bench-train: {PEER_PYTHON} is not there; make it first: scripts/setup_env.sh deepmatch")
    CACHE.mkdir(parents=True, exist_ok=True)
    runs: dict[str, Run] = {}
    for part in wanted:
        with tempfile.TemporaryDirectory(prefix="train-", dir=CACHE) as scratch:
            sides = PARTS[part](Bench(Path(scratch), cores, given.rows))
            made: dict[str, list[Run]] = {key: [] for key in sides}
            for number in range(1 if part in ONCE else given.rounds):
                for key, side in sides.items():
                    made[key].append(side())
                    shown = made[key][-1]
                    print(f"round {number + 1}: {shown.name}, {shown.rows_per_s:,.0f} samples/s", file=sys.stderr)
            runs |= {key: best(found) for key, found in made.items()}
    bounds = {"cores_together": cores_together(cores)} if "ranks" in wanted else {}
    report(
        "train",
        f"Training on {CORES} cores, {given.rows:,} rows an epoch",
        COLUMNS,
        [run.row() for run in runs.values()],
        ratios(runs) | bounds,
        notes=NOTES,
        figures={
            "rounds": given.rounds,
            "runs": {key: {"seconds": run.seconds, "rows": run.rows, **run.told} for key, run in runs.items()},
        },
        keep=given.only is None and given.rows == ROWS,
    )


if __name__ == "__main__":
    main()
