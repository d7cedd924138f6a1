"""make bench-stream: encoded rows a second from files to tensors, and the memory that it takes.

The same rows, 15 scalars and four lists of 5 to 50 ids, read in one run by: this project's reader (packed columns,
rows shuffled, batches), Petastorm's own make_petastorm_dataset over list columns, TFRecord through tf.data, and
PyArrow alone, which makes no tensors and so is the limit. The sides take turns; the best of a side's rounds counts.
Then this reader alone, in processes of their own, over so many rows and over four times as many; and the share of the
steps' time that a training of bench-train's waits for its input.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.report import report
from benchmarks.train.__main__ import GLOBAL_BATCH, Bench
from benchmarks.train.data import TEST_ROWS, draw_log, write_run
from dssm.manifest import WEIGHT, ColumnSpec, FileSpec, Manifest, read_manifest, write_manifest
from dssm.packing import pack

ROWS, ROUNDS, BATCH = 400_000, 5, 2048
FILE_ROWS = 16_000
TRAINED_ROWS = 4096 * 64
THREADS = 2
WIDTHS = (5, 10, 20, 50)
IDS = (2**14, 2**14 + 100_000)  # each takes three bytes as a varint: TFRecords can be made by the column
MIB = 2**20

OURS, LISTS, TFRECORD, PYARROW = (
    "this reader: packed, shuffled, batched tensors",
    "Petastorm's dataset: list columns, row groups",
    "TFRecord: tf.data, batched parse, not shuffled",
    "PyArrow alone: packed, no tensors",
)
RATIOS = {LISTS: "vs_petastorm_lists", TFRECORD: "vs_tfrecord", PYARROW: "vs_pyarrow"}
NOTES = (
    f"Two threads read for this reader and for Petastorm; TFRecord's parallelism is tf.data's own choice. Batches of "
    f"{BATCH:,}; files of {FILE_ROWS:,} rows.",
    "CPU s: of all threads of the process, a million rows.",
    "input_wait: of all steps of two epochs, in the task of bench-train, batch 4,096, on all cores.",
    "memory: largest resident set of a process that only reads, and its growth since before the first file. "
    "memory_4x_rows: the growth over four times the rows / that over the rows.",
)


def columns() -> dict[str, ColumnSpec]:
    scalars = {f"scalar_{number}": ColumnSpec(dtype="int32") for number in range(14)}
    lists = {f"list_{width}": ColumnSpec(dtype="int32", shape=(width,), encoding="packed") for width in WIDTHS}
    return {WEIGHT: ColumnSpec(dtype="float32"), **scalars, **lists}


@dataclass(frozen=True)
class FileSet:
    """The same rows in files of three formats."""

    folder: Path
    manifest: Manifest

    def paths(self, kind: str, suffix: str = "parquet") -> list[str]:
        return [f"{self.folder}/{kind}/{Path(file.name).stem}.{suffix}" for file in self.manifest.files]


def write(folder: Path, rows: int, peers: bool = True) -> FileSet:
    """Writes the rows packed and, for the peers, with list columns and as TFRecords."""
    specs = columns()
    files = []
    for kind in ("packed", "lists", "tfrecord") if peers else ("packed",):
        (folder / kind).mkdir()
    for number, first in enumerate(range(0, rows, FILE_ROWS)):
        drawn = draw(number, min(FILE_ROWS, rows - first))
        name = f"part-{number:05d}"
        files.append(FileSpec(name=f"{name}.parquet", rows=len(drawn[WEIGHT])))
        scalars = {column: pa.array(drawn[column]) for column, spec in specs.items() if not spec.shape}
        matrices = {column: drawn[column] for column, spec in specs.items() if spec.shape}
        stored = {"packed": {column: pack(matrix) for column, matrix in matrices.items()}}
        if peers:
            stored["lists"] = {column: _lists(matrix) for column, matrix in matrices.items()}
            write_records(f"{folder}/tfrecord/{name}.tfrecord", drawn)
        for kind, made in stored.items():
            pq.write_table(pa.table({**scalars, **made}), f"{folder}/{kind}/{name}.parquet", row_group_size=FILE_ROWS)
    manifest = Manifest(kind="train", date="", build="", seed=0, columns=specs, files=files)
    write_manifest(f"{folder}/packed", manifest)
    return FileSet(folder, manifest)


def draw(number: int, rows: int) -> dict[str, np.ndarray]:
    """Draws a file's columns, each (rows, *column shape)."""
    random = np.random.default_rng(number)
    drawn = {
        name: random.integers(*IDS, (rows, *spec.shape)).astype(spec.dtype)
        for name, spec in columns().items()
        if name != WEIGHT
    }
    return {WEIGHT: np.ones(rows, np.float32), **drawn}


