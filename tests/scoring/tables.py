"""Published tables written without a tower: versions with rows to choose, and a publish of them."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dssm import published
from dssm.published import (
    DATA,
    DIGESTS,
    MODEL_VERSION,
    VECTOR,
    GateDecision,
    Published,
    PublishedFile,
    PublishedManifest,
    VectorType,
)
from dssm.scoring.dtypes import encoded, stored_columns
from dssm.scoring.parquet import VectorWriter
from dssm.scoring.publish import Make, publish
from dssm.scoring.table import Table
from dssm.sections import ItemTable

DATE = "2024-01-08"
MADE_AT = dt.datetime(2024, 1, 9, 3, tzinfo=dt.UTC)


def manifest_of(**given: Any) -> PublishedManifest:
    """Returns the manifest of a version of 4 items, 2 wide, that all gates let through."""
    usual: dict[str, Any] = {
        "table": "tiny_items", "side": "item", "version": "v1", "date": DATE, "at": MADE_AT, "model_version": "model",
        "samples_build": "build", "settings_digest": "settings", "samples_digest": "samples", "model_digest": "model",
        "samples_rows": 4, "rows": 4, "distinct": 4, "vector_dim": 2, "scored": 4, "norm": 1.0, "norm_off": 1e-7,
    }  # fmt: skip
    return PublishedManifest(**{**usual, **given})


def unit_vectors(rows: int, width: int = 2, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_rows(
    folder: str,
    vectors: np.ndarray,
    files: int = 2,
    dtype: VectorType = "float32",
    objectives: dict[str, np.ndarray] | None = None,
    **given: Any,
) -> PublishedManifest:
    """Writes data/ and digests/ of a version: items i0, i1 … with these vectors. Returns: its manifest."""
    columns = {VECTOR: vectors, **{f"{VECTOR}_{name}": matrix for name, matrix in (objectives or {}).items()}}
    kinds = stored_columns({name: matrix.shape[1] for name, matrix in columns.items()}, dtype)
    written = []
    for number, places in enumerate(np.array_split(np.arange(len(vectors)), files)):
        name = f"part-{number:05d}.parquet"
        for part in (DATA, DIGESTS):
            Path(folder, part).mkdir(parents=True, exist_ok=True)
        with Path(folder, DATA, name).open("wb") as file:
            writer = VectorWriter(
                file, {"item_id": "text", **{n: kind for n, (kind, _) in kinds.items()}, MODEL_VERSION: "constant"}
            )
            stored = encoded({column: matrix[places] for column, matrix in columns.items()}, dtype)
            ids = pa.array([f"i{place}" for place in places], pa.string())
            if len(places):
                writer.write({"item_id": ids, **stored, MODEL_VERSION: "model"}, len(places))
            writer.close()
        pq.write_table(pa.table({"key": places}), f"{folder}/{DIGESTS}/{name}")
        written.append(PublishedFile(name=name, rows=len(places), size=writer.size))
    counts = {"samples_rows": len(vectors), "rows": len(vectors), "distinct": len(vectors), "scored": len(vectors)}
    widths = {name: matrix.shape[1] for name, matrix in (objectives or {}).items()}
    shape = {"vector_dim": vectors.shape[1], "dtype": dtype, "objectives": widths}
    return manifest_of(**{**counts, **shape, "files": written, **given})


def maker(vectors: np.ndarray, version: str = "v1", **given: Any) -> Make:
    """Returns what makes a version of these vectors, as `publish` wants it."""

    def make(folder: str, last: Published | None) -> PublishedManifest:
        previous = None if last is None else f"dt={last.manifest.date}/version={last.manifest.version}"
        at = dt.datetime.now(dt.UTC)
        return write_rows(folder, vectors, **{"version": version, "previous": previous, "at": at, **given})

    return make


def table_at(root: Path, date: str = DATE, metastore: Any = None, **section: Any) -> Table:
    return Table("item", ItemTable(**section), "item_table", "tiny_items", str(root / "table"), date, metastore)


def by_force(table: Table, force: bool = True) -> Table:
    return replace(table, forced=force)


class FakeMetastore:
    """A metastore in memory. Attributes: places: where each date's partition points; told: what is noted at it."""

    def __init__(self, rows: Callable[[str], int] | None = None) -> None:
        self.places: dict[str, str] = {}
        self.told: dict[str, PublishedManifest] = {}
        self.columns: dict[str, str] = {}
        self._rows = rows or parquet_rows

    def check(self, columns: Mapping[str, str], dtype: VectorType) -> None:
        pass

    def prepare(self, columns: Mapping[str, str], dtype: VectorType) -> None:
        self.columns = dict(columns)

    def location(self, date: str) -> str | None:
        return self.places.get(date)

    def move(self, date: str, data: str) -> None:
        self.places[date] = data

    def restore(self, date: str, place: str | None) -> None:
        if place is None:
            del self.places[date]
        else:
            self.places[date] = place

    def describe(self, date: str, manifest: PublishedManifest) -> None:
        self.told[date] = manifest

    def rows(self, date: str) -> int:
        return self._rows(self.places[date])


def parquet_rows(folder: str) -> int:
    return sum(pq.read_metadata(path).num_rows for path in Path(folder).glob("*.parquet"))


def folders(path: Path) -> Sequence[str]:
    return sorted(entry.name for entry in path.iterdir()) if path.exists() else []


# Publishing, and what readers see ----------------------------------------------------------------------

VECTORS = {f"v{number}": unit_vectors(6, seed=number) for number in range(1, 5)}


def judged(*decisions: GateDecision) -> Callable[[PublishedManifest | None], list[GateDecision]]:
    return lambda last: list(decisions)


def publish_version(table: Table, version: str, force: bool = False, **given: Any) -> Published:
    make = maker(VECTORS[version], version, date=table.date, **given)
    return publish(by_force(table, force), version, judged(), ["vector"], make)


def seen(table: Table) -> str | None:
    """Returns the version that a reader of the path finds. Raises: AssertionError where it is no whole version."""
    current = published.current(table.location, table.date)
    if current is None:
        return None
    ids, vectors = published.load(current)
    assert ids.to_pylist() == [f"i{number}" for number in range(6)]
    return of_vectors(vectors)


def seen_in_hive(table: Table) -> str | None:
    assert isinstance(table.metastore, FakeMetastore)
    place = table.metastore.location(table.date)
    if place is None:
        return None
    rows = pq.read_table(place).sort_by("item_id").to_pydict()
    assert rows["item_id"] == [f"i{number}" for number in range(6)]
    return of_vectors(np.array(rows["vector"], np.float32))


def of_vectors(vectors: np.ndarray) -> str:
    (version,) = [name for name, known in VECTORS.items() if np.array_equal(known, vectors)]
    return version


@contextlib.contextmanager
def reading(read: Callable[[], Any], grace: float, readers: int = 1) -> Iterator[list[Any]]:
    """Reads again and again in threads until the block ends. Yields: what was read.

    Raises: AssertionError where a read failed, but for one that took longer than the grace of versions: this machine
      stood still.
    """
    found, faults, done = [], [], threading.Event()

    def repeat() -> None:
        while not done.is_set():
            began = time.monotonic()
            try:
                found.append(read())
            except BaseException as error:
                if time.monotonic() - began < grace:
                    faults.append(error)
                    return

    running = [threading.Thread(target=repeat) for _ in range(readers)]
    for reader in running:
        reader.start()
    try:
        yield found
    finally:
        done.set()
        for reader in running:
            reader.join()
    assert [repr(fault) for fault in faults] == []
