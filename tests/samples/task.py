"""A task's user pass and files without Spark: events and profiles as Python values in, datasets out."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dssm.config import Settings
from dssm.features import FIRST_TOKEN_ID
from dssm.manifest import (
    ALWAYS,
    EVENT_TIME,
    ITEM_ID,
    ITEM_INDEX,
    ITEM_KEY,
    ITEM_POSITIVES,
    ITEM_PROBABILITY,
    LABEL,
    SOURCE,
    UPLOAD_TIME,
    USER_ID,
    USER_KEY,
    WEIGHT,
    Statistics,
    target_column,
)
from dssm.packing import pack
from dssm.samples.days import local_days
from dssm.samples.lookups import DAYS_COLUMN, EVENTS_COLUMN, POSITIVES_COLUMN, Lookups, group_column
from tests.samples.feed import DATE, ZONE, decoded, files_of, ms

CONFIG: dict[str, Any] = {
    "name": "task",
    "date": DATE,
    "timezone": ZONE.key,
    "window": {"train_days": 3, "test_days": 1},
    "sources": {
        "feed": {"path": "feed", "user": "client_id", "item": "post_id", "time": "time"},
        "likes": {"path": "likes", "user": "client_id", "item": "post_id", "time": "time", "roles": ["train"]},
    },
    "catalogue": {"path": "posts", "key": "post_id", "upload_time": "uploaded"},
    "features": {
        "client_id": {"kind": "SparseFeat", "side": "user"},
        "post_id": {"kind": "SparseFeat", "side": "item"},
    },
    "samples": {"rows_per_file": 4, "train_rows": "all"},
    "train": {"loss": "weighted_bce"},
}
PARTS = ("train", "test", "users", "interactions")


@dataclass(frozen=True)
class Event:
    """A row of a log; `item` is its place in the catalogue."""

    user: str
    item: int
    time: int
    label: float = 1
    source: str = "feed"
    fate: str = "train"
    weight: float = 1
    in_log: bool = True
    targets: Mapping[str, float] = field(default_factory=dict)

    @property
    def hash(self) -> int:
        return _hash(self.user, self.item, self.time, self.source, self.label, self.weight, *self.targets.items())


@dataclass(frozen=True)
class Snapshot:
    """A row of a profile, seen from `time` on."""

    profile: str
    user: str
    values: Mapping[str, Any]
    time: int = 0


@dataclass
class TaskFeed:
    """What a build has read and frozen when the user pass begins.

    Attributes:
      items: raw columns of each item, ascending by `id`; `upload` in ms, `positives` and `group` are our own.
      tokens: of each vocabulary.
      providers: column of the user features and histories → where it comes from.
      vectors: ids and vectors, by name.
      published_items: file of a previous model's vectors of items, by name of the hard negatives.
      published_users: a previous model's vectors of users, by name of the hard negatives.
      more: sections of the configuration, in the place of CONFIG's.
    """

    folder: Path
    items: Sequence[Mapping[str, Any]]
    tokens: Mapping[str, Sequence[str]]
    providers: Mapping[str, str]
    events: Sequence[Event] = ()
    snapshots: Sequence[Snapshot] = ()
    vectors: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    published_items: Mapping[str, str] = field(default_factory=dict)
    published_users: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> Settings:
        return Settings.model_validate({**CONFIG, **self.more})

    def run(self, name: str = "built", tasks: int = 1, seed: int | None = None) -> dict[str, list[dict[str, Any]]]:
        """Makes the datasets, as a build does with so many tasks of the user pass.

        Args:
          name: folder of the files, below the feed's.
          tasks: users are spread over so many.
          seed: the rows are put in an order that it draws; None: as they are.
        Returns: rows of each dataset as Python values.
        """
        from dssm.samples.datasets import sample_columns
        from dssm.samples.pass_plan import Router
        from dssm.samples.sample_files import file_maker, pass_plan
        from dssm.samples.user_pass import user_pass

        settings, folder = self.settings(), self.folder / name
        for part in PARTS:
            (folder / part).mkdir(parents=True)
        lookups = self._lookups(settings, folder)
        widths = {name: len(next(iter(of.values()))) for name, of in self.published_users.items()}
        fates = [event.fate for event in self.events]
        rows = {"train": fates.count("train"), "test": fates.count("test"), "users": 1, "interactions": 1}
        files = {part: max(1, -(-rows[part] // settings.samples.rows_per_file)) for part in PARTS}
        names = tuple((part, f"part-{number:05d}.parquet") for part in PARTS for number in range(files[part]))
        plan = pass_plan(settings, self.providers, lookups, widths, Router(files, tuple(range(len(names)))))
        maker = file_maker(settings, str(folder), lookups, plan, names, sample_columns(settings))
        table = self._table(settings, plan, lookups)
        if seed is not None:
            table = table.take(pa.array(np.random.default_rng(seed).permutation(table.num_rows)))
        task_of = pa.array([_hash(user, tasks) % tasks for user in table[USER_ID].to_pylist()])
        made = [
            batch
            for task in range(tasks)
            for batch in user_pass(plan, _as_sent(table.filter(pa.compute.equal(task_of, task))))
        ]
        list(maker.run(made))
        return {part: read_files(folder / part, maker.columns[part]) for part in PARTS}

    def files(self, name: str) -> dict[str, bytes]:
        """Returns the bytes of every file of the datasets."""
        folder = self.folder / name
        return {f"{part}/{path}": data for part in PARTS for path, data in files_of(folder / part).items()}

    def _lookups(self, settings: Settings, folder: Path) -> Lookups:
        from dssm.samples.vocabulary import shared_hash_buckets

        vocabularies, vectors, days = {}, {}, {}
        for vocabulary, tokens in self.tokens.items():
            vocabularies[vocabulary] = str(folder / f"{vocabulary}.parquet")
            pq.write_table(pa.table({"token": pa.array(tokens, pa.string())}), vocabularies[vocabulary])
        for name, rows in self.vectors.items():
            vectors[name] = str(folder / f"{name}.parquet")
            values = pa.array(list(rows.values()), pa.list_(pa.float32()))
            pq.write_table(pa.table({"id": list(rows), "values": values}), vectors[name])
        for name, counter in settings.counters.items():
            if counter.side == "item":
                days[name] = str(folder / f"{name}.days.parquet")
                pq.write_table(self._days(settings, counter.sources), days[name])
        lookups = Lookups(
            vocabularies=vocabularies,
            buckets=shared_hash_buckets(settings.features),
            statistics=dict(self.statistics),
            vectors=vectors,
            storage={name: table.storage for name, table in settings.vectors.items()},
            negatives=settings.samples.negatives,
            published=self.published_items,
            mapped_mb=settings.samples.broadcast_mb,
        ).with_days(days)
        return self._with_items(settings, folder, lookups)

    def _with_items(self, settings: Settings, folder: Path, lookups: Lookups) -> Lookups:
        """Writes the encoded catalogue, in another order than that of the indexes."""
        from dssm.samples.datasets import item_columns
        from dssm.samples.encoding import encode_features
        from dssm.samples.files import arrow_schema, write_file
        from dssm.samples.raw_columns import raw_item_features

        columns = item_columns(settings)
        positives = [item.get("positives", 0) for item in self.items]
        made: dict[str, Any] = {
            ITEM_ID: [item["id"] for item in self.items],
            ITEM_INDEX: list(range(len(self.items))),
            ITEM_KEY: [_hash(item["id"]) for item in self.items],
            ITEM_PROBABILITY: [count / max(sum(positives), 1) for count in positives],
            ITEM_POSITIVES: positives,
            UPLOAD_TIME: [item.get("upload", ALWAYS) for item in self.items],
        }
        made |= {n: [i.get("group", 0) for i in self.items] for n in map(group_column, settings.samples.negatives)}
        features = raw_item_features(settings)
        raw = {f.source_column: _column(self.items, f.source_column) for f in features}
        made |= encode_features(raw, features, lookups.tables())
        made |= {name: [0.0] * len(self.items) for name in columns if name not in made}
        schema = arrow_schema(columns)
        table = pa.table({name: pa.array(made[name], schema.field(name).type) for name in columns})
        (folder / "items").mkdir()
        files = []
        for number, half in enumerate((table[1::2], table[::2])) if len(self.items) > 1 else [(0, table)]:
            files.append(f"{folder}/items/part-{number:05d}.parquet")
            write_file(files[-1], half, columns)
        return lookups.with_items(tuple(files), columns)

    def _days(self, settings: Settings, sources: Sequence[str]) -> pa.Table:
        found: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
        for event in self.events:
            if event.in_log and event.source in sources:
                day = int(local_days(np.array([event.time]), settings.timezone)[0])
                counts = found[event.item, day]
                counts[0] += 1
                counts[1] += event.label > 0
        rows = [(item, day, *counts) for (item, day), counts in found.items()]
        names = (ITEM_INDEX, DAYS_COLUMN, EVENTS_COLUMN, POSITIVES_COLUMN)
        kinds = (pa.int32(), pa.int32(), pa.int64(), pa.int64())
        columns = zip(*rows, strict=True) if rows else [[]] * len(names)
        return pa.table({n: pa.array(c, k) for n, c, k in zip(names, columns, kinds, strict=True)})

    def _table(self, settings: Settings, plan: Any, lookups: Lookups) -> pa.Table:
        """Returns the rows that the user pass takes: Grain: one row an event or a profile's row."""
        from dssm.samples.events import TOO_EARLY
        from dssm.samples.pass_columns import EVENT, FATE_CODE, HASH, IN_LOG, KIND, WORDS, input_fields
        from dssm.samples.profiles import PublishedUsers, UserVocabulary

        codes = {"train": 1, "test": 2, TOO_EARLY: 3}
        rows: list[dict[str, Any]] = [
            {
                USER_ID: event.user,
                USER_KEY: _hash(event.user),
                KIND: EVENT,
                ITEM_INDEX: event.item,
                EVENT_TIME: event.time,
                SOURCE: list(settings.sources).index(event.source),
                LABEL: event.label,
                WEIGHT: event.weight,
                FATE_CODE: codes.get(event.fate, 0),
                IN_LOG: event.in_log,
                HASH: event.hash,
                **{target_column(name): event.targets.get(name, float("nan")) for name in settings.target_names},
            }
            for event in self.events
        ]
        for number, encoder in enumerate(plan.profiles):
            if isinstance(encoder, UserVocabulary):
                tokens = self.tokens[encoder.vocabulary]
                ids = np.arange(len(tokens)) + FIRST_TOKEN_ID
                given = [(token, 0, words) for token, words in zip(tokens, pack(encoder.encode(ids)), strict=True)]
            elif isinstance(encoder, PublishedUsers):
                users = self.published_users[encoder.negatives]
                packed = pack(encoder.encode(np.stack(list(users.values()))))
                given = [(user, 0, words) for user, words in zip(users, packed, strict=True)]
            else:
                mine = [snapshot for snapshot in self.snapshots if snapshot.profile == encoder.name]
                raw = {column: _column([s.values for s in mine], column) for column in encoder.raw_columns}
                packed = pack(encoder.encode(raw, len(mine))) if mine else []
                given = [(s.user, s.time, words) for s, words in zip(mine, packed, strict=True)]
            rows += [
                {USER_ID: user, USER_KEY: _hash(user), KIND: number, EVENT_TIME: time, WORDS: words.as_py()}
                for user, time, words in given
            ]
        return pa.Table.from_pylist(rows, pa.schema(input_fields(plan.targets)))


