"""The version published last, as a task needs it: one file's keys, digests and stored vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from dssm import storage
from dssm.published import DATA, DIGESTS, VectorType
from dssm.scoring.dtypes import Stored, decoded, stored_columns
from dssm.scoring.parquet import read_matrices

KEY, DIGEST = "key", "digest"


@dataclass(frozen=True)
class Earlier:
    """A published version, and what may be taken from it.

    Attributes:
      folder: of the version.
      names: its files.
      widths: of each vector column.
      dtype: of its numbers.
      model_version: of its vectors.
      norm_off: largest distance of their norms from the model's, as it was measured before they were rounded.
    """

    folder: str
    names: frozenset[str]
    widths: Mapping[str, int]
    dtype: VectorType
    model_version: str
    norm_off: float = 0.0

    def file(self, name: str) -> EarlierFile | None:
        """Returns what the file of a name holds; None where it is not there (any more), or has no rows."""
        if name not in self.names:
            return None
        try:
            kept = content_of(f"{self.folder}/{DIGESTS}/{name}")
            data = content_of(f"{self.folder}/{DATA}/{name}")
        except FileNotFoundError:
            return None
        table = pq.read_table(pa.BufferReader(kept), use_threads=False)
        if not table.num_rows:
            return None
        digests = table.column(DIGEST).to_numpy() if DIGEST in table.column_names else None
        stored = read_matrices(data, stored_columns(self.widths, self.dtype))
        return EarlierFile(table.column(KEY).to_numpy(), digests, stored, self.dtype)


class EarlierFile:
    """Rows of a published file: keys and digests (rows,), stored vectors; see `digests` and `dtypes`."""

    def __init__(self, keys: np.ndarray, digests: np.ndarray | None, stored: Stored, dtype: VectorType) -> None:
        self.keys, self.digests, self.stored, self._dtype = keys, digests, stored, dtype
        self._next = 0
        self._order: np.ndarray | None = None

    def places(self, keys: np.ndarray) -> np.ndarray:
        """Returns the row of each key, (n,); −1 where there is none. Quick where rows are asked for in their order."""
        begin, end = self._next, self._next + len(keys)
        self._next = end
        if np.array_equal(self.keys[begin:end], keys):
            return np.arange(begin, end)
        if self._order is None:
            self._order = np.argsort(self.keys)
        if not len(self.keys):
            return np.full(len(keys), -1)
        ascending = self.keys[self._order]
        found = np.minimum(np.searchsorted(ascending, keys), len(ascending) - 1)
        return np.where(ascending[found] == keys, self._order[found], -1)

    def vectors(self, column: str, places: np.ndarray) -> np.ndarray:
        """Returns vectors as float32, (n, width)."""
        return decoded({name: values[places] for name, values in self.stored.items()}, column, self._dtype)


def content_of(path: str) -> pa.Buffer:
    """Returns a file's bytes; a local file is mapped, so that only what is looked at is read."""
    system, place = storage.filesystem(path)
    if isinstance(system, LocalFileSystem):
        with pa.memory_map(place) as mapped:
            return mapped.read_buffer()
    return pa.py_buffer(storage.read_bytes(path))
