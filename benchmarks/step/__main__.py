"""make bench-step: where the time of a training step goes, of the task of bench-train.

Each side is a process of its own, see `benchmarks.step.rank`: two sizes of a batch on the cores that they train with,
and the joint batch of two ranks, each with half of it on a core of its own, beside one rank with all of it on one core,
and beside two trainings of half of it that share nothing.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import report
from benchmarks.samples.measured import measured
from benchmarks.step.rank import BY_KIND, BY_NAME, EXCHANGE, OTHERS, STEP
from benchmarks.train.__main__ import PROJECT, last_json
from benchmarks.train.data import TEST_ROWS, draw_log, write_run
from benchmarks.train.task import BATCHES, THREADS

ROWS = 131_072
RUNTIME = "the rest: starting operations, waiting, Python"
MATRICES = next(iter(BY_KIND))
NOTES = (
    "Shares are of the step's time on the clock times the cores of the rank, of which a batch of 256 has one.",
    "Operations that run at once on fewer cores share them. One that two cores share counts once: with two cores, what",
    "that hides stands in the rest. The exchange is time on the clock, in which other operations may run: where they",
    "do, the rest is that much less. apart_step: one rank beside trainings that share nothing, one a core; but",
    "half a batch's softmax has half of the candidates, so that two ranks can't reach it.",
)


@dataclass(frozen=True)
class Side:
    """A training whose step is profiled.

    Attributes:
      batch: of a rank.
      cores: of all ranks together.
      ranks: that share their gradients.
      apart: whether each core has a training of its own, that shares nothing: what the machine itself leaves of a core
        while the other one is as busy.
    """

    title: str
    batch: int
    cores: int
    ranks: int = 1
    apart: bool = False

    def profiled(self, config: Path) -> dict[str, float]:
        """Returns rank 0's milliseconds a step by group, on all its cores together, and of the step on the clock."""
        changes = [f"train.batch_size={self.batch}", f"train.ranks={self.ranks}"]
        if self.batch in THREADS:
            changes.append(f"train.threads={THREADS[self.batch]}")
        if self.ranks > 1:
            changes.append("train.launch=horovodrun")
        cores = sorted(os.sched_getaffinity(0))[: self.cores]
        of_trainings = [[core] for core in cores] if self.apart else [cores]
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(of_trainings)) as trainings:
            more = ["--together", folder, "--trainings", str(len(of_trainings))] if self.apart else []
            found, *_ = trainings.map(lambda of: self._profiled(config, changes, of, more), of_trainings)
        cores_of_rank, step = found.pop("cores"), found.pop(STEP)
        return {"cores": cores_of_rank, STEP: step, **found, RUNTIME: cores_of_rank * step - sum(found.values())}

    def _profiled(
        self, config: Path, changes: Sequence[str], cores: Sequence[int], more: Sequence[str]
    ) -> dict[str, float]:
        command = [sys.executable, "-m", "benchmarks.step.rank", str(config), *more]
        command += ["--cores", ",".join(map(str, cores))]
        command += [part for change in changes for part in ("--set", change)]
        if self.ranks > 1:
            launcher = str(Path(sys.executable).with_name("horovodrun"))
            command = [launcher, "-np", str(self.ranks), "--gloo", "--start-timeout", "300", *command]
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "HOROVOD_GLOO_TIMEOUT_SECONDS": "300"}
        return last_json(measured(command, PROJECT, environment).output)


def sides(cores: int) -> dict[str, Side]:
    joint = BATCHES[-1]
    return {
        **{str(batch): Side(f"batch {batch:,}", batch, min(cores, THREADS.get(batch, cores))) for batch in BATCHES},
        "one_rank": Side(f"batch {joint:,} on one core", joint, 1),
        "apart": Side("half of it on a core, the other as busy", joint // 2, 2, apart=True),
        "two_ranks": Side("a rank of two, half of it on a core", joint // 2, 2, ranks=2),
    }


def rows_of(found: Sequence[Mapping[str, float]]) -> list[list[str]]:
    """Returns the table's lines: of each side milliseconds, and the share of the step's time on the clock."""
    lines = [["a step, on the clock", *itertools.chain.from_iterable((f"{of[STEP]:.2f}", "") for of in found)]]
    for group in [*BY_KIND, *BY_NAME, OTHERS, EXCHANGE, RUNTIME]:
        cells = [("", "") if group not in of else _cells(of[group], of) for of in found]
        lines.append([group, *itertools.chain.from_iterable(cells)])
    return lines


def _cells(ms: float, of: Mapping[str, float]) -> tuple[str, str]:
    return f"{ms:.2f}", f"{100 * ms / (of['cores'] * of[STEP]):.0f} %"


def _flat(parts: Iterable[Sequence[Any]]) -> list[Any]:
    return [*itertools.chain.from_iterable(parts)]


def ratios(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    made = {
        f"matrices_{batch}": found[str(batch)][MATRICES] / (found[str(batch)]["cores"] * found[str(batch)][STEP])
        for batch in BATCHES
        if str(batch) in found
    }
    if "one_rank" in found and "two_ranks" in found:
        one, two = found["one_rank"], found["two_ranks"]
        made["two_ranks_step"] = one[STEP] / two[STEP]
        made["two_ranks_exchange"] = two[EXCHANGE] / two[STEP]
        made["two_ranks_matrices"] = one[MATRICES] / two[MATRICES]
    if "one_rank" in found and "apart" in found:
        made["apart_step"] = found["one_rank"][STEP] / found["apart"][STEP]
    return made


def main(argv: Sequence[str] | None = None) -> None:
    cores = len(os.sched_getaffinity(0))
    known = sides(cores)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=known, action="append", help="a side alone; may be repeated")
    given = parser.parse_args(argv)
    wanted = {name: known[name] for name in given.only or known}
    with tempfile.TemporaryDirectory(prefix="step-") as folder:
        config = write_run(Path(folder), draw_log(ROWS + TEST_ROWS), ROWS)
        found = {name: side.profiled(config) for name, side in wanted.items()}
    report(
        "step",
        f"A training step on {cores} cores: milliseconds of a rank's cores",
        ["", *_flat((side.title, "share") for side in wanted.values())],
        rows_of([*found.values()]),
        ratios(found),
        notes=NOTES,
        figures=found,
        keep=given.only is None,
    )


if __name__ == "__main__":
    main()
