"""Small encoded runs written without Spark: what build_samples leaves behind, with row counts to choose."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dssm.config import Settings
from dssm.features import FIRST_TOKEN_ID, PADDING_ID, AnyFeature, DenseFeat, VarLenSparseFeat, of_side
from dssm.manifest import (
    EVENT_TIME,
    ITEM_ID,
    ITEM_INDEX,
    ITEM_KEY,
    ITEM_PROBABILITY,
    ITEM_ROWS,
    LABEL,
    NEGATIVE_PROBABILITY,
    NEGATIVES,
    NO_ITEM,
    USER_KEY,
    WEIGHT,
    ColumnSpec,
    FileSpec,
    Manifest,
    VocabularySpec,
    changing_item_features,
    encoded_columns,
    negative_columns,
    negatives_column,
    target_column,
    write_manifest,
)
from dssm.packing import pack
from dssm.paths import RunPaths, vectors_path

SIZES = {"user_id": 12, "item_id": 20, "topic_id": 7}
VOCABULARIES = {name: VocabularySpec(size=size, digest=name) for name, size in SIZES.items()}
ITEMS = 15  # of the catalogue
DAY_MS = 86_400_000
VECTORS = np.random.default_rng(31).normal(size=(9, 4)).astype(np.float32)  # the pretrained vectors `post`

FEATURES: dict[str, dict[str, Any]] = {
    "user_id": {"kind": "SparseFeat", "side": "user", "dim": 4},
    "age": {"kind": "DenseFeat", "side": "user"},
    "clicked": {"kind": "VarLenSparseFeat", "side": "user", "dim": 4, "maxlen": 5, "share_embedding": "item_id"},
    "liked": {
        "kind": "VarLenSparseFeat", "side": "user", "dim": 3, "maxlen": 4,
        "share_embedding": "topic_id", "weighted": True, "combiner": "sqrtn",
    },
    "images": {"kind": "DenseFeat", "side": "user", "pre_embed": "post", "reduce_type": "mean", "maxlen": 3},
    "item_id": {"kind": "SparseFeat", "side": "item", "dim": 4},
    "topic_id": {"kind": "SparseFeat", "side": "item", "dim": 3},
    "image": {"kind": "DenseFeat", "side": "item", "pre_embed": "post"},
    "days": {"kind": "DenseFeat", "side": "item", "time": "days_since_upload"},
}  # fmt: skip

# Two kinds, so that a place among the K = 3 negatives tells which weight it has.
NEGATIVE_KINDS: dict[str, dict[str, Any]] = {
    "any": {"kind": "uniform", "count": 2, "weight": 0.5},
    "popular": {"kind": "popularity", "count": 1, "weight": 2.0},
}

Rows = dict[str, np.ndarray]


def make_settings(
    root: Path | str,
    *,
    negatives: Mapping[str, Any] | None = None,
    storage: str = "inline",
    model: Mapping[str, Any] | None = None,
    **train: Any,
) -> Settings:
    """Returns settings of a tiny model over FEATURES.

    Args:
      negatives: samples.negatives.
      storage: of the vectors, inline or table.
      model, train: go over the sections of that name.
    """
    chosen = {"launch": "single", "batch_size": 4, "epochs": 1, "threads": 1, **train}
    return Settings.model_validate(
        {
            "name": "tiny",
            "date": dt.date(2024, 1, 8),
            "root": str(root),
            "sources": {
                "clicks": {
                    "path": "clicks.csv", "user": "user_id", "item": "item", "time": "time",
                    "targets": {"like": "liked"},
                }
            },
            "catalogue": {"path": "items.csv", "key": "item", "upload_time": "uploaded"},
            "vectors": {"post": {"path": "vectors.json", "width": VECTORS.shape[1], "storage": storage}},
            "features": FEATURES,
            "samples": {"train_rows": "all", "negatives": negatives or {}},
            "model": {
                "user_tower": {"layers": [8], "activation": "tanh"},
                "item_tower": {"layers": [6], "activation": "tanh"},
                "vector_dim": 5,
                **(model or {}),
            },
            "train": chosen,
        }
    )  # fmt: skip


def feature_columns(settings: Settings, features: Sequence[AnyFeature]) -> dict[str, ColumnSpec]:
    return {name: spec for feature in features for name, spec in encoded_columns(feature, settings.vectors).items()}


def columns_of(settings: Settings, part: str = "train") -> dict[str, ColumnSpec]:
    """Returns the encoded columns of a sample: those of the features, and those beside them."""
    columns = {name: ColumnSpec(dtype="int64") for name in (USER_KEY, ITEM_KEY, EVENT_TIME)}
    numbers = (LABEL, WEIGHT, ITEM_PROBABILITY, *map(target_column, settings.target_names))
    columns |= {name: ColumnSpec(dtype="float32") for name in numbers}
    columns |= feature_columns(settings, list(settings.features.values()))
    if part == "train":
        columns |= negative_columns(settings.samples.negatives, settings.features, settings.counters)
    return columns


def item_columns_of(settings: Settings) -> dict[str, ColumnSpec]:
    """Returns the encoded columns of a catalogue's item."""
    columns = {ITEM_ID: ColumnSpec(dtype="string", encoding="text"), ITEM_INDEX: ColumnSpec(dtype="int32")}
    columns |= {ITEM_KEY: ColumnSpec(dtype="int64"), ITEM_PROBABILITY: ColumnSpec(dtype="float32")}
    columns[ITEM_ROWS] = ColumnSpec(dtype="int64")
    return columns | feature_columns(settings, of_side(settings.features, "item"))