def _as_sent(rows: pa.Table) -> list[pa.RecordBatch]:
    """Returns rows as a task gets them: those of events and those of profiles, each with their own columns."""
    from dssm.samples.pass_columns import EVENT, FATE_CODE, HASH, IN_LOG, KIND, WORDS

    of_event = pa.compute.equal(rows[KIND], EVENT)
    of_events = rows.filter(of_event).drop_columns([WORDS])
    others = [ITEM_INDEX, SOURCE, LABEL, WEIGHT, FATE_CODE, IN_LOG, HASH]
    targets = [name for name in rows.column_names if name.startswith(target_column(""))]
    of_profiles = rows.filter(pa.compute.invert(of_event)).drop_columns([*others, *targets])
    return [batch for table in (of_profiles, of_events) for batch in table.to_batches(max_chunksize=7)]


def _column(rows: Iterable[Mapping[str, Any]], name: str) -> pa.Array:
    values = [row.get(name) for row in rows]
    return pa.array(values, pa.string()) if all(value is None for value in values) else pa.array(values)


def _hash(*parts: Any) -> int:
    """Returns a signed 64-bit number that the parts decide."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little", signed=True)


def read_files(folder: Path, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of a dataset's files, in their order."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    return decoded(pa.concat_tables(tables), columns) if tables else []


def at(day: int, hour: int, minute: int = 0) -> int:
    """Unix milliseconds of a time of January 2024 in the feed's time zone."""
    return ms(day, hour) + minute * 60_000


def changed(feed: TaskFeed, folder: Path, **changes: Any) -> TaskFeed:
    """Returns the feed with another folder and some attributes replaced."""
    return replace(feed, folder=folder, **changes)
