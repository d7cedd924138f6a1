"""Arrays that the driver or a task writes once and every executor maps: NumPy files in a folder that all hosts see.

A broadcast would be copied into every Python worker; the pages of a mapped file are shared by those of a host, and
read when they are needed.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterator, Mapping

import numpy as np
import scipy.sparse as sp

from dssm import storage

SUFFIX = ".npy"
_MATRIX = ("data", "indices", "indptr")


def write_array(folder: str, name: str, array: np.ndarray) -> None:
    """Writes an array under its name, on any file system.

    It is renamed when it is whole: of two attempts at a task neither spoils what the other wrote.
    """
    storage.make_folder(folder)
    temporary = f"{folder}/.{uuid.uuid4().hex}"
    system, place = storage.filesystem(temporary)
    with system.open(place, "wb") as file:
        np.save(file, array)
    storage.rename(temporary, f"{folder}/{name}{SUFFIX}")


def write_matrix(folder: str, name: str, matrix: sp.csr_matrix) -> None:
    for part in _MATRIX:
        write_array(folder, f"{name}.{part}", getattr(matrix, part))


@functools.lru_cache(maxsize=1)
def mapped(folder: str) -> Mapping[str, np.ndarray]:
    """Maps the arrays of a folder by name, once for each Python worker process; they can't be written to.

    Copies from a remote file system are unlinked at once: their pages live as long as the map.
    """
    with storage.local_copy(folder) as local:
        return {
            name.removesuffix(SUFFIX): np.asarray(np.load(f"{local}/{name}", mmap_mode="r"))
            for name in storage.file_names(local, SUFFIX)
        }


def mapped_matrix(arrays: Mapping[str, np.ndarray], name: str, columns: int) -> sp.csr_matrix:
    data, indices, indptr = (arrays[f"{name}.{part}"] for part in _MATRIX)
    return sp.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, columns))


def part_name(name: str, first: int) -> str:
    """Names the part of an array that begins with the row `first`."""
    return f"{name}-{first:012d}"


def parts(arrays: Mapping[str, np.ndarray], name: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the first row of each part of an array and the part, in the order of the rows."""
    for key in sorted(arrays):
        begin, _, first = key.rpartition("-")
        if begin == name:
            yield int(first), arrays[key]


def gathered(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Returns the parts of an array, of which there is at least one, as a whole."""
    return np.concatenate([part for _, part in parts(arrays, name)])
