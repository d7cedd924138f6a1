"""make bench-stream: encoded rows a second from Parquet to tensors.

One file set's rows, 15 scalars and four lists of 5 to 50 entries, read in one run by: this project's
reader (Petastorm over packed columns, then tf.data), Petastorm's own make_petastorm_dataset over list
columns, and PyArrow alone, which makes no tensors and so is the limit. The best of three rounds counts.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.report import report
from dssm.manifest import WEIGHT, ColumnSpec, FileSpec, Manifest
from dssm.packing import pack

ROWS, FILES, BATCH, ROUNDS = 400_000, 25, 2048, 3
WIDTHS = (5, 10, 20, 50)


def columns() -> dict[str, ColumnSpec]:
    scalars = {f"scalar_{number}": ColumnSpec(dtype="int32") for number in range(14)}
    lists = {f"list_{width}": ColumnSpec(dtype="int32", shape=(width,), encoding="packed") for width in WIDTHS}
    return {WEIGHT: ColumnSpec(dtype="float32"), **scalars, **lists}


def write(folder: Path) -> tuple[Manifest, list[str], list[str]]:
    """Writes the rows twice, packed and with list columns. Returns the manifest of the first, and both file lists."""
    rng = np.random.default_rng(0)
    specs, rows = columns(), ROWS // FILES
    files, packed_paths, list_paths = [], [], []
    for number in range(FILES):
        scalars = {name: rng.integers(0, 100_000, rows) for name, spec in specs.items() if not spec.shape}
        plain = {name: pa.array(values, specs[name].dtype) for name, values in scalars.items()}
        matrices = {f"list_{w}": rng.integers(0, 100_000, (rows, w)).astype(np.int32) for w in WIDTHS}
        lists = {n: pa.FixedSizeListArray.from_arrays(pa.array(m.ravel()), m.shape[1]) for n, m in matrices.items()}
        name = f"part-{number:05d}.parquet"
        for kind, made, paths in (
            ("packed", {n: pack(m) for n, m in matrices.items()}, packed_paths),
            ("lists", {n: a.cast(pa.list_(pa.int32())) for n, a in lists.items()}, list_paths),
        ):
            (folder / kind).mkdir(exist_ok=True)
            paths.append(str(folder / kind / name))
            pq.write_table(pa.table({**plain, **made}), paths[-1], row_group_size=rows)
        files.append(FileSpec(name=name, rows=rows))
    return Manifest(kind="train", date="", build="", seed=0, columns=specs, files=files), packed_paths, list_paths


def this_reader(folder: Path, manifest: Manifest) -> int:
    from dssm.stream.batches import as_dataset, rank_batches
    from dssm.stream.plan import plan_epoch

    plan = plan_epoch([file.rows for file in manifest.files], seed=0, epoch=0, ranks=1, batch_size=BATCH)
    made = rank_batches(str(folder / "packed"), manifest, manifest.columns, plan, 0, BATCH, shuffle=(0, 0))
    seen = 0
    for batch in as_dataset(made, manifest.columns, BATCH, prefetch=4):
        seen += int(batch[WEIGHT].shape[0])
    return seen


def petastorm_lists(paths: list[str]) -> int:
    from petastorm import make_batch_reader
    from petastorm.tf_utils import make_petastorm_dataset

    reader = make_batch_reader(
        [f"file://{path}" for path in paths], workers_count=2, num_epochs=1, shuffle_row_groups=False
    )
    seen = 0
    for group in make_petastorm_dataset(reader):
        seen += int(group[0].shape[0])
    reader.stop()
    reader.join()
    return seen


def pyarrow_alone(paths: list[str]) -> int:
    return sum(pq.read_table(path).num_rows for path in paths)


def rows_per_s(read: Callable[[], int]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        seen = read()
        best = min(best, time.perf_counter() - started)
        if seen < ROWS:
            raise RuntimeError(f"{seen} rows read, {ROWS} written")
    return ROWS / best


def main() -> None:
    warnings.simplefilter("ignore", FutureWarning)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        manifest, packed_paths, list_paths = write(folder)
        speeds = {
            "this reader: packed, shuffled, batched tensors": rows_per_s(lambda: this_reader(folder, manifest)),
            "Petastorm's dataset: list columns, row groups": rows_per_s(lambda: petastorm_lists(list_paths)),
            "PyArrow alone: packed, no tensors": rows_per_s(lambda: pyarrow_alone(packed_paths)),
        }
    ours, theirs, limit = speeds.values()
    rows = [[name, f"{speed:,.0f}", f"{ours / speed:.2f}"] for name, speed in speeds.items()]
    ratios = {"vs_petastorm_lists": ours / theirs, "vs_pyarrow": ours / limit, "vs_300k_rows_per_s": ours / 300_000}
    report("stream", f"{ROWS:,} rows of 15 scalars and lists of {WIDTHS}", ["", "rows/s", "this / it"], rows, ratios)


if __name__ == "__main__":
    main()
