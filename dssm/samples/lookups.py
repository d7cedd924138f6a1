"""What a build looks rows up in, as files: loaded once by each Python worker, or mapped where they are large."""

from __future__ import annotations

import functools
import hashlib
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dssm import storage
from dssm.features import AnyFeature
from dssm.manifest import (
    ITEM_ID,
    ITEM_INDEX,
    ITEM_POSITIVES,
    UPLOAD_TIME,
    ColumnSpec,
    Statistics,
)
from dssm.packing import unpack
from dssm.samples.history_encoding import ItemCodes, item_codes
from dssm.samples.lookup_tables import Tables, Vectors, places_in
from dssm.samples.negatives import CatalogueForSampling
from dssm.sections import Negatives

VECTORS_AT_ONCE = 4096
DAYS_COLUMN, EVENTS_COLUMN, POSITIVES_COLUMN = "day", "events", "positives"


def group_column(negatives: str) -> str:
    """Name of the catalogue's column with the hashes of the groups that negatives are drawn from; 0: none."""
    return f"row__group_{negatives}"


def groups_of(negatives: Mapping[str, Negatives]) -> dict[str, str]:
    """Returns the catalogue's columns of groups, by name of the negatives: each needs a `group_column`."""
    return {name: kind.group for name, kind in negatives.items() if kind.group is not None}


@dataclass(frozen=True)
class Lookups:
    """Where the lookup tables lie.

    Attributes:
      vocabularies: those of tokens, name → Parquet file.
      buckets: those that are hashed, name → number of buckets.
      statistics: by feature.
      vectors: name → Parquet file; `storage`: name → inline or table.
      item_files, item_columns: of the encoded catalogue.
      day_counts: an item counter's name → Parquet file of (item index, day, events, positives).
      published: hard negatives' name → Parquet file of a previous model's item vectors.
      mapped_mb: a larger table of vectors is mapped from a local file instead of held in memory.
      attempt: tells one build from another in the same folder: Python workers outlive a build.
    """

    vocabularies: Mapping[str, str] = field(default_factory=dict)
    buckets: Mapping[str, int] = field(default_factory=dict)
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    vectors: Mapping[str, str] = field(default_factory=dict)
    storage: Mapping[str, str] = field(default_factory=dict)
    item_files: tuple[str, ...] = ()
    item_columns: Mapping[str, ColumnSpec] = field(default_factory=dict)
    day_counts: Mapping[str, str] = field(default_factory=dict)
    negatives: Mapping[str, Negatives] = field(default_factory=dict)
    published: Mapping[str, str] = field(default_factory=dict)
    mapped_mb: int = 256
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex)

    def with_days(self, day_counts: Mapping[str, str]) -> Lookups:
        return replace(self, day_counts=day_counts)

    def with_items(self, files: tuple[str, ...], columns: Mapping[str, ColumnSpec]) -> Lookups:
        numbers = {name: spec for name, spec in columns.items() if spec.encoding != "text"}
        return replace(self, item_files=files, item_columns=numbers)

    def tables(self) -> Tables:
        """Returns the tables; a file is read when it is first asked for."""
        return Tables(
            vocabularies=_Lazy(self.vocabularies, lambda path: _cached_tokens(path, self.attempt)),
            buckets=self.buckets,
            statistics=self.statistics,
            vectors=_Lazy(self.vectors, lambda path: _cached_vectors(path, self.mapped_mb, self.attempt)),
            storage=self.storage,
        )

    def item_column(self, name: str) -> np.ndarray:
        """Returns a column of the encoded catalogue in the order of the item indexes, (items, *shape)."""
        return _cached_item_column(self.item_files, name, self.item_columns[name], self.attempt)

    def item_ids(self) -> pa.StringArray:
        return _cached_item_ids(self.item_files, self.attempt)

    def universe(self, features: tuple[AnyFeature, ...]) -> pa.StringArray:
        """Returns the catalogue's ids, then others that the features' vocabularies or vectors know.

        A list of the profile that a history goes on with may name items that have left the catalogue.
        """
        return _cached_universe(_Key(self), features)

    def codes(self, feature: AnyFeature, universe: tuple[AnyFeature, ...]) -> ItemCodes:
        return _cached_codes(_Key(self), feature, universe)

    def catalogue_for_sampling(self) -> CatalogueForSampling:
        return _cached_sampling(_Key(self))

    def item_days(self, counter: str) -> ItemDays:
        return _cached_days(self.day_counts[counter], self.attempt)

    def published_items(self, negatives: str) -> Published:
        return _cached_published(_Key(self), self.published[negatives])


