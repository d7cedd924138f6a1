"""The version published last, as a task needs it: one file's keys, digests and stored vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
      names: of its files, in their order, by the name of the file of the samples whose rows they may hold.
      widths: of each vector column.
      dtype: of its numbers.
      model_version: of its vectors.
      norm_off: largest distance of their norms from the model's, as it was measured before they were rounded.
    """

    folder: str
    names: Mapping[str, Sequence[str]]
    widths: Mapping[str, int]
    dtype: VectorType
    model_version: str
    norm_off: float = 0.0

    def file(self, name: str, tell: Callable[[str], object]) -> EarlierFile | None:
        """Returns what is known of the rows of a file of the samples; None where there is nothing.

        Args: tell: is told which files of the version can't be read, and why; there is nothing in them, then.
        """
        read = [self._read(earlier, tell) for earlier in self.names.get(name, ())]
        found = [file for file in read if file is not None]
        if len(found) < 2:
            return found[0] if found else None
        kept = [file.digests for file in found if file.digests is not None]
        digests = np.concatenate(kept) if len(kept) == len(found) else None
        stored = {column: np.concatenate([file.stored[column] for file in found]) for column in found[0].stored}
        return EarlierFile(np.concatenate([file.keys for file in found]), digests, stored, self.dtype)

    def _read(self, name: str, tell: Callable[[str], object]) -> EarlierFile | None:
        """Returns what one file of the version holds; None where it has no rows, or can't be read."""
        path = f"{self.folder}/{DIGESTS}/{name}"
        try:
            # Half the cost of read_table.
            table = pq.ParquetFile(pa.BufferReader(content_of(path))).read(use_threads=False)
            keys = table.column(KEY).to_numpy()
            if not len(keys):
                return None
            path = f"{self.folder}/{DATA}/{name}"
            stored = read_matrices(content_of(path), stored_columns(self.widths, self.dtype))
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            tell(f"{path} ({' '.join(str(error).split())})")
            return None
        if {len(values) for values in stored.values()} != {len(keys)}:
            tell(f"{path} (its {DIGESTS} are of {len(keys):,} rows)")
            return None
        digests = table.column(DIGEST).to_numpy() if DIGEST in table.column_names else None
        return EarlierFile(keys, digests, stored, self.dtype)


def files_of_rows(names: Sequence[str], earlier: Sequence[str]) -> dict[str, Sequence[str]]:
    """Returns the earlier files that the rows of each file may lie in.

    A row's file is its hash modulo the count of files, a power of two (`dssm.samples.writing.stable_files`): of twice
    as many, file k holds rows of file k modulo the earlier count; of half as many, those of file k and of k + count.

    Args:
      names: of the samples' files, in their order.
      earlier: of the version's files, in theirs.
    """
    first = {name: place % max(len(earlier), 1) for place, name in enumerate(names)}
    return {name: earlier[place :: len(names)] for name, place in first.items()}


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

    def width(self, column: str) -> int | None:
        """Returns the width of a vector column; None where there is none of that name."""
        return self.stored[column].shape[1] if column in self.stored else None

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
