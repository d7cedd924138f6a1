"""One task's files: rows that wait to be encoded, to Parquet files of one row group. Pure Arrow and NumPy.

The wide columns (a history's ids, pooled vectors, the item's features) are made here, behind the last shuffle:
what travels through it are places in the catalogue.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dssm.features import AnyFeature, DenseFeat, SparseFeat, VarLenSparseFeat, of_side
from dssm.manifest import (
    ALWAYS,
    CLICKED,
    EVENT_TIME,
    ITEM_ID,
    ITEM_INDEX,
    LABEL,
    LAST_TIME,
    NEGATIVE_PROBABILITY,
    NEGATIVES,
    POSITIVE,
    SEEN,
    SOURCE,
    TARGETS,
    UPLOAD_TIME,
    USER_ID,
    USER_KEY,
    WARM,
    WEIGHT,
    ColumnSpec,
    negatives_column,
    target_column,
)
from dssm.packing import pack, unpack
from dssm.samples.days import DAY_MS, local_days
from dssm.samples.history_encoding import encode_history
from dssm.samples.lookups import Lookups
from dssm.samples.number_encoding import encode_event_time, encode_numbers
from dssm.samples.pass_columns import (
    CLICKED_ITEMS,
    DRAWN,
    FILE,
    ORDER,
    PROBABILITY,
    SEEN_ITEMS,
    SEEN_POSITIVE,
    SEEN_TARGETS,
    SEEN_TIME,
    WARM_USER,
    WORDS,
    history_column,
)
from dssm.samples.profiles import found_column
from dssm.samples.ragged import Lists
from dssm.samples.timeline import sorted_places
from dssm.samples.user_pass import counted
from dssm.samples.words import Words
from dssm.samples.writing import new_file
from dssm.sections import Counter

WRITTEN = (("file", pa.int32()), ("rows", pa.int64()), ("matched", pa.list_(pa.int64())), ("sha256", pa.string()))


def counter_column(name: str) -> str:
    return f"__counter_{name}"


def arrow_schema(columns: Mapping[str, ColumnSpec]) -> pa.Schema:
    """Returns how a dataset's columns are stored."""
    kinds = {"packed": lambda _: pa.binary(), "text": lambda _: pa.string(), "scalar": _scalar}
    kinds["list"] = lambda spec: pa.list_(_scalar(spec))
    return pa.schema([(name, kinds[spec.encoding](spec)) for name, spec in columns.items()])


def _scalar(spec: ColumnSpec) -> pa.DataType:
    return pa.string() if spec.dtype == "string" else pa.from_numpy_dtype(np.dtype(spec.dtype))


def write_file(path: str, table: pa.Table, columns: Mapping[str, ColumnSpec]) -> str:
    """Writes one Parquet file of one row group. Returns: its SHA-256."""
    repetitive = [name for name, spec in columns.items() if spec.encoding == "text"]
    with new_file(path, table.schema, repetitive) as file:
        file.write(table)
    return file.sha256


