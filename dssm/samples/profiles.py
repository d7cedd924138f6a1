"""A profile's rows as words: encoded once a row, not once an event. Pure Arrow and NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dssm.features import UNKNOWN_ID, AnyFeature
from dssm.manifest import ColumnSpec
from dssm.samples.encoding import encode_features, split_lists
from dssm.samples.lookup_tables import places_in
from dssm.samples.lookups import Lookups
from dssm.samples.words import Words

NOTHING = -2  # fills the places of a list that hold no item


def found_column(profile: str) -> str:
    """Name of the word that says whether a row of the profile was seen: 1 or 0."""
    return f"__found_{profile}"


@dataclass(frozen=True)
class UserVocabulary:
    """The vocabulary of user ids as a profile, a row a token: it grows with the users, so nobody holds it whole.

    `features`: those of the user's own id that have this vocabulary.
    """

    vocabulary: str
    features: tuple[str, ...]

    @property
    def words(self) -> Words:
        return Words(dict.fromkeys(self.features, ColumnSpec(dtype="int32")))

    @property
    def places(self) -> dict[str, slice]:
        return {}

    @property
    def width(self) -> int:
        return len(self.features)

    def encode(self, ids: np.ndarray) -> np.ndarray:
        return np.repeat(ids.astype(np.int32)[:, None], self.width, axis=1)

    def default(self) -> np.ndarray:
        return np.full(self.width, UNKNOWN_ID, np.int32)


@dataclass(frozen=True)
class PublishedUsers:
    """A previous model's vectors of the users, as a profile with a row a user: nobody holds them all.

    `negatives`: name of the hard negatives that they rank the catalogue for; `vector_width`: numbers of a vector.
    """

    negatives: str
    vector_width: int

    @property
    def words(self) -> Words:
        return Words({})

    @property
    def places(self) -> dict[str, slice]:
        return {}

    @property
    def width(self) -> int:
        return 1 + self.vector_width

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Args: vectors: (rows, vector_width) float32. Returns: 1, then the vector's bits, (rows, width)."""
        words = np.ascontiguousarray(vectors, np.float32).view(np.int32)
        return np.concatenate([np.ones((len(words), 1), np.int32), words], axis=1)

    def default(self) -> np.ndarray:
        return np.zeros(self.width, np.int32)


@dataclass(frozen=True)
class OlderList:
    """A profile's column with items that a history goes on with."""

    column: str
    separator: str
    last: int


@dataclass(frozen=True)
class ProfileEncoder:
    """Encodes the rows of one profile.

    A row's words are the features' encoded columns and `found_column`, then the lists' item indexes.

    Attributes:
      columns: the features' encoded columns.
      lists: by history.
      universe: see `Lookups.universe`.
    """

    name: str
    features: tuple[AnyFeature, ...]
    columns: Mapping[str, ColumnSpec]
    lists: Mapping[str, OlderList]
    lookups: Lookups
    universe: tuple[AnyFeature, ...]

    @property
    def words(self) -> Words:
        return Words({**self.columns, found_column(self.name): ColumnSpec(dtype="int32")})

    @property
    def places(self) -> dict[str, slice]:
        """Where each list stands in the row."""
        start, places = self.words.width, {}
        for history, older in self.lists.items():
            places[history] = slice(start, start + older.last)
            start += older.last
        return places

    @property
    def width(self) -> int:
        return self.words.width + sum(older.last for older in self.lists.values())

    @property
    def raw_columns(self) -> list[str]:
        columns = [feature.source_column for feature in self.features]
        columns += [c for f in self.features if (c := getattr(f, "weight_column", None)) is not None]
        columns += [older.column for older in self.lists.values()]
        return list(dict.fromkeys(columns))

    def encode(self, raw: Mapping[str, pa.Array], rows: int, found: bool = True) -> np.ndarray:
        """Args: raw: `raw_columns`. Returns: (rows, width) int32."""
        encoded = encode_features(raw, self.features, self.lookups.tables())
        encoded[found_column(self.name)] = pa.array(np.full(rows, found, np.int32))
        parts = [self.words.join(encoded, rows)]
        for older in self.lists.values():
            lists = split_lists(raw[older.column], older.separator).first(older.last)
            places = places_in(lists.values, self.lookups.universe(self.universe))
            filled = np.full((rows, older.last), NOTHING, np.int32)
            filled[np.arange(older.last) < lists.counts[:, None]] = places
            parts.append(filled)
        return np.concatenate(parts, axis=1)

    def default(self) -> np.ndarray:
        """Returns the words of a user without a row, (width,)."""
        nothing = {column: pa.nulls(1, pa.string()) for column in self.raw_columns}
        return self.encode(nothing, 1, found=False)[0]