def pooled_vectors(codes: np.ndarray) -> np.ndarray:
    """Returns the mean of the vectors that a row's codes name, zeros without any: (rows, entries) → (rows, width)."""
    table = np.concatenate([np.zeros((1, VECTORS.shape[1]), np.float32), VECTORS])
    return table[codes].sum(axis=1) / np.maximum((codes > 0).sum(axis=1), 1, dtype=np.float32)[:, None]


def draw_feature(settings: Settings, feature: AnyFeature, count: int, random: np.random.Generator) -> Rows:
    """Draws a feature's encoded columns. The draws are the same whatever the storage of the vectors is."""
    if isinstance(feature, DenseFeat) and feature.pre_embed is None:
        return {feature.name: random.normal(size=count).astype(np.float32)}
    if isinstance(feature, DenseFeat):
        codes = random.integers(0, len(VECTORS) + 1, (count, feature.maxlen or 1)).astype(np.int32)
        if settings.vectors[feature.pre_embed or ""].storage == "inline":
            return {feature.name: pooled_vectors(codes)}
        return {feature.name: codes if feature.maxlen else codes[:, 0]}
    size = SIZES[feature.vocabulary]
    if not isinstance(feature, VarLenSparseFeat):
        return {feature.name: random.integers(1, size, count).astype(np.int32)}
    ids = random.integers(1, size, (count, feature.maxlen)).astype(np.int32)
    ids[np.arange(feature.maxlen) >= random.integers(0, feature.maxlen + 1, (count, 1))] = PADDING_ID
    if not feature.weighted:
        return {feature.name: ids}
    weights = np.where(ids != PADDING_ID, random.uniform(0.1, 1, ids.shape), 0)  # lists of 0 to all entries
    return {feature.name: ids, feature.weight_name: weights.astype(np.float32)}


def draw_features(settings: Settings, features: Sequence[AnyFeature], count: int, random: np.random.Generator) -> Rows:
    return {
        name: values for feature in features for name, values in draw_feature(settings, feature, count, random).items()
    }


def make_rows(settings: Settings, count: int, seed: int = 0, first_key: int = 1) -> Rows:
    """Draws rows. Each row has its own user key, `first_key` and on; its item key follows from its item."""
    random = np.random.default_rng(seed)
    rows = draw_features(settings, list(settings.features.values()), count, random)
    rows[USER_KEY] = np.arange(first_key, first_key + count, dtype=np.int64)
    rows[ITEM_KEY] = _key(rows["item_id"])
    rows[LABEL] = (random.random(count) < 0.6).astype(np.float32)
    rows[WEIGHT] = random.uniform(0.5, 2, count).astype(np.float32)
    rows[ITEM_PROBABILITY] = _share(rows["item_id"])
    rows[EVENT_TIME] = settings.day_start_ms(0) - random.integers(1, 6 * DAY_MS, count)
    for name in settings.target_names:  # known of some rows
        known = random.random(count) < 0.8
        rows[target_column(name)] = np.where(known, random.random(count) < 0.4, np.nan).astype(np.float32)
    if settings.samples.negatives:
        rows |= _draw_negatives(settings, rows[LABEL], random)
    return rows


def _key(items: np.ndarray) -> np.ndarray:
    return items.astype(np.int64) * 1_000_003


def _share(items: np.ndarray) -> np.ndarray:
    """Returns the item's share of the training rows: (rows,)."""
    return ((items + FIRST_TOKEN_ID) / 500).astype(np.float32)


def _draw_negatives(settings: Settings, label: np.ndarray, random: np.random.Generator) -> Rows:
    """Draws the negatives of positives; some have fewer than K, some none."""
    shape = (len(label), sum(kind.count for kind in settings.samples.negatives.values()))
    items = np.where(label[:, None] > 0, random.integers(NO_ITEM, ITEMS, shape), NO_ITEM).astype(np.int32)
    rows = {NEGATIVES: items, NEGATIVE_PROBABILITY: np.where(items >= 0, 1 / ITEMS, 0).astype(np.float32)}
    for feature in changing_item_features(settings.features, settings.counters):
        rows[negatives_column(feature.name)] = random.normal(size=shape).astype(np.float32)
    return rows


