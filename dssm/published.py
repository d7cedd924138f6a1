"""Published tables of vectors: what a version's folder holds, which one is current, and its vectors as numbers.

    {location}/dt=DATE/version=V/manifest.json      written last: what the version was made of, and what its gates said
                                 data/*.parquet     ids and vectors: all that readers of the table see
                                 digests/*.parquet  of the rows' features: what an incremental run compares
                                 quarantine/        rows that could not be read, with their reasons
    {location}/dt=DATE/_current                     names the version that readers take

A version's rows never change; its manifest takes what is measured later. `_current` is replaced by one rename, so that
a reader finds the old version or the new one; where a store needs two, it waits between them
(`storage.read_replaced`). Plain Python and PyArrow: whoever reads the vectors needs neither Spark nor TensorFlow.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from dssm import locks, storage
from dssm.errors import UserError, no_objective
from dssm.manifest import SCHEMA_VERSION, load_versioned
from dssm.packing import unpack_vectors
from dssm.paths import RunPaths

Side = Literal["item", "user"]
VectorType = Literal["float32", "float16", "int8"]

CURRENT = "_current"
DATA, DIGESTS, QUARANTINE = "data", "digests", "quarantine"
VECTOR, SCALE, MODEL_VERSION = "vector", "scale", "model_version"
NOT_FINITE = "the vector is not finite"  # a reason to put a row aside: the model's fault, not the row's
DATE_FOLDER, VERSION_FOLDER = "dt=", "version="
SIDES: dict[str, Side] = {"items": "item", "users": "user"}
BATCH_ROWS = 16384


class GateDecision(BaseModel):
    """What one gate found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: str
    passed: bool
    found: float | None = None
    limit: float | None = Field(None, description="What `found` was held against.")
    reason: str = Field("", description="Why it refused, or why there was nothing to decide.")


class PublishedFile(BaseModel):
    """A file below data/; one of the same name lies below digests/."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    rows: int
    size: int = Field(description="Bytes.")


class PublishedManifest(BaseModel):
    """What a version's folder holds, and why it was let through; written last."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    schema_version: int = SCHEMA_VERSION
    table: str
    side: Side
    version: str
    date: str
    at: dt.datetime
    model_version: str
    samples_build: str
    settings_digest: str
    samples_digest: str = Field(description="Of the manifest of the rows that were scored.")
    model_digest: str = Field(description="Of the model's manifest.")
    samples_rows: int = Field(description="Rows of the samples: what the table should hold.")
    users: str = Field("", description="Which users have a row, in a table of users.")
    rows: int
    distinct: int = Field(description="Different ids.")
    vector_dim: int = Field(description="Width of the combined vector.")
    dtype: VectorType = "float32"
    objectives: dict[str, int] = Field(default_factory=dict, description="Widths of own vectors, where it has several.")
    scored: int = Field(description="Rows that the tower was asked for.")
    copied: int = Field(0, description="Rows taken from `previous`, whose features were the same.")
    previous: str | None = Field(None, description="The version published before, as dt=DATE/version=V.")
    quarantined: dict[str, int] = Field(default_factory=dict, description="Rows that could not be read, by reason.")
    catalogue_rows: int = Field(0, description="Rows of the catalogue that build_samples read.")
    not_encoded: dict[str, int] = Field(default_factory=dict, description="Of these, what it put aside, by reason.")
    broken: int = Field(0, description="Vectors with a number that is not finite; their rows are quarantined.")
    zeros: int = Field(
        0, description="Rows with a vector of zeros alone, as it is stored: combined, or an objective's."
    )
    zero_example: str | None = Field(None, description="Id of one of them.")
    norm: float | None = Field(None, description="That every vector should have; None where the model sets none.")
    norm_off: float | None = Field(
        None,
        description="Largest distance of a norm from that, before rounding to dtype; of an objective's own vectors, at "
        "the scale of the combined ones.",
    )
    drift: float | None = Field(None, description="Mean cosine to the vectors of `previous`.")
    objective_drift: dict[str, float] = Field(default_factory=dict, description="Of objectives' own, where as wide.")
    drift_rows: int = Field(0, description="Rows that are in the files of `previous`, too.")
    incomparable: str | None = Field(None, description="Why there is no `drift`, where something was published.")
    metrics: dict[str, float | None] = Field(default_factory=dict, description="Of the model, seen items kept.")
    metric: str | None = Field(None, description="That of `metrics` that the gates looked at.")
    gates: list[GateDecision] = Field(default_factory=list)
    forced: bool = Field(False, description="Published with --force.")
    overridden: list[str] = Field(default_factory=list, description="What the gates refused it for, and --force did.")
    files: list[PublishedFile] = Field(default_factory=list, description="Below data/.")

    @property
    def id_column(self) -> str:
        return f"{self.side}_id"

    @property
    def least_drift(self) -> tuple[float, str] | None:
        """The least of `drift` and `objective_drift`, and whose it is: "vectors", or such as "like vectors"."""
        known = [] if self.drift is None else [(self.drift, "vectors")]
        return min([*known, *((own, f"{name} vectors") for name, own in self.objective_drift.items())], default=None)


