"""A profile's rows as words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssm.features import DenseFeat, SparseFeat, VarLenSparseFeat
from dssm.manifest import ITEM_ID, ITEM_INDEX, Statistics, encoded_columns
from dssm.samples.lookups import Lookups
from dssm.samples.profiles import NOTHING, OlderList, ProfileEncoder, found_column

FEATURES = (
    SparseFeat(side="user", name="city"),
    DenseFeat(side="user", name="age", transform="standard"),
    VarLenSparseFeat(side="user", name="tags", maxlen=2, weighted=True, weight_column="tag_weights"),
)


@pytest.fixture
def encoder(tmp_path: Path) -> ProfileEncoder:
    vocabularies = {}
    for name, tokens in {"city": ["x", "y"], "tags": ["a", "b"]}.items():
        vocabularies[name] = str(tmp_path / f"{name}.parquet")
        pq.write_table(pa.table({"token": tokens}), vocabularies[name])
    items = pa.table({ITEM_INDEX: pa.array([1, 0], pa.int32()), ITEM_ID: ["q", "p"]})
    pq.write_table(items, tmp_path / "items.parquet")
    age = Statistics(events=9, mean=30.0, deviation=10.0, minimum=1, maximum=99)
    lookups = Lookups(vocabularies=vocabularies, statistics={"age": age})
    return ProfileEncoder(
        name="clients",
        features=FEATURES,
        columns={name: spec for feature in FEATURES for name, spec in encoded_columns(feature, {}).items()},
        lists={"old": OlderList("read", "|", 3), "older": OlderList("seen", ",", 1)},
        lookups=lookups.with_items((str(tmp_path / "items.parquet"),), {}),
        universe=(),
    )


def test_what_is_read_of_a_row(encoder: ProfileEncoder) -> None:
    assert encoder.raw_columns == ["city", "age", "tags", "tag_weights", "read", "seen"]
    assert encoder.width == len(["city", "age", *"tt", *"ww", "found", *"rrr", "s"])
    assert encoder.places == {"old": slice(7, 10), "older": slice(10, 11)}


def test_rows_become_words(encoder: ProfileEncoder) -> None:
    raw = {
        "city": pa.array(["y", None, "z"]),
        "age": pa.array(["50", "", "25"]),
        "tags": pa.array(["b,a,b", None, "c"]),
        "tag_weights": pa.array(["1,2,3", None, "0.5"]),
        "read": pa.array(["q|gone|p|q", "", None]),
        "seen": pa.array(["gone,p", "p", " "]),
    }
    words = encoder.encode(raw, 3)
    columns = encoder.words.split(words[:, : encoder.words.width])
    assert columns["city"].tolist() == [3, 1, 1]
    assert columns["age"].tolist() == [2, 0, -0.5]
    assert columns["tags"].tolist() == [[3, 2], [0, 0], [1, 0]]
    assert columns["tags__weight"].tolist() == [[1, 2], [0, 0], [0.5, 0]]
    assert columns[found_column("clients")].tolist() == [1, 1, 1]
    # Item indexes; −1 is an item that nobody knows.
    assert words[:, encoder.places["old"]].tolist() == [[1, -1, 0], [NOTHING] * 3, [NOTHING] * 3]
    assert words[:, encoder.places["older"]].tolist() == [[-1], [0], [NOTHING]]


def test_a_user_without_a_row_is_as_one_with_nulls_but_for_being_found(encoder: ProfileEncoder) -> None:
    nulls = {column: pa.nulls(1, pa.string()) for column in encoder.raw_columns}
    found = np.flatnonzero(encoder.default() != encoder.encode(nulls, 1)[0])
    assert found.tolist() == [6]
    assert encoder.words.split(encoder.default()[None, : encoder.words.width])[found_column("clients")].tolist() == [0]
