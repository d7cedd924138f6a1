"""Engines that hold the published vectors, behind one interface.

A version is built beside the ones that are read, opened, counted and searched; then the alias moves to it, and what is
older than the one before goes. A version's name begins with its date, so that names sort by it. An engine may be
shared: what beside a sink's versions begins with its name is another's, and stays.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dssm import storage

Batches = Iterator[tuple[pa.Array, np.ndarray]]
VECTORS_PER_LIST = 39  # fewer, and faiss, which Milvus uses too, warns that centres are poorly placed
VERSION = re.compile(r"\d{8}_[0-9a-f]{16}", re.ASCII)


def version_name(date: str, *parts: str) -> str:
    """Returns the name of a version: its date, YYYY-MM-DD, and a digest of what it is made of.

    >>> version_name("2024-01-08", "v1")
    '20240108_964b4bf2932b9233'
    """
    return f"{date.replace('-', '')}_{storage.digest(*parts)}"


@dataclass(frozen=True)
class Place:
    """Where a sink lies: its name in the settings, its pipeline's, and a folder for what is a file."""

    sink: str
    pipeline: str
    folder: str

    @property
    def setting(self) -> str:
        return f"index.sinks.{self.sink}"

    @property
    def words(self) -> str:
        """Pipeline and sink in letters, digits and underscores."""
        return f"{self.pipeline.replace('-', '_')}_{self.sink}"


@dataclass(frozen=True)
class Vectors:
    """What an index is built from.

    Attributes:
      rows, dim: of all batches together.
      batches: calls for the ids, (n,) text, and vectors, (n, dim) float32, once more from the start.
      sample: (drawn, dim), some of the vectors, drawn uniformly: as many as the largest `SinkKind.sample_size` of
        the settings' sinks asks for, where there are so many.
      norm: of every vector; None where they differ.
      facts: what they are of, such as the model's version.
    """

    rows: int
    dim: int
    batches: Callable[[], Batches]
    sample: np.ndarray
    norm: float | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Hits:
    """What searches found, best first: `ids` (queries, K) text, None behind the last; `scores` (queries, K) float32.

    Scores are inner products, as near as the engine has them; −inf behind the last.
    """

    ids: np.ndarray
    scores: np.ndarray


class Opened(ABC):
    """A version that can be searched."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many vectors the engine itself says it holds."""

    @abstractmethod
    def search(self, queries: np.ndarray, count: int) -> Hits:
        """Returns the items with the largest inner products with each query, (queries, dim) float32."""


class Sink(ABC):
    """One engine. Its versions are independent; the alias says which one readers take."""

    how: str = "index"  # it searches: by an index, or by fetching all vectors
    errors: tuple[type[Exception], ...] = ()  # of the engine, that a user can mend

    @abstractmethod
    def names(self) -> Iterable[str]:
        """Returns what stands in the engine where a version's name would, whatever wrote it."""

    def versions(self) -> list[str]:
        """Returns all versions, whole or not, sorted."""
        return sorted({name for name in self.names() if VERSION.fullmatch(name)})

    @abstractmethod
    def current(self) -> str | None:
        """Returns the version that readers take."""

    @abstractmethod
    def previous(self) -> str | None:
        """Returns the version that readers took before."""

    @abstractmethod
    def is_whole(self, version: str, rows: int) -> bool:
        """Whether the version is there with so many rows, so that it need not be built again."""

    @abstractmethod
    def build(self, version: str, vectors: Vectors) -> None:
        """Builds a version, in the place of what a killed run left of it."""

    @abstractmethod
    def opened(self, version: str) -> AbstractContextManager[Opened]:
        """Opens a version to be searched."""

    @abstractmethod
    def switch(self, version: str) -> None:
        """Moves the alias, at once for every reader. To switch to the current version changes nothing."""

    @abstractmethod
    def drop(self, version: str) -> None:
        """Removes a version."""

    def place(self, version: str) -> str:
        """Says where a version lies, for people and for readers of files."""
        return ""

    def close(self) -> None:  # noqa: B027
        """Ends connections."""

    def drop_old(self) -> list[str]:
        """Drops all versions but the current one and the one before. Returns: those dropped."""
        kept = {self.current(), self.previous()}
        old = [version for version in self.versions() if version not in kept]
        for version in old:
            self.drop(version)
        return old


def default_lists(rows: int, known: int) -> int:
    """Returns how many lists the vectors are put in: 4 √rows, at most one for 39 of those that centres are trained on.

    Args:
      rows: vectors in all.
      known: those that centres are trained on.

    >>> default_lists(1_000_000, 100_000), default_lists(2_000, 2_000), default_lists(5, 5)
    (2564, 51, 1)
    """
    return max(1, min(round(4 * math.sqrt(rows)), known // VECTORS_PER_LIST))


def default_probes(lists: int) -> int:
    """Returns how many of so many lists a query looks at: an eighth, at least 32."""
    return min(lists, max(32, lists // 8))


def ids_at(ids: pa.Array, places: np.ndarray) -> np.ndarray:
    """Returns the ids at places, of the same shape; None where a place is below 0."""
    flat = pa.array(places.ravel(), mask=places.ravel() < 0)
    return ids.take(pc.cast(flat, pa.int64())).to_numpy(zero_copy_only=False).reshape(places.shape)
