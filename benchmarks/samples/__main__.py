"""make bench-samples: events a second from a log to encoded samples, and the memory that it takes.

The feed is KuaiRand's log again and again, each copy with new users. build_samples on two cores, a pandas script, a
NumPy script tuned by hand and DuckDB do the same work on the same Parquet files, one after the other, each in
processes of its own; a plain job on Spark, which only counts, shuffles and writes the log, stands beside them. Then
build_samples again: a fifth and twice the events (how its time grows), and a feed in which
one user and one item have 1 % of all events each (whether a task lags). The best of the rounds counts, and the largest
memory of them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.report import report
from benchmarks.samples.feed import FeedSpec, made_feed
from benchmarks.samples.measured import Measured, measured
from benchmarks.samples.pipeline import event_log, seconds_in_session, train_rows, write_settings
from benchmarks.samples.stages import Stage, slowest, stages
from benchmarks.samples.task import ALL, POSITIVES, THREADS
from dssm.console import table

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / "data" / "bench"
DATA = "../shared/data/kuairand"
EVENTS, ROUNDS = 5_000_000, 2
SLOWEST = 5
GIB = 2**30

OURS, FIFTH, TWICE, SKEWED = "ours", "fifth", "twice", "skew"
PEERS = PANDAS, NUMPY, DUCKDB = "pandas", "numpy", "duckdb"
SPARK = "spark"
PARTS = {OURS: (OURS,), **{name: (name,) for name in (*PEERS, SPARK)}, "growth": (FIFTH, TWICE), "skew": (OURS, SKEWED)}

COLUMNS = ("", "events", "events/s", "seconds", "start-up s", "CPU s", "peak GiB", "largest process GiB")
STAGE_COLUMNS = ("slowest stages of build_samples", "tasks", "median s", "longest s", "longest / median")
NOTES = (
    "seconds: after start-up, which is the imports or, for build_samples, all up to the Spark session. CPU: of all",
    "processes, start-up included. peak: the largest sum over a side's processes (PSS). largest process: resident.",
    "All: profile and catalogue joined and encoded, the last 50 clicks strictly before, four negatives a click in",
    "proportion to popularity^0.75, none of them clicked by the user in the training window.",
    "pandas, NumPy, DuckDB: one Parquet file. The first two compute on one core.",
    "pandas: what one writes with pandas: merge, merge_asof for the histories, lists of their own length, which every",
    "reader of Parquet knows. NumPy: tuned by hand: pandas reads and merges, the rest is arrays sorted by user, in",
    "blocks; matrices of fixed width, packed as bytes, which a reader has to unpack. Both keep all rows in memory.",
    "DuckDB: lists of their own length; rounds chances to a millionth.",
    "Spark alone: counts each item's events, sends the log's rows to their users once, and Python writes them as they",
    "are, in build_samples' session: no table is joined, nothing encoded, drawn or checked. A yardstick, not a peer.",
    "build_samples: every row checked and counted; samples in a global shuffle, one row group a file, test apart;",
    "the encoded catalogue, the users to evaluate and all (user, item) pairs besides.",
)


@dataclass(frozen=True)
class Side:
    """What is run: build_samples, or the module of a peer, on a feed."""

    name: str
    feed: FeedSpec
    module: str | None = None


@dataclass(frozen=True)
class Run:
    """Seconds after start-up, and what the side's processes used."""

    name: str
    events: int
    train_rows: int
    seconds: float
    start_up_s: float
    cpu_s: float
    peak_bytes: int
    largest_bytes: int
    largest_name: str
    stages: tuple[Stage, ...] = ()

    @property
    def events_per_s(self) -> float:
        return self.events / self.seconds

    def row(self) -> list[str]:
        return [
            self.name,
            f"{self.events:,}",
            f"{self.events_per_s:,.0f}",
            f"{self.seconds:.1f}",
            f"{self.start_up_s:.1f}",
            f"{self.cpu_s:.1f}",
            f"{self.peak_bytes / GIB:.2f}",
            f"{self.largest_bytes / GIB:.2f} ({self.largest_name})",
        ]


