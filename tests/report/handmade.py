"""Small runs with every kind of column, written by hand: what build_samples leaves behind, row by row."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dssm.config import Settings
from dssm.features import AnyFeature, of_side
from dssm.manifest import (
    ALWAYS,
    CLICKED,
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
    WARM,
    WEIGHT,
    ColumnSpec,
    FileSpec,
    JoinCounts,
    Manifest,
    NullCounts,
    SourceCounts,
    Statistics,
    VocabularySpec,
    encoded_columns,
    negative_columns,
    target_column,
    write_manifest,
)
from dssm.packing import pack
from dssm.paths import RunPaths
from dssm.report.dataset import Run, open_run

DATE = dt.date(2024, 1, 8)
NUMBER, TEXT, KEY = ColumnSpec(dtype="float32"), ColumnSpec(dtype="string", encoding="text"), ColumnSpec(dtype="int64")
INT, INDEXES = ColumnSpec(dtype="int32"), ColumnSpec(dtype="int32", encoding="list")
BESIDE: dict[str, dict[str, ColumnSpec]] = {
    "samples": {
        USER_ID: TEXT, ITEM_ID: TEXT, EVENT_TIME: KEY, SOURCE: TEXT, USER_KEY: KEY, ITEM_KEY: KEY, LABEL: NUMBER,
        WEIGHT: NUMBER, ITEM_PROBABILITY: NUMBER, target_column("like"): NUMBER, target_column("share"): NUMBER,
    },
    "users": {USER_ID: TEXT, WARM: INT, CLICKED: INDEXES},
    "items": {
        ITEM_ID: TEXT, ITEM_INDEX: INT, ITEM_KEY: KEY, ITEM_PROBABILITY: NUMBER, ITEM_POSITIVES: KEY, UPLOAD_TIME: KEY,
    },
    "interactions": {USER_ID: TEXT, ITEM_INDEX: INT},
}  # fmt: skip

FEATURES: dict[str, dict[str, Any]] = {
    "user_id": {"kind": "SparseFeat", "side": "user"},
    "city": {"kind": "SparseFeat", "side": "user", "hash_buckets": 10},
    "age": {"kind": "SparseFeat", "side": "user", "boundaries": [18, 30, 50]},
    "income": {"kind": "SparseFeat", "side": "user", "quantiles": 3},
    "hour": {"kind": "SparseFeat", "side": "user", "time": "hour"},
    "clicks": {"kind": "VarLenSparseFeat", "side": "user", "share_embedding": "item_id", "maxlen": 5},
    "topics": {
        "kind": "VarLenSparseFeat", "side": "user", "share_embedding": "topic", "weighted": True, "maxlen": 3,
    },
    "height": {"kind": "DenseFeat", "side": "user", "transform": "standard"},
    "score": {"kind": "DenseFeat", "side": "user", "transform": "minmax"},
    "visits": {"kind": "DenseFeat", "side": "user", "transform": "log1p"},
    "taste": {"kind": "DenseFeat", "side": "user", "column": "clicks", "pre_embed": "post", "reduce_type": "mean"},
    "item_id": {"kind": "SparseFeat", "side": "item"},
    "topic": {"kind": "SparseFeat", "side": "item"},
    "title": {"kind": "TextFeat", "side": "item", "hash_buckets": 20, "maxlen": 4},
    "price": {"kind": "DenseFeat", "side": "item", "null": -1},
    "ctr": {"kind": "DenseFeat", "side": "item", "column": "item_ctr"},
    "image": {"kind": "DenseFeat", "side": "item", "pre_embed": "frozen"},
}  # fmt: skip
TOKENS: dict[str, list[str]] = {
    "user_id": ["u1", "u2", "u3"],
    "item_id": ["i1", "i2", "i3", "i4", "i5"],
    "topic": ["sport", "mu\x1bsic"],
}
RULES = {
    **{name: VocabularySpec(size=len(tokens) + 2, digest=name) for name, tokens in TOKENS.items()},
    "city": VocabularySpec(size=12, digest="", rule="hash"),
    "title": VocabularySpec(size=22, digest="", rule="hash"),
    "age": VocabularySpec(size=6, digest="", rule="buckets"),
    "income": VocabularySpec(size=5, digest="", rule="buckets"),
    "hour": VocabularySpec(size=26, digest="", rule="time"),
}
STATISTICS = {
    "height": Statistics(events=9, mean=170, deviation=10, minimum=150, maximum=200),
    "score": Statistics(events=9, mean=3, deviation=1, minimum=1, maximum=5),
    "income": Statistics(events=9, mean=20, deviation=5, minimum=0, maximum=99, boundaries=(10.5, 25.0)),
}
NEGATIVES = {"uniform": {"kind": "uniform", "count": 2}, "popular": {"kind": "popularity", "count": 1}}

Row = dict[str, Any]


def make_settings(root: Path | str, date: dt.date = DATE, **over: Any) -> Settings:
    """Returns settings with a feature of every kind; `over` replaces whole sections."""
    given: dict[str, Any] = {
        "name": "tiny",
        "date": date,
        "root": str(root),
        "timezone": "Asia/Shanghai",
        "window": {"train_days": 3, "test_days": 1},
        "sources": {
            "feed": {
                "path": "feed.csv", "user": "user", "item": "item", "time": "time",
                "targets": {"like": "is_like", "share": "is_share"},
            }
        },
        "catalogue": {"path": "items.csv", "key": "item"},
        "vectors": {
            "post": {"path": "post.json", "width": 6},
            "frozen": {"path": "frozen.json", "width": 2, "storage": "table"},
        },
        "histories": {"clicks": {"sources": ["feed"], "last": 5}},
        "counters": {"item_ctr": {"side": "item", "sources": ["feed"], "days": 2, "count": "rate"}},
        "features": FEATURES,
        "samples": {"train_rows": "all", "negatives": NEGATIVES},
        "train": {"loss": "weighted_bce"},
        **over,
    }  # fmt: skip
    return Settings.model_validate(given)


def moment(day: str, clock: str = "12:00:00") -> int:
    """Returns Unix milliseconds of a time in Shanghai."""
    return int(dt.datetime.fromisoformat(f"{day}T{clock}+08:00").timestamp() * 1000)


def sample(**given: Any) -> Row:
    """Returns a row of train or test; what is not given is ordinary."""
    return {
        USER_ID: "u1", ITEM_ID: "i1", EVENT_TIME: moment("2024-01-06"), SOURCE: "feed", USER_KEY: 1, ITEM_KEY: 1,
        LABEL: 1.0, WEIGHT: 1.0, ITEM_PROBABILITY: 0.25, "row__target_like": 0.0, "row__target_share": np.nan,
        "user_id": 2, "city": 5, "age": 3, "income": 4, "hour": 14, "clicks": [3, 2], "topics": [2],
        "topics__weight": [0.5], "height": 1.0, "score": 0.5, "visits": np.log1p(7), "taste": [3, 4, 0, 0, 0, 0],
        "item_id": 2, "topic": 3, "title": [9, 4], "title__weight": [2.0, 1.0], "price": 19.5, "ctr": 0.1, "image": 2,
        "row__negatives": [1, 2, 3], "row__negative_probability": [0.2, 0.2, 0.5], "ctr__negatives": [0.3, 0.2, 0.1],
        **given,
    }  # fmt: skip


def user(**given: Any) -> Row:
    return {**sample(), USER_ID: "u1", WARM: 1, CLICKED: [0, 2], **given}


def item(number: int, positives: int = 0, **given: Any) -> Row:
    own = {ITEM_ID: f"i{number + 1}", ITEM_INDEX: number, ITEM_POSITIVES: positives, UPLOAD_TIME: ALWAYS}
    return {**sample(), ITEM_PROBABILITY: positives / 8, **own, **given}


ITEMS = [item(place, positives) for place, positives in enumerate((4, 2, 2, 0, 0))]


def columns_of(settings: Settings, part: str) -> dict[str, ColumnSpec]:
    features: Sequence[AnyFeature] = {
        "users": of_side(settings.features, "user"),
        "items": of_side(settings.features, "item"),
        "interactions": [],
    }.get(part, list(settings.features.values()))
    columns = dict(BESIDE.get(part, BESIDE["samples"]))
    for feature in features:
        columns |= encoded_columns(feature, settings.vectors)
    if part == "train":
        columns |= negative_columns(settings.samples.negatives, settings.features, settings.counters)
    return columns


def _column(rows: Sequence[Row], name: str, spec: ColumnSpec) -> pa.Array:
    if spec.encoding == "packed":
        matrix = np.zeros((len(rows), *spec.shape), spec.numpy_dtype)
        for place, row in enumerate(rows):
            matrix[place, : len(row[name])] = row[name]
        return pack(matrix)
    kind = {"int32": pa.int32(), "int64": pa.int64(), "float32": pa.float32(), "string": pa.string()}[spec.dtype]
    return pa.array([row[name] for row in rows], pa.list_(kind) if spec.encoding == "list" else kind)


def write_run(
    root: Path | str,
    train: Sequence[Sequence[Row]],
    test: Sequence[Sequence[Row]] = ((),),
    users: Sequence[Row] = (),
    items: Sequence[Row] = ITEMS,
    tokens: Mapping[str, Sequence[str]] = TOKENS,
    sources: Mapping[str, SourceCounts] | None = None,
    joins: Sequence[JoinCounts] = (),
    nulls: Mapping[str, NullCounts] | None = None,
    quarantine: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    statistics: Mapping[str, Statistics] = STATISTICS,
    settings: Settings | None = None,
    build: str = "b1",
) -> Run:
    """Writes a run of these rows, train and test in files, and opens it."""
    settings = settings or make_settings(root)
    paths = RunPaths(settings.run_folder)
    rules = {**RULES, **{name: VocabularySpec(size=len(of) + 2, digest=name) for name, of in tokens.items()}}
    common = Manifest(
        kind="samples", date=settings.date.isoformat(), build=build, seed=settings.seed, vocabularies=rules,
        statistics=dict(statistics), sources=dict(sources or {}), joins=list(joins),
        nulls=dict(nulls or {}),
    )  # fmt: skip
    parts = {"train": train, "test": test, "users": [users], "items": [items], "interactions": [()]}
    for part, files in parts.items():
        columns, specs = columns_of(settings, part), []
        folder = Path(paths.part(part))
        folder.mkdir(parents=True)
        for number, rows in enumerate(files):
            table = pa.table({name: _column(rows, name, spec) for name, spec in columns.items()})
            pq.write_table(table, folder / f"part-{number:05d}.parquet")
            specs.append(FileSpec(name=f"part-{number:05d}.parquet", rows=len(rows)))
        write_manifest(str(folder), common.model_copy(update={"kind": part, "columns": columns, "files": specs}))
    _write_lookups(Path(paths.samples), tokens)
    for source, lines in (quarantine or {}).items():
        place = Path(paths.samples, "quarantine", f"{source}.json.gz")
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    Path(paths.samples, "settings.json").write_text(settings.model_dump_json())
    write_manifest(paths.samples, common)
    return open_run(paths)


def _write_lookups(samples: Path, tokens: Mapping[str, Sequence[str]]) -> None:
    (samples / "vocabularies").mkdir()
    for name, of in tokens.items():
        table = pa.table({"token": pa.array(of, pa.string()), "events": pa.array(range(len(of), 0, -1), pa.int64())})
        pq.write_table(table, samples / "vocabularies" / f"{name}.parquet")
    (samples / "vectors" / "frozen").mkdir(parents=True)
    pq.write_table(
        pa.table({"id": ["i1", "i2"], "values": [[1.0, 0.0], [0.0, 1.0]]}), samples / "vectors/frozen/vectors.parquet"
    )
