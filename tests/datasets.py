"""Small encoded runs written without Spark: what build_samples leaves behind, with row counts to choose."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dssm.config import Settings
from dssm.features import FIRST_TOKEN_ID, PADDING_ID
from dssm.manifest import (
    ITEM_KEY,
    ITEM_PROBABILITY,
    LABEL,
    USER_KEY,
    WEIGHT,
    ColumnSpec,
    FileSpec,
    Manifest,
    VocabularySpec,
    encoded_columns,
    write_manifest,
)
from dssm.packing import pack
from dssm.paths import RunPaths

SIZES = {"user_id": 12, "item_id": 20, "topic_id": 7}
WIDTHS = {"post": 4}
VOCABULARIES = {name: VocabularySpec(size=size, digest=name) for name, size in SIZES.items()}

FEATURES: dict[str, dict[str, Any]] = {
    "user_id": {"kind": "SparseFeat", "side": "user", "dim": 4},
    "age": {"kind": "DenseFeat", "side": "user"},
    "clicked": {"kind": "VarLenSparseFeat", "side": "user", "dim": 4, "maxlen": 5, "share_embedding": "item_id"},
    "liked": {
        "kind": "VarLenSparseFeat", "side": "user", "dim": 3, "maxlen": 4,
        "share_embedding": "topic_id", "weighted": True, "combiner": "sqrtn",
    },
    "item_id": {"kind": "SparseFeat", "side": "item", "dim": 4},
    "topic_id": {"kind": "SparseFeat", "side": "item", "dim": 3},
    "image": {"kind": "DenseFeat", "side": "item", "pre_embed": "post"},
}  # fmt: skip

Rows = dict[str, np.ndarray]


def make_settings(root: Path | str, **train: Any) -> Settings:
    """Returns settings of a tiny model over FEATURES; `train` goes over the section of that name."""
    chosen = {"launch": "single", "batch_size": 4, "epochs": 1, "threads": 1, **train}
    return Settings.model_validate(
        {
            "name": "tiny",
            "date": dt.date(2024, 1, 8),
            "root": str(root),
            "sources": {"clicks": {"path": "clicks.csv", "user": "user", "item": "item", "time": "time"}},
            "catalogue": {"path": "items.csv", "key": "item"},
            "vectors": {"post": {"path": "vectors.json", "width": WIDTHS["post"]}},
            "features": FEATURES,
            "samples": {"train_rows": "all"},
            "model": {
                "user_tower": {"layers": [8], "activation": "tanh"},
                "item_tower": {"layers": [6], "activation": "tanh"},
                "vector_dim": 5,
            },
            "train": chosen,
        }
    )


def columns_of(settings: Settings) -> dict[str, ColumnSpec]:
    """Returns the encoded columns of a sample: those of the features, and those beside them."""
    widths = {name: table.width for name, table in settings.vectors.items()}
    columns = {USER_KEY: ColumnSpec(dtype="int64"), ITEM_KEY: ColumnSpec(dtype="int64")}
    columns |= {name: ColumnSpec(dtype="float32") for name in (LABEL, WEIGHT, ITEM_PROBABILITY)}
    for feature in settings.features.values():
        columns |= encoded_columns(feature, widths)
    return columns


def make_rows(settings: Settings, count: int, seed: int = 0, first_key: int = 1) -> Rows:
    """Draws rows. Each row has its own user key, `first_key` and on; its item key follows from its item."""
    random = np.random.default_rng(seed)
    rows: Rows = {}
    for name, spec in columns_of(settings).items():
        shape = (count, *spec.shape)
        if spec.dtype == "float32":
            rows[name] = random.normal(size=shape).astype(np.float32)
        elif name in settings.features:
            rows[name] = random.integers(1, SIZES[settings.features[name].vocabulary], shape).astype(np.int32)
    for name in ("clicked", "liked"):  # lists of 0 to all entries, padded at their end
        width = rows[name].shape[1]
        rows[name][np.arange(width) >= random.integers(0, width + 1, (count, 1))] = PADDING_ID
    rows["liked__weight"] = np.where(rows["liked"] != PADDING_ID, random.uniform(0.1, 1, rows["liked"].shape), 0)
    rows["liked__weight"] = rows["liked__weight"].astype(np.float32)
    rows[USER_KEY] = np.arange(first_key, first_key + count, dtype=np.int64)
    rows[ITEM_KEY] = rows["item_id"].astype(np.int64) * 1_000_003
    rows[LABEL] = (random.random(count) < 0.6).astype(np.float32)
    rows[WEIGHT] = random.uniform(0.5, 2, count).astype(np.float32)
    rows[ITEM_PROBABILITY] = ((rows["item_id"] + FIRST_TOKEN_ID) / 500).astype(np.float32)
    return rows


def write_dataset(folder: str, settings: Settings, files: Sequence[Rows], kind: str) -> Manifest:
    """Writes one file of one row group for each part, and the manifest."""
    columns = columns_of(settings)
    Path(folder).mkdir(parents=True)
    specs = []
    for number, rows in enumerate(files):
        name, count = f"part-{number:05d}.parquet", len(rows[WEIGHT])
        stored = {c: pack(rows[c]) if spec.encoding == "packed" else pa.array(rows[c]) for c, spec in columns.items()}
        pq.write_table(pa.table(stored), f"{folder}/{name}", row_group_size=max(count, 1))
        specs.append(FileSpec(name=name, rows=count))
    manifest = Manifest(
        kind=kind, date=settings.date.isoformat(), build="tiny", seed=settings.seed,
        columns=columns, vocabularies=VOCABULARIES, files=specs,
    )  # fmt: skip
    write_manifest(folder, manifest)
    return manifest


def draw_files(settings: Settings, counts: Sequence[int], seed: int) -> list[Rows]:
    """Draws a file of rows for each count; user keys number the rows of all files from 1."""
    firsts = np.cumsum([1, *counts])
    return [
        make_rows(settings, count, seed=seed + number, first_key=int(first))
        for number, (count, first) in enumerate(zip(counts, firsts, strict=False))
    ]


def write_run(
    root: Path | str, train_rows: Sequence[int] = (7, 13, 5, 11), test_rows: Sequence[int] = (9, 4, 0, 6), **train: Any
) -> Settings:
    """Writes the train and test datasets of a run, with these rows a file, and returns its settings."""
    settings = make_settings(root, **train)
    paths = RunPaths(settings.run_folder)
    for part, counts, seed in (("train", train_rows, 100), ("test", test_rows, 200)):
        write_dataset(paths.part(part), settings, draw_files(settings, counts, seed), kind=part)
    return settings