class Pointer(BaseModel):
    """The content of `_current`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    folder: str = Field(description="The version's folder, in that of the pointer.")
    at: dt.datetime
    left: dict[str, dt.datetime] = Field(
        default_factory=dict, description="When versions that were current stopped being so; those that are there."
    )
    rolled_back: list[str] = Field(default_factory=list, description="Versions that a rollback has left.")


@dataclass(frozen=True)
class Published:
    """One version of a table at a date."""

    folder: str
    manifest: PublishedManifest

    @property
    def data(self) -> str:
        return f"{self.folder}/{DATA}"

    @property
    def files(self) -> list[str]:
        return [f"{self.data}/{file.name}" for file in self.manifest.files]


# Which version ---------------------------------------------------------------------------------------


def date_folder(location: str, date: str) -> str:
    return f"{storage.absolute(location)}/{DATE_FOLDER}{date}"


def version_folder(location: str, date: str, version: str) -> str:
    return f"{date_folder(location, date)}/{VERSION_FOLDER}{version}"


def dates(location: str) -> list[str]:
    """Returns the dates of a table that have a current version, the oldest first."""
    names = [name for name in storage.folder_names(location) if name.startswith(DATE_FOLDER)]
    found = [name.removeprefix(DATE_FOLDER) for name in names if storage.is_there(f"{location}/{name}/{CURRENT}")]
    return sorted(found)


def current(location: str, date: str | None = None) -> Published | None:
    """Returns the version that readers take; None where none was published.

    Args:
      location: folder of the table.
      date: the partition, YYYY-MM-DD; None: the newest that has a current version.
    Raises: UserError where the pointer or the version is damaged.
    """
    if date is None:
        known = dates(location)
        if not known:
            return None
        date = known[-1]
    pointer = read_pointer(location, date)
    return None if pointer is None else read_version(f"{date_folder(location, date)}/{pointer.folder}")


def read_pointer(location: str, date: str) -> Pointer | None:
    """Returns what `_current` of a date says, None where there is none.

    Raises: UserError where it can't be read.
    """
    path = f"{date_folder(location, date)}/{CURRENT}"
    try:
        content = storage.read_replaced(path)
    except FileNotFoundError:
        return None
    try:
        return Pointer.model_validate_json(content)
    except ValueError as error:
        raise UserError(f"{path}: damaged; expected the JSON of a version; run rollback --to VERSION") from error


def write_pointer(location: str, date: str, version: str, at: dt.datetime, back: bool = False) -> None:
    """Makes a version the current one of its date, by one rename.

    What the pointer said so far is kept as its history. Where that can't be read, all versions count as left now, and
    a rollback as one of all that are newer.

    Args: back: whether this is a rollback.
    """
    folder = date_folder(location, date)
    names = [name.removeprefix(VERSION_FOLDER) for name in storage.folder_names(folder)]
    try:
        before = read_pointer(location, date)
        left, rolled_back = (before.left, before.rolled_back) if before is not None else ({}, [])
        ended = leaves = [before.version] if before is not None else []
    except UserError:
        left, rolled_back, ended = {}, [], names
        known = [made.manifest.version for made in versions(location, date)]
        leaves = known[known.index(version) + 1 :] if version in known else []
    left = left | dict.fromkeys(ended, at)
    pointer = Pointer(
        version=version,
        folder=f"{VERSION_FOLDER}{version}",
        at=at,
        left={name: left[name] for name in names if name in left and name != version},
        rolled_back=sorted({*rolled_back, *(leaves if back else [])} - {version}),
    )
    storage.write_text(f"{folder}/{CURRENT}", pointer.model_dump_json() + "\n")


def read_version(folder: str) -> Published:
    """Raises: UserError where the folder has no manifest, or one of another schema."""
    return Published(folder, load_versioned(PublishedManifest, folder, "a published version", "score_items"))


def versions(location: str, date: str) -> list[Published]:
    """Returns the whole versions of a date, the oldest first. A folder without a manifest of this schema is none."""
    folder = date_folder(location, date)
    found = []
    for name in storage.folder_names(folder):
        if name.startswith(VERSION_FOLDER):
            with contextlib.suppress(UserError):
                found.append(read_version(f"{folder}/{name}"))
    return sorted(found, key=lambda version: version.manifest.at)


def damaged_files(published: Published) -> list[str]:
    """Returns the files of a version that are not there, or have not the size that its manifest names."""
    sizes = storage.file_sizes(published.data)
    return [f"{published.data}/{file.name}" for file in published.manifest.files if sizes.get(file.name) != file.size]


def rows_there(published: Published) -> int:
    """Returns the rows of a version's files, by their footers. Raises: UserError where one can't be read."""
    return sum(footer_rows(path) for path in published.files)


def footer_rows(path: str) -> int:
    """Returns the rows of a Parquet file, of which the footer alone is read. Raises: UserError where it is damaged."""
    system, place = storage.filesystem(path)
    try:
        with system.open(place, "rb") as file:
            return int(pq.read_metadata(file).num_rows)
    except (OSError, ValueError) as error:  # Arrow's own errors are of these
        raise UserError(f"{path}: can't be read ({' '.join(str(error).split())}); publish the version again") from error


# The tables of a run -----------------------------------------------------------------------------------


def write_run_tables(run_folder: str, tables: Mapping[str, str]) -> None:
    """Notes in a run's folder where its tables lie: `items` and `users`, each with its location.

    One process at a time, by the folder's lock: those of items and of users may end together.
    """
    paths = RunPaths(run_folder)
    with locks.locked(paths.folder):
        known = run_tables(run_folder) | {name: storage.absolute(place) for name, place in tables.items()}
        storage.write_text(paths.tables, json.dumps(known, indent=1) + "\n")


def run_table(run_folder: str, table: str) -> str:
    """Returns the location of a run's table.

    Args:
      run_folder: of the run.
      table: `items` or `users`.
    Raises: UserError where the run has published none.
    """
    known = run_tables(run_folder)
    if table not in known:
        raise UserError(
            f"{storage.absolute(run_folder)}: no table of {table} was published from this run; "
            f"run score_{table} for this date first"
        )
    return known[table]


def run_tables(run_folder: str) -> dict[str, str]:
    """Returns the locations of all tables that were published from a run, by `items` and `users`."""
    try:
        found: dict[str, str] = json.loads(storage.read_replaced(RunPaths(run_folder).tables))
    except FileNotFoundError:
        return {}
    return found


# Vectors ---------------------------------------------------------------------------------------------


def vector_column(objective: str | None = None) -> str:
    """Name of the column with an objective's own vectors; without one, of the combined ones."""
    return VECTOR if objective is None else f"{VECTOR}_{objective}"