_Table = TypeVar("_Table")


class _Lazy(Mapping[str, _Table]):
    """Tables by name, each loaded from its path when it is asked for."""

    def __init__(self, paths: Mapping[str, str], load: Callable[[str], _Table]) -> None:
        self._paths, self._load = paths, load

    def __getitem__(self, name: str) -> _Table:
        return self._load(self._paths[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


@dataclass(frozen=True)
class _Key:
    """Lookups as a key of a cache: one build, one key."""

    lookups: Lookups = field(compare=False)
    attempt: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "attempt", self.lookups.attempt)


def load_tokens(path: str) -> pa.StringArray:
    """Returns a vocabulary's tokens in the order of their ids; the first has id 2."""
    return _read(path, "token")["token"].combine_chunks()


def tokens_digest(path: str) -> tuple[int, str]:
    """Returns the number of a vocabulary's tokens and a digest of them in their order, reading a part at a time."""
    system, place = storage.filesystem(path)
    lengths, texts, count = hashlib.sha256(), hashlib.sha256(), 0
    with system.open(place, "rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(columns=["token"]):
            tokens = batch.column(0).cast(pa.large_binary())
            _, offsets, data = tokens.buffers()
            bounds = np.frombuffer(offsets, np.int64)[tokens.offset : tokens.offset + len(tokens) + 1]
            lengths.update(np.diff(bounds).tobytes())
            if data is not None:
                texts.update(memoryview(data)[bounds[0] : bounds[-1]])
            count += len(tokens)
    return count, storage.digest(lengths.digest(), texts.digest())


def load_vectors(path: str, mapped_mb: int = 2**20) -> Vectors:
    """Returns the vectors of a file, mapped from a local file where they take more than `mapped_mb`."""
    system, place = storage.filesystem(path)
    with system.open(place, "rb") as file:
        parquet = pq.ParquetFile(file)
        ids = parquet.read(columns=["id"])["id"].combine_chunks()
        count, matrix = 0, np.zeros((0, 0), np.float32)
        scratch = None
        for batch in parquet.iter_batches(VECTORS_AT_ONCE, columns=["values"]):
            values = np.asarray(batch.column(0).flatten(), np.float32).reshape(batch.num_rows, -1)
            if count == 0:
                size = len(ids) * values.shape[1]
                if size * 4 > mapped_mb * 2**20:
                    # Unlinked at once: the pages live as long as the map, and no file is left behind.
                    scratch = tempfile.NamedTemporaryFile(prefix="dssm-vectors-")  # noqa: SIM115
                    matrix = np.memmap(scratch, np.float32, "w+", shape=(len(ids), values.shape[1]))
                else:
                    matrix = np.empty((len(ids), values.shape[1]), np.float32)
            matrix[count : count + len(values)] = values
            count += len(values)
        if scratch is not None:
            scratch.close()
    return Vectors(ids=ids, matrix=matrix)


@dataclass(frozen=True)
class ItemDays:
    """Events and positives of each item and day, summed up over the days before.

    `keys`: item index · 2^20 + day, ascending; `events`, `positives`: sums over all keys up to and with each one.
    """

    keys: np.ndarray
    events: np.ndarray
    positives: np.ndarray

    def between(self, items: np.ndarray, first: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the events and positives of items on the days first ≤ day < end; 0 for item −1."""
        base = items.astype(np.int64) << 20
        low = np.searchsorted(self.keys, base + np.maximum(first, 0))
        high = np.searchsorted(self.keys, base + np.maximum(end, 0))
        known = items >= 0
        return tuple(np.where(known, sums[high] - sums[low], 0) for sums in (self.events, self.positives))  # type: ignore[return-value]


@dataclass(frozen=True)
class Published:
    """A previous model's vectors: `items` (items, d) in the order of the item indexes, `has` (items,) who has one."""

    items: np.ndarray
    has: np.ndarray


@functools.lru_cache(maxsize=64)
def _cached_tokens(path: str, _attempt: str) -> pa.StringArray:
    return load_tokens(path)


@functools.lru_cache(maxsize=8)
def _cached_vectors(path: str, mapped_mb: int, _attempt: str) -> Vectors:
    return load_vectors(path, mapped_mb)


@functools.lru_cache(maxsize=1)
def _item_order(files: tuple[str, ...], _attempt: str) -> np.ndarray:
    return np.argsort(_read_all(files, ITEM_INDEX).to_numpy(), kind="stable")


@functools.lru_cache(maxsize=256)
def _cached_item_column(files: tuple[str, ...], name: str, spec: ColumnSpec, attempt: str) -> np.ndarray:
    return unpack(_read_all(files, name), spec)[_item_order(files, attempt)]


@functools.lru_cache(maxsize=2)
def _cached_item_ids(files: tuple[str, ...], attempt: str) -> pa.StringArray:
    return _read_all(files, ITEM_ID).take(pa.array(_item_order(files, attempt)))


@functools.lru_cache(maxsize=8)
def _cached_universe(key: _Key, features: tuple[AnyFeature, ...]) -> pa.StringArray:
    lookups = key.lookups
    tables, ids = lookups.tables(), lookups.item_ids()
    others: list[pa.Array] = []
    for feature in features:
        pre_embed = getattr(feature, "pre_embed", None)
        if pre_embed is not None:
            others.append(tables.vectors[pre_embed].ids)
        elif getattr(feature, "vocabulary", None) in tables.vocabularies:
            others.append(tables.vocabularies[feature.vocabulary])  # type: ignore[union-attr]
    if not others:
        return ids
    known = pc.unique(pa.chunked_array(others).combine_chunks())
    return pa.concat_arrays([ids, known.filter(pc.invert(pc.is_in(known, value_set=ids)))])


@functools.lru_cache(maxsize=64)
def _cached_codes(key: _Key, feature: AnyFeature, universe: tuple[AnyFeature, ...]) -> ItemCodes:
    lookups = key.lookups
    of = getattr(feature, "of", None)
    encoded = {of: lookups.item_column(of)} if of is not None else {}
    return item_codes(feature, lookups.universe(universe), lookups.tables(), encoded)


@functools.lru_cache(maxsize=2)
def _cached_sampling(key: _Key) -> CatalogueForSampling:
    lookups = key.lookups
    groups = {
        name: np.unique(lookups.item_column(group_column(name)), return_inverse=True)
        for name in groups_of(lookups.negatives)
    }
    # The hash 0 stands for no group.
    codes = {name: np.where(values[place] == 0, -1, place).astype(np.int32) for name, (values, place) in groups.items()}
    return CatalogueForSampling.build(
        lookups.negatives, lookups.item_column(ITEM_POSITIVES), lookups.item_column(UPLOAD_TIME), codes
    )


@functools.lru_cache(maxsize=16)
def _cached_days(path: str, _attempt: str) -> ItemDays:
    rows = _read(path, ITEM_INDEX, DAYS_COLUMN, EVENTS_COLUMN, POSITIVES_COLUMN)
    keys = (rows[ITEM_INDEX].to_numpy().astype(np.int64) << 20) + rows[DAYS_COLUMN].to_numpy()
    order = np.argsort(keys)
    sums = [np.concatenate([[0], np.cumsum(rows[c].to_numpy()[order])]) for c in (EVENTS_COLUMN, POSITIVES_COLUMN)]
    return ItemDays(keys[order], *sums)


@functools.lru_cache(maxsize=4)
def _cached_published(key: _Key, path: str) -> Published:
    vectors = load_vectors(path)
    place = places_in(key.lookups.item_ids(), vectors.ids)
    has = place >= 0
    items = np.zeros((len(place), vectors.matrix.shape[1]), np.float32)
    items[has] = vectors.matrix[place[has]]
    return Published(items, has)


def _read_all(files: tuple[str, ...], column: str) -> pa.Array:
    return pa.concat_tables([_read(file, column) for file in files])[column].combine_chunks()


def _read(path: str, *columns: str) -> pa.Table:
    system, place = storage.filesystem(path)
    with system.open(place, "rb") as file:
        return pq.read_table(file, columns=list(columns))