def all_sides(events: int) -> dict[str, Side]:
    whole = FeedSpec(events)
    return {
        PANDAS: Side("pandas", whole, "pandas_peer"),
        NUMPY: Side("NumPy", whole, "numpy_peer"),
        DUCKDB: Side("DuckDB", whole, "duckdb_peer"),
        SPARK: Side("Spark alone", whole, "spark_alone"),
        OURS: Side("build_samples", whole),
        FIFTH: Side("build_samples, a fifth", FeedSpec(events // 5)),
        TWICE: Side("build_samples, twice", FeedSpec(events * 2)),
        SKEWED: Side("build_samples, skewed", FeedSpec(events, skew=True)),
    }


def run(side: Side, feed: Path, rows: str) -> Run:
    """Runs a side once, in a folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="work-", dir=CACHE) as scratch:
        work = Path(scratch)
        if side.module is not None:
            made = str(work / "samples.parquet")
            used = measured([sys.executable, "-m", f"benchmarks.samples.{side.module}", str(feed), made, rows], PROJECT)
            said = json.loads(used.output.splitlines()[-1])
            return as_run(side, said["train_rows"], said["seconds"], used)
        config = str(write_settings(feed, work, rows))
        environment = {"MASTER": f"local[{THREADS}]", "DSSM_PYTHON": sys.executable}
        used = measured(["./spark-submit.sh", "build_samples", "--config", config], PROJECT, environment)
        return as_run(side, train_rows(work), seconds_in_session(used.output), used, stages(event_log(work)))


def as_run(side: Side, rows: int, seconds: float, used: Measured, found: Iterable[Stage] = ()) -> Run:
    return Run(
        name=side.name,
        events=side.feed.events,
        train_rows=rows,
        seconds=seconds,
        start_up_s=used.wall_s - seconds,
        cpu_s=used.cpu_s,
        peak_bytes=used.peak_bytes,
        largest_bytes=used.largest_bytes,
        largest_name=used.largest_name,
        stages=tuple(found),
    )


def best(rounds: Sequence[Run]) -> Run:
    """Returns the fastest round, with the largest memory of all."""
    largest = max(rounds, key=lambda run: run.largest_bytes)
    return replace(
        min(rounds, key=lambda run: run.seconds),
        peak_bytes=max(run.peak_bytes for run in rounds),
        largest_bytes=largest.largest_bytes,
        largest_name=largest.largest_name,
    )


def check_same_work(runs: Mapping[str, Run]) -> None:
    """Raises RuntimeError where sides made another number of training rows of the same feed."""
    found = {key: runs[key].train_rows for key in (*PEERS, OURS) if key in runs}
    if len(set(found.values())) > 1:
        raise RuntimeError(f"training rows of one feed differ: {found}")


def ratios(runs: Mapping[str, Run]) -> dict[str, float]:
    """Returns what the runs that were made say: above 1 is faster for vs_…, more for memory_… and growth_…."""
    found = {}
    pairs = {f"vs_{name}": (OURS, name) for name in PEERS}
    pairs |= {"vs_spark_alone": (OURS, SPARK), "spark_alone_vs_pandas": (SPARK, PANDAS)}
    for name, (side, other) in pairs.items():
        if {side, other} <= runs.keys():
            found[name] = runs[side].events_per_s / runs[other].events_per_s
            found[f"memory_{name}"] = runs[side].peak_bytes / runs[other].peak_bytes
    if {FIFTH, TWICE} <= runs.keys():
        name = "growth_1m_to_10m" if runs[TWICE].events == 2 * EVENTS else "growth_10_times"
        found[name] = runs[TWICE].seconds / runs[FIFTH].seconds
    if {OURS, SKEWED} <= runs.keys():
        found["skewed_vs_even"] = runs[SKEWED].seconds / runs[OURS].seconds
    return found


def stage_rows(runs: Mapping[str, Run]) -> list[list[str]]:
    return [
        [
            f"{runs[key].name}: {stage.number} {stage.name.replace(f'{PROJECT}/', '')}",
            f"{len(stage.tasks)}",
            f"{stage.median_s:.2f}",
            f"{stage.longest_s:.2f}",
            f"{stage.straggling:.2f}",
        ]
        for key in (OURS, SKEWED)
        if key in runs
        for stage in slowest(runs[key].stages, SLOWEST)
    ]


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.samples", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--data", default=os.environ.get("DATA", DATA), help="folder of the KuaiRand extract")
    parser.add_argument("--events", type=positive, default=EVENTS, help="events of the feed")
    parser.add_argument("--rows", choices=(POSITIVES, ALL), default=ALL, help="events that become samples")
    parser.add_argument("--rounds", type=positive, default=ROUNDS, help="runs of each side; the best counts")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part of the benchmark; may be repeated")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(argv)
    data = Path(given.data)
    if not (data / "events.csv.gz").exists():
        message = (
            f"bench-samples: '{data}' holds no events.csv.gz; name the folder with KuaiRand: --data, or DATA=folder."
        )
        print(message, file=sys.stderr)
        raise SystemExit(2)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])  # every side inherits it
    CACHE.mkdir(parents=True, exist_ok=True)
    wanted = {key for part in given.only or PARTS for key in PARTS[part]}
    sides = {key: side for key, side in all_sides(given.events).items() if key in wanted}
    feeds = {key: made_feed(data, CACHE, side.feed) for key, side in sides.items()}
    rounds: dict[str, list[Run]] = {key: [] for key in sides}
    for number in range(given.rounds):
        for key, side in sides.items():
            rounds[key].append(run(side, feeds[key], given.rows))
            print(f"round {number + 1}: {side.name}, {rounds[key][-1].seconds:.1f} s", file=sys.stderr)
    runs = {key: best(found) for key, found in rounds.items()}
    check_same_work(runs)
    lagging = stage_rows(runs)
    if lagging:
        table("Tasks", STAGE_COLUMNS, lagging)
    report(
        "samples",
        f"From events to samples on {THREADS} cores, a row {'a click' if given.rows == POSITIVES else 'an event'}",
        COLUMNS,
        [runs[key].row() for key in sides],
        ratios(runs),
        notes=NOTES,
        figures={
            "rows": given.rows,
            "rounds": given.rounds,
            "runs": {key: {k: v for k, v in asdict(found).items() if k != "stages"} for key, found in runs.items()},
            "stages": {"columns": STAGE_COLUMNS, "rows": lagging},
        },
        keep=given.only is None and (given.events, given.rows) == (EVENTS, ALL),
    )


if __name__ == "__main__":
    main()
