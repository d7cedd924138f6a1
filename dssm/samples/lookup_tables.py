"""Places of tokens in the tables that they are looked up in, by whole Arrow columns. Pure Arrow and NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dssm.features import FIRST_TOKEN_ID, UNKNOWN_ID
from dssm.manifest import ListKind, Statistics
from dssm.samples.hashing import bucket_ids


@dataclass(frozen=True)
class Vectors:
    """A table of pretrained vectors: `ids` (n,) distinct strings, `matrix` (n, width) float32, maybe a memmap."""

    ids: pa.StringArray
    matrix: np.ndarray


@dataclass(frozen=True)
class Tables:
    """What ids and numbers are looked up in.

    `vocabularies`: tokens in the order of their ids, by vocabulary · `buckets`: hash_buckets, by vocabulary ·
    `statistics`: by feature · `lists`: text or array, by feature · `vectors`: by name · `storage`: inline or table, by
    name of the vectors.
    """

    vocabularies: Mapping[str, pa.StringArray] = field(default_factory=dict)
    buckets: Mapping[str, int] = field(default_factory=dict)
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    lists: Mapping[str, ListKind] = field(default_factory=dict)
    vectors: Mapping[str, Vectors] = field(default_factory=dict)
    storage: Mapping[str, str] = field(default_factory=dict)


def ids_of(tokens: pa.Array, vocabulary: str, tables: Tables) -> np.ndarray:
    if vocabulary in tables.buckets:
        return bucket_ids(tokens, tables.buckets[vocabulary])
    return token_ids(tokens, tables.vocabularies[vocabulary])


def token_ids(tokens: pa.Array, vocabulary: pa.StringArray) -> np.ndarray:
    """Returns each token's id, (n,) int32: 1 for null and unknown tokens."""
    places = places_in(tokens, vocabulary)
    return np.where(places >= 0, places + FIRST_TOKEN_ID, UNKNOWN_ID).astype(np.int32)


def places_in(tokens: pa.Array, known: pa.StringArray) -> np.ndarray:
    """Returns each token's place in `known`, whose entries are distinct; (n,) int32, −1 for null and unknown."""
    if len(known) <= len(tokens):
        return pc.fill_null(pc.index_in(tokens, value_set=known, skip_nulls=True), -1).to_numpy()
    # Arrow builds a hash table of the value set at every call, so that the smaller side has to be that:
    # 10,000 tokens in a vocabulary of five million took 86 ms instead of 780.
    coded = tokens.dictionary_encode()
    found = pc.index_in(known, value_set=coded.dictionary)
    places = np.full(len(coded.dictionary) + 1, -1, np.int32)
    places[found.drop_null().to_numpy()] = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
    return places[pc.fill_null(coded.indices, -1).to_numpy()]
