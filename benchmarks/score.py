"""make bench-score: items a second of score_items against the bare item tower, incremental runs, and their memory.

The catalogue is as the demo's, with more items: an id and a topic, hashed, and a pretrained vector of 64 numbers beside
them. The item tower has the layers of Covington et al. (RecSys 2016, section 5), 1024, 512 and 256; the figures with
the suffix _demo are of the demo's own, 256 and 128, whose calls cost a tenth: there reading and writing weigh most.
The bare tower is called on encoded batches that lie in memory, in one process of one thread a core: it reads and
writes nothing. The job's time is from its manifests to the moved pointer, in a Spark session whose workers have loaded
the tower.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import report as results
from dssm.config import Settings
from dssm.features import of_side
from dssm.manifest import ITEM_ID, MANIFEST, ColumnSpec, FileSpec, Manifest, VocabularySpec, encoded_columns
from dssm.manifest import write_manifest as write_samples_manifest
from dssm.packing import pack
from dssm.paths import RunPaths
from dssm.storage import write_text

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

    from pyspark.sql import SparkSession

ITEMS, ROUNDS, MEMORY_ITEMS = 2_000_000, 3, (500_000, 5_000_000)
FILE_ROWS = BATCH = 16_384  # as samples.rows_per_file
CHANGED = 0.01
TOPICS, IDS, WIDTH = 500, 200_000, 64
LAYERS = {"": (1024, 512, 256), "demo": (256, 128)}
TOWERS, MEMORY = {"tower": "", "demo-tower": "demo"}, "memory"
PARTS = (*TOWERS, MEMORY)
DATE = dt.date(2024, 1, 8)
MIB = 2**20
CORES = len(os.sched_getaffinity(0))


# The run -----------------------------------------------------------------------------------------------


def settings_of(root: Path, layers: Sequence[int], **table: Any) -> Settings:
    """Returns the settings of a run below `root`. Args: table: goes over item_table."""
    return Settings.model_validate(
        {
            "name": "bench",
            "date": DATE,
            "root": str(root),
            "sources": {"log": {"path": "log.csv", "user": "user", "item": "item", "time": "time"}},
            "catalogue": {"path": "items.csv", "key": "item"},
            "vectors": {"post": {"path": "vectors.jsonl", "width": WIDTH}},
            "features": {
                "user_id": {"kind": "SparseFeat", "side": "user", "dim": 8, "hash_buckets": TOPICS},
                "post_id": {"kind": "SparseFeat", "side": "item", "dim": 32, "hash_buckets": IDS},
                "topic_id": {"kind": "SparseFeat", "side": "item", "dim": 16, "hash_buckets": TOPICS},
                "item_embed": {"kind": "DenseFeat", "side": "item", "pre_embed": "post"},
            },
            "model": {
                "user_tower": {"layers": [8]},
                "item_tower": {"layers": list(layers), "activation": "relu"},
                "vector_dim": WIDTH,
            },
            "item_table": {"kind": "path", "metastore": None, "gate": {"better_than": "none"}, **table},
        }
    )


def columns_of(settings: Settings) -> dict[str, ColumnSpec]:
    features = of_side(settings.features, "item")
    return {name: spec for f in features for name, spec in encoded_columns(f, settings.vectors).items()}


def draw(number: int, rows: int) -> dict[str, np.ndarray]:
    """Draws the tower's inputs of a file, (rows, *shape) each."""
    random = np.random.default_rng(number)
    return {
        "post_id": random.integers(2, IDS + 2, rows, np.int32),
        "topic_id": random.integers(2, TOPICS + 2, rows, np.int32),
        "item_embed": random.normal(size=(rows, WIDTH)).astype(np.float32),
    }


def write_items(settings: Settings, items: int, build: str, changed: float = 0.0) -> None:
    """Writes samples/items as build_samples leaves it. Args: changed: share of the rows whose topic is another."""
    folder = Path(RunPaths(settings.run_folder).part("items"))
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, first in enumerate(range(0, items, FILE_ROWS)):
        rows = min(FILE_ROWS, items - first)
        drawn = draw(number, rows)
        other = np.random.default_rng([number, 1]).random(rows) < changed
        drawn["topic_id"][other] = (drawn["topic_id"][other] - 1) % TOPICS + 2
        ids = pa.array([f"item{item:09d}" for item in range(first, first + rows)])
        stored = {name: pack(values) if values.ndim > 1 else pa.array(values) for name, values in drawn.items()}
        files.append(FileSpec(name=f"part-{number:05d}.parquet", rows=rows))
        pq.write_table(
            pa.table({ITEM_ID: ids, **stored}), folder / files[-1].name, row_group_size=rows, use_dictionary=False
        )
    columns = {ITEM_ID: ColumnSpec(dtype="string", encoding="text"), **columns_of(settings)}
    manifest = Manifest(
        kind="items", date=DATE.isoformat(), build=build, seed=0, columns=columns, files=files,
        vocabularies=vocabularies(),
    )  # fmt: skip
    write_samples_manifest(str(folder), manifest)