def make_catalogue(settings: Settings, seed: int = 50) -> Rows:
    """Draws the encoded catalogue, in the order of the item indexes."""
    drawn = draw_features(settings, of_side(settings.features, "item"), ITEMS, np.random.default_rng(seed))
    ids = np.array([f"item{number:02d}" for number in range(ITEMS)])
    keys = {ITEM_KEY: _key(drawn["item_id"]), ITEM_PROBABILITY: _share(drawn["item_id"])}
    keys[ITEM_ROWS] = drawn["item_id"].astype(np.int64)
    return {ITEM_ID: ids, ITEM_INDEX: np.arange(ITEMS, dtype=np.int32), **keys, **drawn}


def write_dataset(
    folder: str,
    settings: Settings,
    files: Sequence[Mapping[str, Any]],
    kind: str,
    columns: Mapping[str, ColumnSpec] | None = None,
    build: str = "tiny",
) -> Manifest:
    """Writes one file of one row group for each part, and the manifest.

    Args:
      columns: of the dataset; default: those of samples of this kind.
    """
    columns = columns_of(settings, kind) if columns is None else columns
    Path(folder).mkdir(parents=True)
    specs = []
    for number, rows in enumerate(files):
        name, count = f"part-{number:05d}.parquet", len(rows[next(iter(columns))])
        stored = {column: _stored(rows[column], spec) for column, spec in columns.items()}
        pq.write_table(pa.table(stored), f"{folder}/{name}", row_group_size=max(count, 1))
        specs.append(FileSpec(name=name, rows=count))
    manifest = Manifest(
        kind=kind, date=settings.date.isoformat(), build=build, seed=settings.seed,
        columns=dict(columns), vocabularies=VOCABULARIES, files=specs,
        negatives=settings.samples.negatives if kind == "train" else {},
        users=settings.samples.users if kind == "users" else None,
    )  # fmt: skip
    write_manifest(folder, manifest)
    return manifest


def _stored(values: Any, spec: ColumnSpec) -> pa.Array:
    if spec.encoding == "packed":
        return pack(values)
    kind = pa.from_numpy_dtype(spec.numpy_dtype) if spec.dtype != "string" else pa.string()
    return pa.array(values, pa.list_(kind) if spec.encoding == "list" else kind)


def draw_files(settings: Settings, counts: Sequence[int], seed: int) -> list[Rows]:
    """Draws a file of rows for each count; user keys number the rows of all files from 1."""
    firsts = np.cumsum([1, *counts])
    return [
        make_rows(settings, count, seed=seed + number, first_key=int(first))
        for number, (count, first) in enumerate(zip(counts, firsts, strict=False))
    ]


def write_run(
    root: Path | str,
    train_rows: Sequence[int] = (7, 13, 5, 11),
    test_rows: Sequence[int] = (9, 4, 0, 6),
    *,
    negatives: Mapping[str, Any] | None = None,
    storage: str = "inline",
    **train: Any,
) -> Settings:
    """Writes a run's train and test samples, with these rows a file, its items and its vectors.

    Returns: its settings, as of `make_settings`.
    """
    settings = make_settings(root, negatives=negatives, storage=storage, **train)
    paths = RunPaths(settings.run_folder)
    for part, counts, seed in (("train", train_rows, 100), ("test", test_rows, 200)):
        write_dataset(paths.part(part), settings, draw_files(settings, counts, seed), kind=part)
    write_items(settings)
    write_vectors(settings)
    write_tokens(settings)
    return settings


def write_tokens(settings: Settings) -> None:
    """Writes the tokens of each vocabulary, in the order of their ids."""
    folder = Path(RunPaths(settings.run_folder).part("vocabularies"))
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in SIZES.items():
        ids = range(FIRST_TOKEN_ID, size)
        table = {"token": [f"{name}{number}" for number in ids], "events": [1] * len(ids), "id": list(ids)}
        pq.write_table(pa.table(table), folder / f"{name}.parquet")


def write_items(settings: Settings, build: str = "tiny") -> Rows:
    """Writes the catalogue's rows in some order over three files, one of them empty. Returns: `make_catalogue`."""
    catalogue = make_catalogue(settings)
    order = np.random.default_rng(4).permutation(ITEMS)
    parts = (order[:6], order[:0], order[6:])
    files = [{name: values[part] for name, values in catalogue.items()} for part in parts]
    folder = RunPaths(settings.run_folder).part("items")
    write_dataset(folder, settings, files, "items", item_columns_of(settings), build)
    return catalogue


def write_vectors(settings: Settings, vectors: np.ndarray = VECTORS) -> None:
    """Writes the table of pretrained vectors that codes are row numbers of."""
    path = Path(vectors_path(RunPaths(settings.run_folder).samples, "post"))
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"id": [f"item{number:02d}" for number in range(len(vectors))], "values": vectors.tolist()}
    schema = pa.schema([("id", pa.string()), ("values", pa.list_(pa.float32()))])
    pq.write_table(pa.table(table, schema=schema), path)
