"""Indexes that are files: a folder a version, and a pointer that names the one that readers take.

`LOCATION/SINK/version=V/` holds `index.json`, written last (rows, width, what the vectors are of, the other files'
sizes), `ids.parquet` in the order of the index, and the engine's own file; `LOCATION/SINK/_current` is
{version, previous}, replaced by one rename.
"""

from __future__ import annotations

import contextlib
import tempfile
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict, Field

from dssm import storage
from dssm.console import warn
from dssm.errors import UserError
from dssm.retrieval.sinks import VERSION, Opened, Place, Sink, Vectors

CURRENT, DESCRIPTION, IDS = "_current", "index.json", "ids.parquet"
VERSION_FOLDER = "version="


class Alias(BaseModel):
    """The content of `_current`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    previous: str | None = None


class Description(BaseModel):
    """The content of `index.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    dim: int
    norm: float | None
    facts: dict[str, str]
    files: dict[str, int] = Field(default_factory=dict, description="Bytes of the others; older indexes name none.")


def read_alias(path: str) -> Alias | None:
    """Raises: UserError where the file can't be read."""
    try:
        return Alias.model_validate_json(storage.read_replaced(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path}: damaged; remove it, and run index_items again") from error


def move_alias(path: str, version: str) -> None:
    """Writes an alias anew by one rename; the version that it had becomes the previous one."""
    before = read_alias(path)
    if before is None or before.version != version:
        moved = Alias(version=version, previous=None if before is None else before.version)
        storage.write_text(path, moved.model_dump_json() + "\n")


class FolderSink(Sink):
    """A sink whose versions are folders. Its engine writes and reads one."""

    def __init__(self, place: Place) -> None:
        self.folder = storage.absolute(place.folder)
        self.setting = place.setting

    @abstractmethod
    def write(self, folder: str, vectors: Vectors) -> None:
        """Writes the engine's file to a local folder."""

    @abstractmethod
    def read(self, folder: str, description: Description, ids: pa.Array) -> Opened:
        """Reads it from a local folder, which may be gone later."""

    def place(self, version: str) -> str:
        return f"{self.folder}/{VERSION_FOLDER}{version}"

    def names(self) -> Iterator[str]:
        for name in storage.folder_names(self.folder):
            if name.startswith(VERSION_FOLDER):
                yield name.removeprefix(VERSION_FOLDER)

    def current(self) -> str | None:
        alias = read_alias(f"{self.folder}/{CURRENT}")
        return None if alias is None else alias.version

    def previous(self) -> str | None:
        alias = read_alias(f"{self.folder}/{CURRENT}")
        return None if alias is None else alias.previous

    def is_whole(self, version: str, rows: int) -> bool:
        if not storage.exists(f"{self.place(version)}/{DESCRIPTION}"):
            return False
        try:
            return read_description(self.place(version)).rows == rows
        except UserError as error:
            warn(f"  {error}")
            return False

    def build(self, version: str, vectors: Vectors) -> None:
        with storage.committed_folder(self.place(version)) as folder:
            with _written_locally(folder) as local:
                self.write(local, vectors)
                sizes = storage.file_sizes(local)
            described = Description(
                rows=vectors.rows, dim=vectors.dim, norm=vectors.norm, facts=dict(vectors.facts), files=sizes
            )
            storage.write_text(f"{folder}/{DESCRIPTION}", described.model_dump_json(indent=1) + "\n")

    @contextlib.contextmanager
    def opened(self, version: str) -> Iterator[Opened]:
        yield self.load(version)

    def load(self, version: str) -> Opened:
        """Reads a version into memory, or maps it: nothing has to be closed."""
        folder = self.place(version)
        description = read_description(folder)
        with storage.local_copy(folder) as local:
            ids = pq.read_table(f"{local}/{IDS}")["id"].combine_chunks()
            return self.read(local, description, ids)

    def switch(self, version: str) -> None:
        move_alias(f"{self.folder}/{CURRENT}", version)

    def drop(self, version: str) -> None:
        storage.remove(f"{self.place(version)}/{DESCRIPTION}")  # first: what is left of it, if killed, is not whole
        storage.remove(self.place(version))

    def drop_old(self) -> list[str]:
        for name in storage.folder_names(self.folder):
            start, _, rest = name.partition(VERSION_FOLDER)
            if start == "." and VERSION.match(rest):  # what killed runs left
                storage.remove(f"{self.folder}/{name}")
        return super().drop_old()


def read_description(folder: str) -> Description:
    """Reads what a version says of itself. Raises: UserError where that is damaged, or a file is not as it says."""
    path = f"{folder}/{DESCRIPTION}"
    try:
        described = Description.model_validate_json(storage.read_bytes(path))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: can't be read ({' '.join(str(error).split())}); index_items builds it anew"
        ) from error
    found = storage.file_sizes(folder) if described.files else {}
    for name, size in described.files.items():
        if found.get(name) != size:
            there = f"{found[name]:,} bytes" if name in found else "not there"
            raise UserError(f"{folder}/{name}: {there}, expected {size:,} bytes; index_items builds it anew")
    return described


@contextlib.contextmanager
def _written_locally(folder: str) -> Iterator[str]:
    """Yields a local folder whose files are then in `folder`: that one itself where it is local."""
    system, place = storage.filesystem(folder)
    if isinstance(system, LocalFileSystem):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="dssm-index-") as scratch:
        yield scratch
        for file in sorted(Path(scratch).iterdir()):
            storage.put_file(str(file), f"{folder}/{file.name}")


def with_ids_written(folder: str, vectors: Vectors) -> Iterator[np.ndarray]:
    """Yields the vectors of each batch, (n, dim), and writes the ids beside, in the same order."""
    schema = pa.schema([("id", pa.string())])
    with pq.ParquetWriter(f"{folder}/{IDS}", schema) as writer:
        for ids, matrix in vectors.batches():
            writer.write_table(pa.table([ids.cast(pa.string())], schema=schema))
            yield matrix