def vocabularies() -> dict[str, VocabularySpec]:
    sizes = {"user_id": TOPICS, "post_id": IDS, "topic_id": TOPICS}
    return {name: VocabularySpec(size=size + 2, digest=name, rule="hash") for name, size in sizes.items()}


def write_model(settings: Settings) -> None:
    """Writes model/ as `train` leaves it, with the weights of the initializers."""
    from dssm.model.export import save_tower, weights_digest
    from dssm.model.manifest import ModelManifest
    from dssm.model.towers import build_towers

    sizes = {name: spec.size for name, spec in vocabularies().items()}
    towers, folder = (
        build_towers(settings.model, settings.features, sizes, settings.vectors, {}),
        RunPaths(settings.run_folder).model,
    )
    save_tower(towers.item, f"{folder}/item_tower")
    manifest = ModelManifest(
        model_version=weights_digest(towers.variables), date=DATE.isoformat(), samples_build="first",
        vocabularies=vocabularies(), user_columns={}, item_columns=columns_of(settings), vector_dim=WIDTH,
        vector_norm=1.0, ranks=1, epochs=1, steps=1, rows_per_epoch=1, rows_per_s=1.0, loss=[1.0], auc=[None],
    )  # fmt: skip
    write_text(f"{folder}/{MANIFEST}", manifest.model_dump_json())


# The sides -----------------------------------------------------------------------------------------------