def scale_column(column: str) -> str:
    """Name of the column that the int8 vectors of a column are multiplied by: scale_click of vector_click."""
    return f"{SCALE}{column.removeprefix(VECTOR)}"


def width_of(published: Published, objective: str | None = None) -> int:
    """Raises: UserError where the table has no such objective."""
    manifest = published.manifest
    if objective is None:
        return manifest.vector_dim
    if objective not in manifest.objectives:
        raise UserError(f"{manifest.table}: {no_objective(objective, manifest.objectives)}")
    return manifest.objectives[objective]


def batches(published: Published, objective: str | None = None) -> Iterator[tuple[pa.Array, np.ndarray]]:
    """Yields the ids and vectors of a version, a batch of rows at once.

    Args:
      objective: whose own vectors; None: the combined ones.
    Yields: (rows,) text and (rows, dim) float32, whatever the table's dtype is.
    Raises: UserError where there is no such objective, or a file is damaged.
    """
    manifest, width = published.manifest, width_of(published, objective)
    columns = [manifest.id_column, vector_column(objective)]
    if manifest.dtype == "int8":
        columns.append(scale_column(columns[1]))
    for path in published.files:
        system, place = storage.filesystem(path)
        try:
            with system.open(place, "rb") as file:
                for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=columns):
                    yield (
                        batch.column(0),
                        unpack_vectors(batch.column(1), width, batch.column(2) if len(columns) > 2 else None),
                    )
        except (OSError, ValueError) as error:  # Arrow's own errors are of these
            reason = " ".join(str(error).split())
            raise UserError(f"{path}: can't be read ({reason}); publish the version again, or roll back") from error


def load(published: Published, objective: str | None = None) -> tuple[pa.Array, np.ndarray]:
    """Returns all ids, (rows,) text, and vectors, (rows, dim) float32; see `batches`."""
    vectors = np.empty((published.manifest.rows, width_of(published, objective)), np.float32)
    ids, start = [], 0
    for part, matrix in batches(published, objective):
        vectors[start : start + len(matrix)] = matrix
        ids.append(part)
        start += len(matrix)
    if start != len(vectors):
        raise UserError(f"{published.folder}: {start:,} rows, its manifest says {len(vectors):,}; publish it again")
    return pa.chunked_array(ids, pa.string()).combine_chunks(), vectors
