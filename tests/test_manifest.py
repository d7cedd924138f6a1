from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dssm.errors import UserError
from dssm.features import AnyFeature, DenseFeat, SparseFeat, TextFeat, VarLenSparseFeat
from dssm.manifest import (
    SCHEMA_VERSION,
    ColumnSpec,
    FileSpec,
    JoinCounts,
    Manifest,
    SourceCounts,
    Statistics,
    VocabularySpec,
    changing_item_features,
    check_columns,
    data_files,
    encoded_columns,
    negative_columns,
    negatives_column,
    read_manifest,
    target_column,
    write_manifest,
)
from dssm.sections import PopularityNegatives, UniformNegatives, VectorTable

MANIFEST = Manifest(
    kind="train",
    date="2024-01-15",
    build="0123456789abcdef",
    seed=7,
    columns={"post_id": ColumnSpec(dtype="int32"), "v": ColumnSpec(dtype="float32", shape=(64,), encoding="packed")},
    vocabularies={
        "post_id": VocabularySpec(size=12, digest="ab"),
        "hour": VocabularySpec(size=26, digest="cd", rule="time"),
    },
    statistics={"age": Statistics(events=3, mean=0.5, deviation=0.1, minimum=0, maximum=1, boundaries=(0.25, 0.75))},
    lists={"tags": "array", "fav": "text"},
    files=[FileSpec(name="part-00000.parquet", rows=5), FileSpec(name="part-00001.parquet", rows=7)],
    sources={"sources.feed": SourceCounts(place="x", rows_read=3, used={"train": 2}, filtered={"é": 1})},
    joins=[JoinCounts(name="profiles.clients", rows=12, matched=9)],
)


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    folder = str(tmp_path / "train")
    write_manifest(folder, MANIFEST)
    assert read_manifest(folder, "build_samples") == MANIFEST
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["manifest.json"]


def test_a_manifest_without_the_kinds_of_lists_is_read(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(MANIFEST.model_dump_json(exclude={"lists"}))
    assert read_manifest(str(tmp_path), "build_samples") == MANIFEST.model_copy(update={"lists": {}})


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
        ({"schema_version": 99}, f"schema version 99, expected {SCHEMA_VERSION}; run build_samples again"),
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
    path.write_text(json.dumps({"schema_version": 1, "parts": []}))
    with pytest.raises(UserError) as caught:
        read_manifest(str(tmp_path), "build_samples")
    assert str(caught.value) == f"{path}: schema version 1, expected 2; run build_samples again"


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff\xfe"], ids=["empty", "cut off", "a list", "not JSON"])
def test_a_manifest_that_is_no_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as caught:
        read_manifest(str(tmp_path), "train")
    assert str(caught.value).startswith(f"{path}: content: ")
    assert str(caught.value).endswith("; run train again")


def packed(dtype: str, width: int) -> ColumnSpec:
    return ColumnSpec(dtype=dtype, shape=(width,), encoding="packed")  # type: ignore[arg-type]


INT = ColumnSpec(dtype="int32")
VECTORS = {
    "post": VectorTable(path="x", width=64),
    "image": VectorTable(path="y", width=256, storage="table"),
}


@pytest.mark.parametrize(
    ("feature", "columns"),
    [
        (SparseFeat(name="f", side="item"), {"f": INT}),
        (SparseFeat(name="f", side="user", time="hour"), {"f": INT}),
        (SparseFeat(name="f", side="item", boundaries=(0.5, 1.5)), {"f": INT}),
        (VarLenSparseFeat(name="f", side="user", maxlen=5), {"f": packed("int32", 5)}),
        (
            VarLenSparseFeat(name="f", side="user", maxlen=5, weighted=True),
            {"f": packed("int32", 5), "f__weight": packed("float32", 5)},
        ),
        (TextFeat(name="f", side="item", maxlen=7), {"f": packed("int32", 7), "f__weight": packed("float32", 7)}),
        (DenseFeat(name="f", side="item"), {"f": ColumnSpec(dtype="float32")}),
        (DenseFeat(name="f", side="item", pre_embed="post"), {"f": packed("float32", 64)}),
        (
            DenseFeat(name="f", side="user", pre_embed="post", reduce_type="mean", maxlen=9),
            {"f": packed("float32", 64)},
        ),
        (DenseFeat(name="f", side="item", pre_embed="image"), {"f": INT}),
        (
            DenseFeat(name="f", side="user", pre_embed="image", reduce_type="sum", maxlen=9),
            {"f": packed("int32", 9)},
        ),
    ],
    ids=[
        "SparseFeat", "time", "boundaries", "VarLenSparseFeat", "weighted", "TextFeat", "DenseFeat",
        "inline", "inline list", "table", "table list",
    ],
)  # fmt: skip
def test_columns_of_a_feature(feature: AnyFeature, columns: dict[str, ColumnSpec]) -> None:
    assert encoded_columns(feature, VECTORS) == columns


FEATURES: dict[str, AnyFeature] = {
    "clicks": DenseFeat(name="clicks", side="user", column="clicks_7"),
    "ctr": DenseFeat(name="ctr", side="item", column="ctr_30"),
    "length": DenseFeat(name="length", side="item"),
    "age": DenseFeat(name="age", side="item", time="days_since_upload"),
    "image": DenseFeat(name="image", side="item", pre_embed="image"),
    "topic_id": SparseFeat(name="topic_id", side="item"),
}
COUNTERS = {"clicks_7", "ctr_30"}


def test_item_features_that_change_with_the_events_time() -> None:
    assert [f.name for f in changing_item_features(FEATURES, COUNTERS)] == ["ctr", "age"]
    assert [f.name for f in changing_item_features(FEATURES, set())] == ["age"]


def test_columns_of_sampled_negatives() -> None:
    kinds = {"any": UniformNegatives(count=3), "popular": PopularityNegatives(count=2)}
    floats = packed("float32", 5)
    assert negative_columns(kinds, FEATURES, COUNTERS) == {
        "row__negatives": packed("int32", 5),
        "row__negative_probability": floats,
        "ctr__negatives": floats,
        "age__negatives": floats,
    }
    assert negative_columns({}, FEATURES, COUNTERS) == {}


def test_names_of_columns() -> None:
    assert negatives_column("age") == "age__negatives"
    assert target_column("like") == "row__target_like"


def test_numbers_are_little_endian() -> None:
    assert ColumnSpec(dtype="float32").numpy_dtype == np.dtype("<f4")
    assert ColumnSpec(dtype="int64").numpy_dtype == np.dtype("<i8")


def test_columns_that_the_settings_do_not_expect() -> None:
    check_columns(MANIFEST, {"post_id": ColumnSpec(dtype="int32")}, "runs/x/train")
    with pytest.raises(UserError) as caught:
        check_columns(MANIFEST, {"v": packed("float32", 32)}, "runs/x")
    assert str(caught.value) == (
        "runs/x: column 'v': found float32[64] packed, the settings expect float32[32] packed; "
        "run build_samples again with these settings"
    )
    with pytest.raises(UserError, match=r"column 'topic': found none, the settings expect int32\[\] scalar"):
        check_columns(MANIFEST, {"topic": ColumnSpec(dtype="int32")}, "runs/x")