def bare_tower(folder: str, items: int) -> float:
    """Returns the seconds that the tower alone takes for so many items: one process of one thread a core."""
    context = multiprocessing.get_context("spawn")  # TensorFlow can't be forked
    barrier, times = context.Barrier(CORES), context.Queue()
    share = -(-items // CORES)
    running = [context.Process(target=_call_tower, args=(folder, share, barrier, times)) for _ in range(CORES)]
    for process in running:
        process.start()
    found = [times.get() for _ in running]
    for process in running:
        process.join()
    return max(found)


def _call_tower(folder: str, items: int, barrier: Barrier, times: Any) -> None:
    from dssm.model.manifest import read_model_manifest
    from dssm.scoring.vectors import load_tower

    tower = load_tower(folder, read_model_manifest(str(Path(folder).parent)).model_version, 1)
    batches = [draw(number, BATCH) for number in range(8)]  # more than the processor's caches hold
    for batch in batches:
        tower.vectors(batch)
    barrier.wait()
    started = time.perf_counter()
    for number in range(items // BATCH):
        tower.vectors(batches[number % len(batches)])
    rest = items % BATCH
    if rest:
        tower.vectors({name: values[:rest] for name, values in batches[0].items()})
    times.put(time.perf_counter() - started)


@contextmanager
def session(settings: Settings) -> Iterator[SparkSession]:
    """Yields a session on all cores, set up as spark-submit.sh does."""
    from dssm.spark import spark_session
    from dssm.submitting.command import command

    given = settings.model_copy(
        update={"spark": settings.spark.model_copy(update={"conf": {"spark.ui.enabled": False}})}
    )
    options = command("score_items", [], given, {"MASTER": f"local[{CORES}]"})[1:-1]
    os.environ |= {
        "PYSPARK_SUBMIT_ARGS": shlex.join([*options, "pyspark-shell"]),
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    with spark_session(settings, "bench") as spark:
        yield spark


def score(spark: SparkSession, settings: Settings) -> float:
    """Returns the seconds of a publish."""
    from dssm.scoring.items import score_items

    started = time.perf_counter()
    score_items(spark, settings)
    return time.perf_counter() - started


def warm_up(spark: SparkSession, settings: Settings) -> None:
    """Lets each of Spark's Python workers load the tower, by a publish of few items to a table of its own."""
    few = settings.model_copy(update={"item_table": settings.item_table.model_copy(update={"location": "{root}/warm"})})
    for _ in range(2):
        score(spark, few)
        shutil.rmtree(Path(few.root) / "warm")


@dataclass(frozen=True)
class Seconds:
    """Of each side's best round."""

    bare: float
    full: float
    incremental: float


def measure(root: Path, layers: Sequence[int], items: int, rounds: int) -> Seconds:
    """Lets the sides take turns: the bare tower, a full run, and a run after 1 % of the items changed."""
    settings = settings_of(root, layers, incremental=True)
    write_model(settings)
    tower = f"{RunPaths(settings.run_folder).model}/item_tower"
    found: list[tuple[float, float, float]] = []
    with session(settings) as spark:
        write_items(settings, 2 * CORES * FILE_ROWS, "few")
        warm_up(spark, settings)
        for number in range(rounds):
            bare = bare_tower(tower, items)
            write_items(settings, items, f"first {number}")
            full = score(spark, settings)
            write_items(settings, items, f"changed {number}", CHANGED)
            incremental = score(spark, settings)
            found.append((bare, full, incremental))
            shutil.rmtree(root / "bench" / "item_table")
    return Seconds(*(min(times) for times in zip(*found, strict=True)))


# Memory ----------------------------------------------------------------------------------------------------


def memory(folder: Path, items: int) -> int:
    """Returns the peak of an executor's Python worker over a publish of so many items, in a process of its own."""
    code = f"from benchmarks.score import show_memory; show_memory({str(folder)!r}, {items})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(shown.stdout.split()[-1])


def show_memory(folder: str, items: int) -> None:
    settings = settings_of(Path(folder), LAYERS["demo"])
    write_model(settings)
    write_items(settings, items, "first")
    peak, done = [0], threading.Event()

    def sample() -> None:
        while not done.wait(0.1):
            peak[0] = max(peak[0], *worker_memory(), 0)

    with session(settings) as spark:
        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        score(spark, settings)
        done.set()
        sampler.join()
    print(peak[0])


def worker_memory() -> list[int]:
    """Returns the resident memory of each process below Spark's JVM."""
    found = [0]
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name().startswith("python"):
                found.append(process.memory_info().rss)
        except psutil.Error:  # it has ended since
            continue
    return found


# The figures -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What was measured: seconds by tower, a worker's peak in bytes by the number of items."""

    seconds: Mapping[str, Seconds]
    peaks: Mapping[int, int]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench-score", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--memory-items", type=int, nargs=2, default=MEMORY_ITEMS, metavar=("FEW", "MANY"))
    parser.add_argument(
        "--only", choices=PARTS, help="one part; the others' figures are those of benchmarks/results/score.json"
    )
    given = parser.parse_args(argv)
    whole = (given.items, given.rounds, tuple(given.memory_items)) == (ITEMS, ROUNDS, MEMORY_ITEMS)
    before = kept() if given.only is not None else Found({}, {})
    seconds, peaks = dict(before.seconds), dict(before.peaks)
    with tempfile.TemporaryDirectory(prefix="bench-score-") as scratch:
        for part, name in TOWERS.items():
            if given.only in (None, part):
                folder = Path(scratch) / f"tower_{name}"
                seconds[name] = measure(folder, LAYERS[name], given.items, given.rounds)
                shutil.rmtree(folder)
        if given.only in (None, MEMORY):
            peaks = {}
            for items in given.memory_items:
                folder = Path(scratch) / f"memory_{items}"
                peaks[items] = memory(folder, items)
                shutil.rmtree(folder)
    show(Found({name: seconds[name] for name in LAYERS if name in seconds}, peaks), given.items, keep=whole)


def kept() -> Found:
    """Returns the figures of benchmarks/results/score.json; none where it is not there."""
    path = results.RESULTS / "score.json"
    if not path.exists():
        return Found({}, {})
    figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
    seconds = {name: Seconds(**of) for name, of in figures["seconds"].items()}
    return Found(seconds, {int(items): peak for items, peak in figures["peak_bytes"].items()})


def show(found: Found, items: int, keep: bool) -> None:
    """Prints and keeps the figures."""
    rows, ratios = [], {}
    for name, seconds in found.seconds.items():
        layers = "–".join(map(str, LAYERS[name]))
        sides = {"the bare tower": seconds.bare, "score_items": seconds.full, "1 % changed": seconds.incremental}
        for side, took in sides.items():
            rows.append(
                [f"{side}, layers {layers}", f"{took:.2f}", f"{items / took:,.0f}", f"{seconds.bare / took:.2f}", ""]
            )
        suffix = f"_{name}" if name else ""
        ratios[f"vs_bare_tower{suffix}"] = seconds.bare / seconds.full
        ratios[f"incremental_1pct{suffix}"] = seconds.incremental / seconds.full
    for many, peak in found.peaks.items():
        rows.append([f"a worker's memory, {many:,} items", "", "", "", f"{peak / MIB:,.0f} MiB"])
    if found.peaks:
        few, many = found.peaks.values()
        ratios["memory_10x_items"] = many / few
    title = f"{items:,} items of {WIDTH + 2} numbers to vectors of {WIDTH} on {CORES} cores"
    columns = ["", "seconds", "items/s", "bare / it", "memory"]
    figures = {
        "seconds": {name: asdict(seconds) for name, seconds in found.seconds.items()},
        "peak_bytes": {str(many): peak for many, peak in found.peaks.items()},
    }
    results.report("score", title, columns, rows, ratios, figures=figures, keep=keep)


if __name__ == "__main__":
    main()