def _lists(matrix: np.ndarray) -> pa.Array:
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
    return fixed.cast(pa.list_(pa.int32()))


def write_records(path: str, drawn: Mapping[str, np.ndarray]) -> None:
    """Writes rows as tf.train.Examples of fixed length."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(path) as writer:
        for record in records(drawn):
            writer.write(record.tobytes())


def records(drawn: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns serialized tf.train.Examples, (rows, bytes).

    Made by the column, as all have the same fields of the same lengths: a protobuf's map is the entries' bytes one
    after the other, and an entry of one feature ends with its values.
    """
    import tensorflow as tf

    train = tf.train
    firsts = {name: _feature(values[0]) for name, values in drawn.items()}
    whole = train.Example(features=train.Features(feature=firsts)).SerializeToString()
    parts = []
    for name, values in drawn.items():
        content = values.view(np.uint8).reshape(len(values), -1) if values.dtype == np.float32 else varints(values)
        entry = train.Features(feature={name: firsts[name]}).SerializeToString()
        parts += [_repeated(entry[: -content.shape[1]], len(values)), content]
    body = np.concatenate(parts, axis=1)
    return np.concatenate([_repeated(whole[: -body.shape[1]], len(body)), body], axis=1)


def _feature(values: np.ndarray) -> Any:
    import tensorflow as tf

    if values.dtype == np.float32:
        return tf.train.Feature(float_list=tf.train.FloatList(value=np.atleast_1d(values)))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=np.atleast_1d(values)))


def _repeated(content: bytes, rows: int) -> np.ndarray:
    return np.broadcast_to(np.frombuffer(content, np.uint8), (rows, len(content)))


def varints(values: np.ndarray) -> np.ndarray:
    """Returns ids of IDS as protobuf's varints: (rows, …) → (rows, 3 · entries)."""
    places = values.reshape(len(values), -1, 1).astype(np.int64) >> np.array([0, 7, 14]) & 0x7F
    return (places | np.array([0x80, 0x80, 0])).astype(np.uint8).reshape(len(values), -1)


def this_reader(files: FileSet) -> int:
    from dssm.stream.batches import Prefetched, Reading, rank_batches
    from dssm.stream.plan import plan_epoch

    manifest = files.manifest
    plan = plan_epoch([file.rows for file in manifest.files], seed=0, epoch=0, ranks=1, batch_size=BATCH)
    made = rank_batches(f"{files.folder}/packed", manifest, manifest.columns, Reading(plan, (0, 0)), 0, BATCH, THREADS)
    return sum(int(batch[WEIGHT].shape[0]) for batch in Prefetched(made, depth=4))


def petastorm_lists(files: FileSet) -> int:
    from petastorm import make_batch_reader
    from petastorm.tf_utils import make_petastorm_dataset

    urls = [f"file://{path}" for path in files.paths("lists")]
    reader = make_batch_reader(urls, workers_count=THREADS, num_epochs=1, shuffle_row_groups=False)
    seen = sum(int(group[0].shape[0]) for group in make_petastorm_dataset(reader))
    reader.stop()
    reader.join()
    return seen


