"""Vocabularies and pretrained vectors as files, loaded once by each Python worker."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dssm import storage
from dssm.samples.encoding import Vectors


@dataclass(frozen=True)
class Lookups:
    """Where the lookup tables lie: `vocabularies` and `vectors`, name → Parquet file.

    `attempt` tells one build from another in the same folder: Python workers outlive a build.
    """

    vocabularies: Mapping[str, str]
    vectors: Mapping[str, str]
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex)

    def load(self) -> tuple[dict[str, pa.StringArray], dict[str, Vectors]]:
        return (
            {name: _cached_tokens(path, self.attempt) for name, path in self.vocabularies.items()},
            {name: _cached_vectors(path, self.attempt) for name, path in self.vectors.items()},
        )


def load_tokens(path: str) -> pa.StringArray:
    """Returns a vocabulary's tokens in the order of their ids; the first has id 2."""
    return _read(path, "token")["token"].combine_chunks()


def load_vectors(path: str) -> Vectors:
    table = _read(path, "id", "values")
    values = table["values"].combine_chunks()
    matrix = np.asarray(values.flatten(), np.float32).reshape(table.num_rows, -1)
    return Vectors(ids=table["id"].combine_chunks(), matrix=matrix)


@functools.lru_cache(maxsize=64)
def _cached_tokens(path: str, _attempt: str) -> pa.StringArray:
    return load_tokens(path)


@functools.lru_cache(maxsize=8)
def _cached_vectors(path: str, _attempt: str) -> Vectors:
    return load_vectors(path)


def _read(path: str, *columns: str) -> pa.Table:
    system, place = storage.filesystem(path)
    with system.open(place, "rb") as file:
        return pq.read_table(file, columns=list(columns))
