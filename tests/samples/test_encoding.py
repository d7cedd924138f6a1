"""Ids and lists of ids as encoded columns, and features of every kind side by side."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.features import AnyFeature, DenseFeat, SparseFeat, VarLenSparseFeat
from dssm.manifest import encoded_columns
from dssm.packing import unpack
from dssm.samples.encoding import encode_features
from dssm.samples.hashing import bucket_ids
from dssm.samples.lookup_tables import Tables, Vectors
from dssm.sections import VectorTable
from tests.samples.encoded import (
    LIST,
    SPARSE,
    SPECS,
    STATISTICS,
    STRINGS,
    TEXT,
    TWO_COLUMNS,
    WEIGHTED,
    cut,
    encode,
    entries_of,
    id_of,
    lists,
    padded,
    tokens,
)

WIDE = VectorTable(path="-", width=768)


@given(values=st.lists(st.one_of(st.none(), tokens), max_size=8), cut=cut)
def test_one_id(values: list[str | None], cut: tuple[int, int]) -> None:
    column = pa.array(values, pa.string()).slice(*cut)
    assert encode(SPARSE, column)["f"].tolist() == [id_of(value) for value in column.to_pylist()]


def test_ids_are_compared_as_they_are() -> None:
    assert encode(SPARSE, pa.array(["007", "7", "a ", None]))["f"].tolist() == [4, 1, 1, 1]


def test_integers_are_ids_too() -> None:
    tables = Tables(vocabularies={"f": pa.array(["7", "12"])})
    assert encode_features({"f": pa.array([12, None, 7, 8])}, [SPARSE], tables)["f"].to_pylist() == [3, 1, 2, 1]


@given(values=st.lists(st.one_of(st.none(), st.text()), max_size=8), cut=cut)
def test_a_hashed_id(values: list[str | None], cut: tuple[int, int]) -> None:
    column = pa.array(values, pa.string()).slice(*cut)
    feature = SparseFeat(name="hashed", side="item", hash_buckets=11)
    assert encode(feature, column)["hashed"].tolist() == bucket_ids(column, 11).tolist()


def test_a_list_shares_its_owners_buckets() -> None:
    feature = VarLenSparseFeat(name="f", side="user", share_embedding="hashed", maxlen=3)
    expected = bucket_ids(pa.array(["572", "92", "572"]), 11).tolist()
    assert encode(feature, pa.array(["572, 92,,572,62", None]))["f"].tolist() == [expected, [0, 0, 0]]


numbers_and_nulls = st.lists(st.one_of(st.none(), st.floats(-4, 4), st.sampled_from([0.5, 2.0, 2.5])), max_size=8)


@given(values=numbers_and_nulls, boundaries=st.lists(st.sampled_from([-1.0, 0.5, 2.0]), min_size=1, unique=True))
def test_a_number_in_buckets(values: list[float | None], boundaries: list[float]) -> None:
    feature = SparseFeat(name="f", side="item", boundaries=tuple(sorted(boundaries)))
    expected = [1 if value is None else 2 + sum(b <= value for b in boundaries) for value in values]
    assert encode(feature, pa.array(values, pa.float64()))["f"].tolist() == expected
    texts = pa.array([None if value is None else f" {value!r}" for value in values], pa.string())
    assert encode(feature, texts)["f"].tolist() == expected


def test_a_number_between_quantiles() -> None:
    feature = SparseFeat(name="f", side="item", quantiles=4)
    column = pa.array([0, 1, 2, 3, None])
    assert encode(feature, column)["f"].tolist() == [2, 3, 4, 5, 1]
    nothing_seen = Tables(statistics={"f": STATISTICS.model_copy(update={"boundaries": ()})})
    assert encode_features({"f": column}, [feature], nothing_seen)["f"].to_pylist() == [2, 2, 2, 2, 1]


@given(values=st.lists(st.one_of(st.none(), lists), max_size=8), cut=cut, as_text=st.booleans())
def test_a_list_of_ids(values: list[list[str] | None], cut: tuple[int, int], as_text: bool) -> None:
    if as_text:
        column = pa.array([v if v is None else ",".join(v) for v in values], pa.string()).slice(*cut)
    else:
        column = pa.array(values, STRINGS).slice(*cut)
    expected = [padded([id_of(t) for t in entries_of(v)], 3) for v in column.to_pylist()]
    assert encode(LIST, column)["f"].tolist() == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([["a", None, "", "b:c"], None, []], pa.list_(pa.string())), [[3, 2, 0], [0, 0, 0], [0, 0, 0]]),
        (pa.array([["a"]], pa.large_list(pa.string())), [[3, 0, 0]]),
        (pa.array([[7, 8]], pa.list_(pa.int64())), [[1, 1, 0]]),
        (pa.array(["a,a,é日,007"]), [[3, 3, 5]]),
        (pa.array([7, None]), [[1, 0, 0], [0, 0, 0]]),
        (pa.nulls(2, pa.string()), [[0, 0, 0], [0, 0, 0]]),
        (pa.nulls(2, pa.list_(pa.string())), [[0, 0, 0], [0, 0, 0]]),
    ],
    ids=[
        "nulls in a list",
        "large list",
        "numbers in a list",
        "longer than maxlen",
        "one number",
        "null",
        "null lists",
    ],
)
def test_lists_of_every_kind(column: pa.Array, expected: list[list[int]]) -> None:
    assert encode(LIST, column)["f"].tolist() == expected


def test_another_separator() -> None:
    feature = VarLenSparseFeat(name="f", side="user", maxlen=2, separator="|")
    assert encode(feature, pa.array(["a|b:c", "a,b:c"]))["f"].tolist() == [[3, 2], [1, 0]]


@pytest.mark.parametrize(
    "feature",
    [
        SPARSE,
        SparseFeat(name="hashed", side="user", hash_buckets=11),
        SparseFeat(name="f", side="user", boundaries=(1.0,)),
        LIST,
        WEIGHTED,
        TWO_COLUMNS,
        VarLenSparseFeat(name="f", side="user", weighted=True, keep="heaviest"),
        TEXT,
        DenseFeat(name="f", side="user"),
        DenseFeat(name="f", side="user", transform="standard"),
        DenseFeat(name="f", side="user", pre_embed="pre"),
        DenseFeat(name="f", side="user", pre_embed="pre", reduce_type="mean"),
        DenseFeat(name="f", side="user", pre_embed="table"),
        DenseFeat(name="f", side="user", pre_embed="table", reduce_type="mean", maxlen=2),
    ],
    ids=lambda feature: " ".join(f"{key}={value}" for key, value in feature.model_dump(exclude_defaults=True).items()),
)
@pytest.mark.parametrize("rows", [0, 2])
def test_batches_without_rows_or_without_values(feature: AnyFeature, rows: int) -> None:
    nothing = pa.nulls(rows, pa.string())
    specs = encoded_columns(feature, SPECS)
    for name, values in encode(feature, nothing, w=nothing).items():
        assert values.shape == (rows, *specs[name].shape)
        assert set(values.reshape(-1).tolist()) <= ({1} if isinstance(feature, SparseFeat) else {0})


def test_features_read_their_columns_and_share_vocabularies() -> None:
    features = [
        SparseFeat(name="topic", side="item"),
        VarLenSparseFeat(name="followed", side="user", column="topics", share_embedding="topic", maxlen=2),
    ]
    columns = {"topic": pa.array(["y"]), "topics": pa.array(["x,y"]), "other": pa.array([1])}
    encoded = encode_features(columns, features, Tables({"topic": pa.array(["x", "y"])}))
    assert encoded["topic"].to_pylist() == [3]
    assert np.frombuffer(encoded["followed"][0].as_py(), "<i4").tolist() == [2, 3]


def test_the_rows_of_a_post_feed() -> None:
    topics = ["502", "572", "92", "1", "278"]
    posts = Vectors(pa.array(["p1", "p2", "p3"]), np.arange(3 * 768, dtype=np.float32).reshape(3, 768))
    features = [
        SparseFeat(name="client_id", side="user"),
        SparseFeat(name="client_type", side="user"),
        VarLenSparseFeat(name="follow_topic_id", side="user", share_embedding="topic_id", maxlen=4),
        VarLenSparseFeat(name="all_topic_fav_7", side="user", share_embedding="topic_id", maxlen=5, weighted=True),
        DenseFeat(name="client_embed", side="user", column="read_post_id", pre_embed="posts", reduce_type="mean"),
        SparseFeat(name="post_id", side="item"),
        SparseFeat(name="topic_id", side="item"),
        DenseFeat(name="item_embed", side="item", column="post_id", pre_embed="posts"),
    ]
    columns: Mapping[str, pa.Array] = {
        "client_id": pa.array(["c1", "c9"]),
        "client_type": pa.array(["ios", None]),
        "follow_topic_id": pa.array(["572,92,62", None]),
        "all_topic_fav_7": pa.array(["502:0.3443,278:0.0868,177:0.0719,1:0.497", ""]),
        "read_post_id": pa.array(["p3,p7,p1", "p7"]),
        "post_id": pa.array(["p2", "p7"]),
        "topic_id": pa.array(["92", "178"]),
    }
    vocabularies = {"client_id": ["c1"], "client_type": ["android", "ios"], "post_id": ["p1", "p2"], "topic_id": topics}
    tables = Tables({name: pa.array(tokens) for name, tokens in vocabularies.items()}, vectors={"posts": posts})
    encoded = encode_features(columns, features, tables)
    specs = {name: spec for f in features for name, spec in encoded_columns(f, {"posts": WIDE}).items()}
    found = {name: unpack(encoded[name], spec) for name, spec in specs.items()}
    ids = ("client_id", "client_type", "post_id", "topic_id")
    assert {name: found[name].tolist() for name in ids} == {
        "client_id": [2, 1],
        "client_type": [3, 1],
        "post_id": [3, 1],
        "topic_id": [4, 1],
    }
    assert found["follow_topic_id"].tolist() == [[3, 4, 1, 0], [0, 0, 0, 0]]
    assert found["all_topic_fav_7"].tolist() == [[2, 6, 1, 5, 0], [0, 0, 0, 0, 0]]
    weights = np.array([[0.3443, 0.0868, 0.0719, 0.497, 0], [0, 0, 0, 0, 0]], np.float32)
    np.testing.assert_array_equal(found["all_topic_fav_7__weight"], weights)
    nothing = np.zeros(768, np.float32)
    np.testing.assert_array_equal(found["item_embed"], [posts.matrix[1], nothing])
    np.testing.assert_array_equal(found["client_embed"], [(posts.matrix[0] + posts.matrix[2]) / 2, nothing])
