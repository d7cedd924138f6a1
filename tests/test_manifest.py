from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dssm.errors import UserError
from dssm.features import AnyFeature, DenseFeat, SparseFeat, VarLenSparseFeat
from dssm.manifest import (
    ColumnSpec,
    FileSpec,
    Manifest,
    SourceCounts,
    VocabularySpec,
    check_columns,
    data_files,
    encoded_columns,
    read_manifest,
    write_manifest,
)

MANIFEST = Manifest(
    kind="train",
    date="2024-01-15",
    build="0123456789abcdef",
    seed=7,
    columns={"post_id": ColumnSpec(dtype="int32"), "v": ColumnSpec(dtype="float32", shape=(64,), encoding="packed")},
    vocabularies={"post_id": VocabularySpec(size=12, digest="ab")},
    files=[FileSpec(name="part-00000.parquet", rows=5), FileSpec(name="part-00001.parquet", rows=7)],
    sources={"sources.feed": SourceCounts(place="x", rows_read=3, used={"train": 2}, filtered={"é": 1})},
)


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    folder = str(tmp_path / "train")
    write_manifest(folder, MANIFEST)
    assert read_manifest(folder, "build_samples") == MANIFEST
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["manifest.json"]


def test_rows_and_files() -> None:
    assert MANIFEST.rows == 12
    assert data_files("f", MANIFEST) == ["f/part-00000.parquet", "f/part-00001.parquet"]


def test_a_folder_without_a_manifest_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_manifest(str(tmp_path), "build_samples")
    assert str(caught.value) == (
        f"{tmp_path}/manifest.json: not found; expected a finished dataset: run build_samples for this date first"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "schema version 99, expected 1; run build_samples again"),
        ({"seed": None}, "seed: Input should be a valid integer; run build_samples again"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted; run build_samples again"),
        (
            {"columns": {"a": {"dtype": "int8"}}},
            "columns.a.dtype: Input should be 'int32', 'int64', 'float32' or 'string'; run build_samples again",
        ),
    ],
    ids=["version", "type", "key", "dtype"],
)
def test_a_manifest_that_does_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**MANIFEST.model_dump(mode="json"), **change}))
    with pytest.raises(UserError) as caught:
        read_manifest(str(tmp_path), "build_samples")
    assert str(caught.value) == f"{path}: {message}"


def test_a_manifest_of_another_schema_version_is_told_by_its_version(tmp_path: Path) -> None:
    """Another version may have other keys: those are not what is wrong with it."""
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"schema_version": 2, "parts": []}))
    with pytest.raises(UserError) as caught:
        read_manifest(str(tmp_path), "build_samples")
    assert str(caught.value) == f"{path}: schema version 2, expected 1; run build_samples again"


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff\xfe"], ids=["empty", "cut off", "a list", "not JSON"])
def test_a_manifest_that_is_no_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as caught:
        read_manifest(str(tmp_path), "train")
    assert str(caught.value).startswith(f"{path}: content: ")
    assert str(caught.value).endswith("; run train again")


PACKED_IDS = ColumnSpec(dtype="int32", shape=(5,), encoding="packed")


@pytest.mark.parametrize(
    ("feature", "columns"),
    [
        (SparseFeat(name="f", side="item"), {"f": ColumnSpec(dtype="int32")}),
        (VarLenSparseFeat(name="f", side="user", maxlen=5), {"f": PACKED_IDS}),
        (
            VarLenSparseFeat(name="f", side="user", maxlen=5, weighted=True),
            {"f": PACKED_IDS, "f__weight": ColumnSpec(dtype="float32", shape=(5,), encoding="packed")},
        ),
        (DenseFeat(name="f", side="item"), {"f": ColumnSpec(dtype="float32")}),
        (
            DenseFeat(name="f", side="item", pre_embed="post"),
            {"f": ColumnSpec(dtype="float32", shape=(64,), encoding="packed")},
        ),
    ],
    ids=["SparseFeat", "VarLenSparseFeat", "weighted", "DenseFeat", "pre_embed"],
)
def test_columns_of_a_feature(feature: AnyFeature, columns: dict[str, ColumnSpec]) -> None:
    assert encoded_columns(feature, {"post": 64}) == columns


def test_numbers_are_little_endian() -> None:
    assert ColumnSpec(dtype="float32").numpy_dtype == np.dtype("<f4")
    assert ColumnSpec(dtype="int64").numpy_dtype == np.dtype("<i8")


def test_columns_that_the_settings_do_not_expect() -> None:
    check_columns(MANIFEST, {"post_id": ColumnSpec(dtype="int32")}, "runs/x/train")
    with pytest.raises(UserError) as caught:
        check_columns(MANIFEST, encoded_columns(DenseFeat(name="v", side="item", pre_embed="p"), {"p": 32}), "runs/x")
    assert str(caught.value) == (
        "runs/x: column 'v': found float32[64] packed, the settings expect float32[32] packed; "
        "run build_samples again with these settings"
    )
    with pytest.raises(UserError, match=r"column 'topic': found none, the settings expect int32\[\] scalar"):
        check_columns(MANIFEST, {"topic": ColumnSpec(dtype="int32")}, "runs/x")