@dataclass(frozen=True)
class Encoder:
    """Encodes features that depend on more than a raw column: histories, counters, the event's time.

    Attributes:
      features: all, by name.
      universe: features on histories that go on with a profile's list: see `Lookups.universe`.
    """

    features: Mapping[str, AnyFeature]
    histories: Sequence[str]
    counters: Mapping[str, Counter]
    timezone: str
    lookups: Lookups
    universe: tuple[AnyFeature, ...]

    def user_columns(
        self, words: Mapping[str, np.ndarray], histories: Mapping[str, Lists], times: np.ndarray
    ) -> dict[str, pa.Array]:
        """Returns the user features' encoded columns of some rows.

        Args:
          words: columns that are encoded already, and the counters' values.
          histories: item indexes, newest first.
          times: (rows,) Unix ms, as of when.
        """
        tables = self.lookups.tables()
        columns: dict[str, pa.Array] = {}
        for feature in of_side(self.features, "user"):
            source = feature.source_column
            if isinstance(feature, SparseFeat) and feature.time is not None:
                columns[feature.name] = pa.array(encode_event_time(times, feature.time, self.timezone))
            elif source in histories:
                codes = self.lookups.codes(feature, self.universe)
                columns |= encode_history(feature, histories[source], codes, tables)
            elif source in self.counters:
                assert isinstance(feature, DenseFeat)
                values = words[counter_column(source)].astype(np.float64)
                columns[feature.name] = pa.array(encode_numbers(feature, values, None))
            else:
                names = [feature.name]
                if isinstance(feature, VarLenSparseFeat) and feature.weighted:
                    names.append(feature.weight_name)
                columns |= {name: as_column(words[name]) for name in names}
        return columns

    def changing(self, feature: DenseFeat, items: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Returns an item feature that changes with the event's time, for items at times of the same shape; float32."""
        flat = items.reshape(-1)
        upload = np.where(flat >= 0, self.lookups.item_column(UPLOAD_TIME)[flat], ALWAYS)
        values = self.changing_of(feature, flat, upload, times.reshape(-1))
        return values.reshape(items.shape)

    def changing_of(
        self, feature: DenseFeat, items: np.ndarray, upload_ms: np.ndarray, times: np.ndarray
    ) -> np.ndarray:
        """As `changing`, where the upload times are at hand. All (n,)."""
        if feature.time is not None:
            # Before its upload, as for an event of a source that is not checked, an item is 0 days old.
            days = np.where(upload_ms == ALWAYS, np.nan, np.maximum(times - upload_ms, 0) / DAY_MS)
            return encode_numbers(feature, days, None)
        counter, day = self.counters[feature.source_column], local_days(times, self.timezone)
        found = self.lookups.item_days(feature.source_column).between(items, day - counter.days, day)
        return encode_numbers(feature, counted(counter, *found).astype(np.float64), None)


def as_column(values: np.ndarray) -> pa.Array:
    """Returns numbers as an encoded column: packed where a row has several."""
    return pa.array(values) if values.ndim == 1 else pack(values)


@dataclass(frozen=True)
class FileMaker:
    """Writes a task's rows.

    Attributes:
      folder: the build's folder.
      names: (dataset, file name) of each file's number.
      columns: of each dataset.
      words: layout of the rows' words.
      targets, profiles: names.
      sources: names of the event sources, in the order of their codes.
      changing: item features that change with the event's time.
      with_items: whether the rows come with the item's columns (a large catalogue), which are looked up otherwise.
    """

    folder: str
    names: tuple[tuple[str, str], ...]
    columns: Mapping[str, Mapping[str, ColumnSpec]]
    encoder: Encoder
    words: Words
    targets: tuple[str, ...]
    profiles: tuple[str, ...]
    sources: tuple[str, ...]
    changing: tuple[DenseFeat, ...]
    with_items: bool

    def run(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Args: batches: all rows of some files. Yields: the files written, as `WRITTEN`."""
        of_columns: dict[tuple[str, ...], list[pa.RecordBatch]] = {}  # a file's rows all have the same
        for batch in batches:
            of_columns.setdefault(tuple(batch.schema.names), []).append(batch)
        written = [file for given in of_columns.values() for file in self._files(pa.Table.from_batches(given))]
        arrays = [pa.array([row[place] for row in written], kind) for place, (_, kind) in enumerate(WRITTEN)]
        yield pa.RecordBatch.from_arrays(arrays, names=[name for name, _ in WRITTEN])

    def _files(self, given: pa.Table) -> Iterator[tuple[int, int, list[int], str]]:
        """Writes the files of some rows. Yields each one's number, rows, rows that found a profile's, SHA-256."""
        table = given.combine_chunks()
        files = table[FILE].to_numpy()
        tie = table[USER_KEY].to_numpy()  # the order's numbers are hashes: two rows could share one
        order = sorted_places(table[ORDER].to_numpy(), tie)
        order = order[np.argsort(files[order], kind="stable")]
        bounds = np.append(np.flatnonzero(np.diff(files[order], prepend=-1)), len(order))
        for start, end in itertools.pairwise(bounds.tolist()):
            number = int(files[order[start]])
            yield number, end - start, *self._write(number, table.take(pa.array(order[start:end])))

    def _write(self, number: int, rows: pa.Table) -> tuple[list[int], str]:
        """Writes one file. Returns: how many rows found a row of each profile, and the file's SHA-256."""
        dataset, name = self.names[number]
        specs = self.columns[dataset]
        get = {column: rows[column].combine_chunks() for column in rows.column_names}
        made, matched = {"interactions": self._interactions, "users": self._users}.get(dataset, self._samples)(get)
        schema = arrow_schema(specs)
        table = pa.Table.from_arrays([made[column].cast(schema.field(column).type) for column in specs], schema=schema)
        return matched, write_file(f"{self.folder}/{dataset}/{name}", table, specs)

    def _user_side(self, rows: Mapping[str, pa.Array]) -> tuple[dict[str, pa.Array], list[int]]:
        spec = ColumnSpec(dtype="int32", shape=(self.words.width,), encoding="packed")
        words = self.words.split(unpack(rows[WORDS], spec))
        histories = {name: as_lists(rows[history_column(name)], np.int32) for name in self.encoder.histories}
        columns = self.encoder.user_columns(words, histories, rows[EVENT_TIME].to_numpy())
        return columns, [int(words[found_column(name)].sum()) for name in self.profiles]

    def _samples(self, rows: Mapping[str, pa.Array]) -> tuple[dict[str, pa.Array], list[int]]:
        columns, matched = self._user_side(rows)
        lookups = self.encoder.lookups
        items, times = rows[ITEM_INDEX].to_numpy(), rows[EVENT_TIME].to_numpy()
        columns |= {name: rows[name] for name in (USER_ID, USER_KEY, EVENT_TIME, LABEL, WEIGHT)}
        columns |= {target_column(name): rows[target_column(name)] for name in self.targets}
        columns[SOURCE] = pa.array(self.sources).take(rows[SOURCE])
        for name, spec in lookups.item_columns.items():
            if name in self.columns["test"]:
                columns[name] = rows[name] if self.with_items else self._of_items(name, spec, items)
        columns[ITEM_ID] = rows[ITEM_ID] if self.with_items else lookups.item_ids().take(pa.array(items))
        for feature in self.changing:
            columns[feature.name] = pa.array(self.encoder.changing(feature, items, times))
        if DRAWN in rows and rows[DRAWN].null_count < len(items):
            count = self.columns["train"][NEGATIVES].shape[0]
            drawn = unpack(rows[DRAWN], ColumnSpec(dtype="int32", shape=(count,), encoding="packed"))
            columns |= {NEGATIVES: rows[DRAWN], NEGATIVE_PROBABILITY: rows[PROBABILITY]}
            when = np.broadcast_to(times[:, None], drawn.shape)
            for feature in self.changing:
                columns[negatives_column(feature.name)] = pack(self.encoder.changing(feature, drawn, when))
        return columns, matched

    def _of_items(self, name: str, spec: ColumnSpec, items: np.ndarray) -> pa.Array:
        return as_column(self.encoder.lookups.item_column(name)[items])

    def _users(self, rows: Mapping[str, pa.Array]) -> tuple[dict[str, pa.Array], list[int]]:
        columns, _ = self._user_side(rows)
        clicked = as_lists(rows[CLICKED_ITEMS], np.int32)
        return {**columns, USER_ID: rows[USER_ID], WARM: rows[WARM_USER], CLICKED: _as_arrow(clicked)}, []

    def _interactions(self, rows: Mapping[str, pa.Array]) -> tuple[dict[str, pa.Array], list[int]]:
        lists = {
            SEEN: as_lists(rows[SEEN_ITEMS], np.int32),
            POSITIVE: as_lists(rows[SEEN_POSITIVE], np.int32),
            TARGETS: as_lists(rows[SEEN_TARGETS], np.int32),
            LAST_TIME: as_lists(rows[SEEN_TIME], np.int64),
        }
        return {USER_ID: rows[USER_ID], **{name: _as_arrow(values) for name, values in lists.items()}}, []


def as_lists(column: pa.Array, dtype: type) -> Lists:
    """Returns binaries as lists of numbers."""
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    size = np.dtype(dtype).itemsize
    count = int(bounds[-1] - bounds[0]) // size
    values: np.ndarray = np.frombuffer(data, dtype, count=count, offset=bounds[0]) if count else np.zeros(0, dtype)
    return Lists((bounds - bounds[0]) // size, values)


def _as_arrow(lists: Lists) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(lists.offsets, pa.int32()), pa.array(lists.values))
