"""Runs jobs as a user does and measures what `plan` predicts: seconds, bytes in files, bytes between tasks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from dssm.config import Settings, load_settings
from dssm.manifest import Manifest, data_files, read_manifest
from dssm.paths import RunPaths
from dssm.plan.rows import column_kind, numbers_of

PROJECT = Path(__file__).resolve().parents[1]
CONFIG = "conf/demo.yaml"
EVENTS_A_CLIENT, EVENTS_A_POST = 100, 200  # as in the demo's feed
ROW, PAIR = "row", "pair"  # what a column counts to that is no feature's


def run_job(job: str, config: str, overrides: Iterable[str], expected: Iterable[int] = (0,)) -> int:
    """Runs a job by ./spark-submit.sh, without showing what it prints. Returns: its exit code.

    Raises: RuntimeError with the end of what it printed, where that is none of the expected.
    """
    options = [part for change in overrides for part in ("--set", change)]
    ended = subprocess.run(
        [str(PROJECT / "spark-submit.sh"), job, "--config", config, *options],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if ended.returncode not in expected:
        raise RuntimeError(f"{job} with {config}: exit code {ended.returncode}\n{ended.stdout[-8000:]}")
    return ended.returncode


@dataclass(frozen=True)
class Demo:
    """The demo's pipeline over a feed of so many events, in a folder of its own."""

    folder: Path
    events: int
    sets: tuple[str, ...] = ()

    @property
    def overrides(self) -> list[str]:
        logs = {"spark.eventLog.enabled": True, "spark.eventLog.compress": False, "spark.eventLog.dir": str(self.logs)}
        given = [f"data={self.folder / 'data'}", f"root={self.folder / 'runs'}", f"spark.conf={json.dumps(logs)}"]
        return [*given, "train.launch=single", "train.ranks=1", *self.sets]

    @property
    def logs(self) -> Path:
        return self.folder / "events"

    @property
    def settings(self) -> Settings:
        return load_settings(str(PROJECT / CONFIG), self.overrides)

    def write_feed(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        clients, posts = max(50, self.events // EVENTS_A_CLIENT), max(100, self.events // EVENTS_A_POST)
        sizes = ["--events", str(self.events), "--clients", str(clients), "--posts", str(posts)]
        command = [
            sys.executable,
            "-m",
            "dssm.demo",
            "--config",
            CONFIG,
            "--set",
            f"data={self.folder / 'data'}",
            *sizes,
        ]
        subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)

    def run(self, job: str, *sets: str) -> float:
        """Returns the seconds of a job, from its command to its end.

        Raises: RuntimeError with what it printed where it fails.
        """
        began = time.perf_counter()
        run_job(job, CONFIG, (*self.overrides, *sets))
        return time.perf_counter() - began

    def train(self, *sets: str) -> float:
        """Trains from the beginning. Returns: its seconds."""
        paths = RunPaths(self.settings.run_folder)
        for folder in (paths.model, paths.checkpoints):
            shutil.rmtree(folder, ignore_errors=True)
        return self.run("train", *sets)


def shuffle_written(folder: Path) -> int:
    """Returns the bytes that tasks wrote for others, by the event logs in a folder."""
    lines = (line for path in folder.iterdir() for line in path.read_text(encoding="utf-8").splitlines())
    return sum(map(_written, lines))


def _written(line: str) -> int:
    if '"SparkListenerTaskEnd"' not in line:
        return 0
    metrics = json.loads(line).get("Task Metrics") or {}
    return int(metrics.get("Shuffle Write Metrics", {}).get("Shuffle Bytes Written", 0))


@dataclass(frozen=True)
class Stored:
    """Bytes of a dataset's columns, by kind (`dssm.plan.rows.column_kind`), and the numbers in them.

    ROW: of all columns that are no feature's; its numbers are rows. In `interactions` the numbers of PAIR are pairs.
    """

    rows: int
    size: Mapping[str, int]
    numbers: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.size.values())


def stored(settings: Settings, part: str) -> Stored:
    """Reads the sizes of a dataset's columns from its files' footers."""
    folder = RunPaths(settings.run_folder).part(part)
    manifest = read_manifest(folder, "build_samples")
    size: dict[str, int] = {}
    numbers: dict[str, int] = {}
    for name, compressed, values in _chunks(data_files(folder, manifest)):
        kind, count = _counted(settings, manifest, part, name, values)
        size[kind] = size.get(kind, 0) + compressed
        numbers[kind] = numbers.get(kind, 0) + count
    numbers[ROW] = manifest.rows
    if part == "interactions":
        seen = [values for name, _, values in _chunks(data_files(folder, manifest)) if name == "row__seen"]
        size[PAIR], numbers[PAIR] = size.pop(ROW), sum(seen)
    return Stored(manifest.rows, size, numbers)


def _counted(settings: Settings, manifest: Manifest, part: str, name: str, values: int) -> tuple[str, int]:
    spec = manifest.columns[name]
    if name.startswith("row__target_"):
        return "number", values
    kind = column_kind(name, spec, settings.features) if part != "interactions" else None
    return (ROW, 0) if kind is None else (kind, values * numbers_of(spec))


def _chunks(files: Iterable[str]) -> Iterable[tuple[str, int, int]]:
    """Yields (column, bytes, values) of each column chunk."""
    for file in files:
        with pq.ParquetFile(file) as opened:
            for group in range(opened.metadata.num_row_groups):
                for place in range(opened.metadata.num_columns):
                    chunk = opened.metadata.row_group(group).column(place)
                    yield chunk.path_in_schema.split(".")[0], chunk.total_compressed_size, chunk.num_values


def score_seconds(folder: Path, items: int) -> float:
    """Returns the seconds of score_items over so many items in a process of its own, Spark's start included."""
    from benchmarks import score

    settings = score.settings_of(folder, score.LAYERS["demo"])
    score.write_model(settings)
    score.write_items(settings, items, f"{items} items")
    shutil.rmtree(folder / "bench" / "item_table", ignore_errors=True)
    code = (
        "from pathlib import Path; from benchmarks import score\n"
        f"settings = score.settings_of(Path({str(folder)!r}), {score.LAYERS['demo']})\n"
        "with score.session(settings) as spark: score.score(spark, settings)"
    )
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True, capture_output=True)
    return time.perf_counter() - began