def tfrecord(files: FileSet) -> int:
    """TFRecord as tf.data's guide to performance has it: files side by side, whole batches parsed, in parallel."""
    import tensorflow as tf

    fields = {
        name: tf.io.FixedLenFeature(spec.shape, tf.float32 if spec.dtype == "float32" else tf.int64)
        for name, spec in files.manifest.columns.items()
    }
    options = tf.data.Options()
    options.deterministic = False
    dataset = (
        tf.data.TFRecordDataset(
            files.paths("tfrecord", "tfrecord"), buffer_size=8 * MIB, num_parallel_reads=tf.data.AUTOTUNE
        )
        .batch(BATCH, num_parallel_calls=tf.data.AUTOTUNE)
        .map(lambda records: tf.io.parse_example(records, fields), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(options)
    )
    return sum(int(batch[WEIGHT].shape[0]) for batch in dataset)


def pyarrow_alone(files: FileSet) -> int:
    return sum(pq.read_table(path).num_rows for path in files.paths("packed"))


SIDES: dict[str, Callable[[FileSet], int]] = {
    OURS: this_reader,
    LISTS: petastorm_lists,
    TFRECORD: tfrecord,
    PYARROW: pyarrow_alone,
}


@dataclass(frozen=True)
class Cost:
    """Of a side's best round. wall_s: seconds; cpu_s: of all threads of the process."""

    wall_s: float
    cpu_s: float


def costs(files: FileSet, rounds: int) -> dict[str, Cost]:
    """Lets the sides take turns. Raises: RuntimeError where one reads fewer rows than there are."""
    found: dict[str, list[Cost]] = {name: [] for name in SIDES}
    for _ in range(rounds):
        for name, read in SIDES.items():
            wall, cpu = time.perf_counter(), time.process_time()
            seen = read(files)
            found[name].append(Cost(time.perf_counter() - wall, time.process_time() - cpu))
            if seen < files.manifest.rows:
                raise RuntimeError(f"{name}: {seen} rows read, {files.manifest.rows} written")
    return {
        name: Cost(min(cost.wall_s for cost in of_side), min(cost.cpu_s for cost in of_side))
        for name, of_side in found.items()
    }


@dataclass(frozen=True)
class Memory:
    """Bytes resident in a process: before it reads, and the most while it did."""

    before: int
    peak: int

    @property
    def growth(self) -> int:
        return self.peak - self.before


def memory(folder: Path) -> Memory:
    """Returns what reading the packed files of a folder takes in a process that does nothing else."""
    code = f"from benchmarks.stream import show_memory; show_memory({str(folder)!r})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, peak = map(int, shown.stdout.split())
    return Memory(before, peak)


def show_memory(folder: str) -> None:
    files = FileSet(Path(folder), read_manifest(f"{folder}/packed", "benchmarks.stream"))
    this_reader(FileSet(files.folder, files.manifest.model_copy(update={"files": files.manifest.files[:1]})))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far is forgotten
    before = _status_bytes("VmRSS")
    this_reader(files)
    print(before, _status_bytes("VmHWM"))


def _status_bytes(field: str) -> int:
    """Returns a size of /proc/self/status, whose peak, unlike getrusage's, does not count the parent's before exec."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:"))) * 1024


def input_wait(folder: Path) -> float:
    """Returns the share of a training's steps that they wait for input, as it is told by the model's manifest."""
    config = write_run(folder / "trained", draw_log(TRAINED_ROWS + TEST_ROWS), TRAINED_ROWS)
    cores = sorted(os.sched_getaffinity(0))
    trained = Bench(folder, cores, TRAINED_ROWS).ours(
        "training", config, TRAINED_ROWS, GLOBAL_BATCH, "train.epochs=2", cores=len(cores)
    )
    return float(trained.told["input_wait"])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench-stream", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args(argv)
    warnings.simplefilter("ignore", FutureWarning)
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / "rows", Path(scratch) / "four_times"]
        for folder in folders:
            folder.mkdir()
        files = write(folders[0], given.rows)
        write(folders[1], 4 * given.rows, peers=False)
        found = costs(files, given.rounds)
        held = [memory(folder) for folder in folders]
        wait = input_wait(Path(scratch))
    show(found, held, wait, given.rows, keep=given == argparse.Namespace(rows=ROWS, rounds=ROUNDS))


def show(found: Mapping[str, Cost], held: Sequence[Memory], wait: float, rows: int, keep: bool) -> None:
    """Prints and keeps the figures. Args: held: over `rows` and over four times as many; wait: of `input_wait`."""
    ours = found[OURS].wall_s
    table = [
        [name, f"{rows / cost.wall_s:,.0f}", f"{cost.cpu_s / rows * 1e6:.2f}", f"{cost.wall_s / ours:.2f}", ""]
        for name, cost in found.items()
    ]
    for times, of_rows in zip((1, 4), held, strict=True):
        label = f"this reader's memory, {times * rows:,} rows"
        table.append([label, "", "", "", f"{of_rows.peak / MIB:,.0f} MiB, +{of_rows.growth / MIB:,.0f}"])
    ratios = {RATIOS[name]: cost.wall_s / ours for name, cost in found.items() if name in RATIOS}
    ratios |= {"memory_4x_rows": held[1].growth / max(held[0].growth, 1), "input_wait": wait}
    title = f"{rows:,} rows of 15 scalars and lists of {WIDTHS}"
    report(
        "stream", title, ["", "rows/s", "CPU s / 1M rows", "this / it", "memory"], table, ratios, notes=NOTES, keep=keep
    )


if __name__ == "__main__":
    main()
