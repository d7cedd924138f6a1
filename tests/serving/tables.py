"""Published tables, written without Spark: what score_items and score_users leave behind."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dssm import published, storage
from dssm.manifest import MANIFEST
from dssm.model.manifest import ModelManifest
from dssm.paths import RunPaths
from dssm.published import Published, PublishedFile, PublishedManifest, Side


def unit_rows(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Draws vectors of norm 1, (rows, dim) float32."""
    drawn = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def write_published(
    location: str, date: str, version: str, side: Side, ids: Sequence[str], vectors: np.ndarray,
    model_version: str = "m1", objectives: Mapping[str, np.ndarray] | None = None, files: int = 2,
) -> Published:  # fmt: skip
    """Writes a version of a table as float32, and makes it the current one of its date."""
    folder = published.version_folder(location, date, version)
    Path(folder, "data").mkdir(parents=True)
    specs = []
    for number, part in enumerate(np.array_split(np.arange(len(ids)), files)):
        columns = {f"{side}_id": pa.array([ids[place] for place in part], pa.string()), "vector": _lists(vectors[part])}
        columns |= {f"vector_{name}": _lists(own[part]) for name, own in (objectives or {}).items()}
        path = Path(folder, "data", f"part-{number:05d}.parquet")
        pq.write_table(pa.table(columns), path)
        specs.append(PublishedFile(name=path.name, rows=len(part), size=path.stat().st_size))
    now = dt.datetime.now(dt.UTC)
    manifest = PublishedManifest(
        table=f"tiny_{side}s", side=side, version=version, date=date, at=now, model_version=model_version,
        samples_build="tiny", settings_digest="", samples_digest="", model_digest="", samples_rows=len(ids),
        rows=len(ids), distinct=len(ids), vector_dim=vectors.shape[1], scored=len(ids), files=specs,
        objectives={name: own.shape[1] for name, own in (objectives or {}).items()},
    )  # fmt: skip
    storage.write_text(f"{folder}/{MANIFEST}", manifest.model_dump_json())
    published.write_pointer(location, date, version, now)
    return Published(folder, manifest)


def _lists(matrix: np.ndarray) -> pa.Array:
    offsets = pa.array(np.arange(len(matrix) + 1, dtype=np.int32) * np.int32(matrix.shape[1]))
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(matrix).ravel()))


def model_manifest(date: str, dim: int, version: str = "m1") -> ModelManifest:
    return ModelManifest(
        model_version=version, date=date, samples_build="tiny", vocabularies={}, user_columns={}, item_columns={},
        vector_dim=dim, ranks=1, epochs=1, steps=1, rows_per_epoch=1, rows_per_s=1.0, loss=[1.0], auc=[None],
    )  # fmt: skip


def write_model_manifest(paths: RunPaths, date: str, dim: int, version: str = "m1") -> ModelManifest:
    """Writes what train says of a model, without towers."""
    manifest = model_manifest(date, dim, version)
    storage.write_text(f"{paths.model}/{MANIFEST}", manifest.model_dump_json())
    return manifest
