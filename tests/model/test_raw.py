"""The raw encoder against the samples' own, column by column."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.features import AnyFeature, DenseFeat, SparseFeat, TextFeat, VarLenSparseFeat
from dssm.model.raw.encoder import RawEncoder
from dssm.model.raw.hashing import bucket_ids, hashes
from dssm.model.raw.inputs import entry_separator
from dssm.model.raw.lookup import TokenTable
from dssm.model.raw.strings import lower_case, parsed, trimmed, white_space
from dssm.samples import hashing
from tests.model.raw_rows import (
    COMMAS,
    HISTORIES,
    MAXLEN,
    SPECS,
    STRINGS,
    TABLES,
    assert_same,
    check,
    compiled,
    encode,
    fast,
    keeps,
    numbers,
    reduces,
    reference,
    some_lists,
    spaced,
    tables,
    texts,
    tokens,
    weights,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _no_function_outlives_tensorflow() -> Iterator[None]:
    yield
    compiled.cache_clear()


# Ids --------------------------------------------------------------------------------------------------------


@fast
@given(values=st.lists(st.one_of(st.none(), tokens), max_size=8))
@pytest.mark.parametrize("vocabulary", ["f", "hashed", "none"])
def test_one_id(vocabulary: str, values: list[str | None]) -> None:
    buckets = TABLES.buckets.get(vocabulary)
    check(SparseFeat(name=vocabulary, side="user", hash_buckets=buckets), values, pa.string())


def test_ids_are_compared_as_they_are() -> None:
    rows = [{"f": token} for token in ("007", "7", "a ", "", None, 0)]
    assert encode(SparseFeat(name="f", side="user"), rows)["f"].tolist() == [4, 1, 1, 1, 1, 7]


@fast
@given(values=st.lists(texts, max_size=30), buckets=st.integers(1, 2**31 - 3))
def test_hashed_ids_are_those_of_the_samples(values: list[str], buckets: int) -> None:
    found = bucket_ids(tf.constant(values, tf.string, shape=[len(values)]), buckets)
    assert found.numpy().tolist() == hashing.bucket_ids(pa.array(values, pa.string()), buckets).tolist()


def test_hashes_have_all_64_bits() -> None:
    values = [f"{'é' * (place % 19)}{place}" for place in range(5000)]
    expected = hashing.hash_array(np.array(values, object), hash_key=hashing.HASH_KEY, categorize=False)
    found = hashes(tf.constant(values)).numpy()
    np.testing.assert_array_equal(found, expected)
    assert len(set((found >> np.uint64(62)).tolist())) == 4


@given(known=st.lists(st.text(st.sampled_from("a\\\n\r\tné \0"), min_size=1, max_size=4), unique=True), data=st.data())
@settings(deadline=None, max_examples=30)
def test_any_token_can_stand_in_a_file(known: list[str], data: st.DataObject) -> None:
    asked = data.draw(
        st.lists(st.one_of(st.text(st.sampled_from("a\\\n\rn"), max_size=3), st.sampled_from([*known, ""])))
    )
    with tempfile.TemporaryDirectory() as folder:
        table = TokenTable(pa.array(known, pa.string()), f"{folder}/tokens.txt")
        found = table.places(tf.constant(asked, tf.string, shape=[len(asked)]))
    assert found.numpy().tolist() == [known.index(token) if token in known else -1 for token in asked]


# Texts ------------------------------------------------------------------------------------------------------


def test_white_space_is_arrows() -> None:
    every = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    ends = trimmed(tf.constant([f"{letter}a{letter}b{letter}" for letter in every])).numpy()
    spaces = {letter for letter, text in zip(every, ends, strict=True) if text == f"a{letter}b".encode()}
    assert spaces == {chr(point) for point in white_space().tolist()}
    assert {" ", "\t", "\n", "\x1c", "\x85", "\u3000"} < spaces
    assert "\u200b" not in spaces


def test_lower_case_is_letter_by_letter() -> None:
    upper, lower = (dict.fromkeys(points.tolist()) for points in lower_case())
    assert len(upper) > 1000
    assert {ord("A"), ord("Σ"), ord("İ")} < set(upper)
    assert ord("ß") not in upper
    assert ord("ς") not in lower


def test_numbers_in_texts() -> None:
    given_texts = [" 1.5\u2003", "+2", ".5e1", "-3.", "", "1d", "0x1", "nan", "inf", "1 2", "1e999"]
    expected = [1.5, 2, 5, -3, *[np.nan] * 6, np.inf]
    np.testing.assert_array_equal(parsed(tf.constant(given_texts)).numpy(), expected)


@fast
@given(
    values=st.lists(st.one_of(st.none(), texts, st.text("aAbΣİ# \u3000ß", max_size=30)), max_size=6),
    keep=st.sampled_from(["first", "last", "heaviest"]),
)  # fmt: skip
def test_trigrams(values: list[str | None], keep: Any) -> None:
    check(TextFeat(name="text", side="item", maxlen=MAXLEN, keep=keep, hash_buckets=50), values, pa.string())


# Lists ------------------------------------------------------------------------------------------------------


@fast
@given(values=some_lists, keep=keeps, vocabulary=st.sampled_from(["f", "hashed"]), as_text=st.booleans())
def test_a_list_of_ids(values: list[list[str] | None], keep: Any, vocabulary: str, as_text: bool) -> None:
    feature = VarLenSparseFeat(
        name="l", side="user", maxlen=MAXLEN, keep=keep, share_embedding=vocabulary, separator="|"
    )
    values = [row and [token.replace("|", "") for token in row] for row in values]
    if as_text:
        check(feature, [None if row is None else "|".join(row) for row in values], pa.string())
    else:
        check(feature, values, STRINGS)


def test_text_and_lists_can_be_mixed() -> None:
    feature = VarLenSparseFeat(name="l", side="user", maxlen=4, share_embedding="f")
    rows = [{"l": "a, 007,,a"}, {"l": ["a", "007,a"]}, {"l": ["a", "", "007", None, "a"]}, {"l": []}, {}, {"l": [7, 0]}]
    assert encode(feature, rows)["l"].tolist() == [[3, 4, 3, 0]] * 3 + [[0] * 4] * 2 + [[1, 7, 0, 0]]


def test_ids_that_hold_the_separator_are_not_parted() -> None:
    feature = VarLenSparseFeat(name="l", side="user", maxlen=2, share_embedding="comma")
    assert entry_separator(feature, {}, TABLES) is None
    check(feature, [["a,b", "x,y"], ["d, e"], None], STRINGS)


ids_with_commas = st.lists(st.sampled_from([*COMMAS, "a, 007", "a", "é日,b", " 0,", ","]), max_size=5)


@fast
@given(rows=st.lists(st.one_of(st.none(), ids_with_commas), max_size=5))
@pytest.mark.parametrize("vocabulary", ["f", "hashed", "comma"])
def test_the_ids_of_an_array_are_never_parted(vocabulary: str, rows: list[list[str] | None]) -> None:
    ids = VarLenSparseFeat(name="arrays", side="user", maxlen=MAXLEN, share_embedding=vocabulary)
    check(ids, rows, STRINGS)
    weighted = ids.model_copy(update={"weighted": True})
    check(weighted, [row and [f"{token}:2" for token in row] for row in rows], STRINGS)


def test_the_vectors_of_an_arrays_ids() -> None:
    feature = DenseFeat(name="arrays", side="user", pre_embed="pre", reduce_type="sum")
    check(feature, [["7,b", "b"], ["7", "b"], ["7,b"]], STRINGS)
    assert encode(feature, [{"arrays": ["7,b"]}])["arrays"].tolist() == [[0, 0, 0]]


def test_a_text_is_parted_whatever_its_vocabulary_holds() -> None:
    feature = VarLenSparseFeat(name="texts", side="user", maxlen=3, share_embedding="comma")
    check(feature, ["a,b", "c,d, e", None], pa.string())
    assert encode(feature, [{"texts": ["c,x"]}])["texts"].tolist() == [[3, 1, 0]]


@pytest.mark.parametrize(("of", "separator"), [("arrays", None), ("texts", ","), ("topic", ",")])
def test_the_ids_of_a_historys_items_are_those_of_their_feature(of: str, separator: str | None) -> None:
    feature = VarLenSparseFeat(name="h", side="user", column="clicks", of=of, share_embedding="f")
    assert entry_separator(feature, HISTORIES, TABLES) == separator
    known_with_commas = feature.model_copy(update={"share_embedding": "comma"})
    assert entry_separator(known_with_commas, HISTORIES, TABLES) is None


@st.composite
def weighted_rows(draw: st.DrawFn) -> list[list[tuple[str, float]] | None]:
    pairs = st.tuples(spaced.map(lambda token: token.replace(",", "")), weights)
    return draw(st.lists(st.one_of(st.none(), st.lists(pairs, max_size=7)), max_size=5))


@fast
@given(rows=weighted_rows(), keep=st.sampled_from(["first", "last", "heaviest"]), as_text=st.booleans())
def test_weighted_entries(rows: list[list[tuple[str, float]] | None], keep: Any, as_text: bool) -> None:
    feature = VarLenSparseFeat(name="l", side="user", maxlen=MAXLEN, keep=keep, share_embedding="f", weighted=True)
    entries = [None if row is None else [f"{token}: {weight!r} " for token, weight in row] for row in rows]
    if as_text:
        check(feature, [None if row is None else ",".join(row) for row in entries], pa.string())
    else:
        check(feature, entries, STRINGS)


def test_entries_without_a_number_as_weight_are_left_out() -> None:
    feature = VarLenSparseFeat(name="l", side="user", maxlen=3, share_embedding="f", weighted=True)
    found = encode(feature, [{"l": "a,a:,a:x,:2,a:nan,a:1e99,b:c:0.5"}])
    assert found["l"].tolist() == [[2, 0, 0]]
    assert found["l__weight"].tolist() == [[0.5, 0, 0]]


@fast
@given(rows=weighted_rows(), more=st.integers(-2, 2), keep=st.sampled_from(["first", "heaviest"]))
def test_weights_apart(rows: list[list[tuple[str, float]] | None], more: int, keep: Any) -> None:
    feature = VarLenSparseFeat(
        name="l", side="user", maxlen=MAXLEN, keep=keep, share_embedding="f", weighted=True, weight_column="w"
    )  # fmt: skip
    ids = [None if row is None else [token for token, _ in row] for row in rows]
    apart = [
        None if row is None else ([weight for _, weight in row] + [1.0] * more)[: max(len(row) + more, 0)]
        for row in rows
    ]
    found = encode(feature, [{"l": i, "l__weight": w} for i, w in zip(ids, apart, strict=True)])
    assert_same(found, reference(feature, l=pa.array(ids, STRINGS), w=pa.array(apart, pa.list_(pa.float64()))))


# Numbers ----------------------------------------------------------------------------------------------------


@fast
@given(values=numbers, null=st.sampled_from([None, -9.0]), name=st.sampled_from(["f", "equal"]), data=st.data())
def test_a_number(values: list[float | None], null: float | None, name: str, data: st.DataObject) -> None:
    transform: Any = data.draw(st.sampled_from(["raw", "log1p", "minmax", "standard"]))
    check(DenseFeat(name=name, side="user", transform=transform, null=null), values, pa.float64())


def test_what_is_not_finite_is_null() -> None:
    rows = [{"f": value} for value in (np.inf, -np.inf, np.nan, None)]
    assert encode(DenseFeat(name="f", side="user", null=3), rows)["f"].tolist() == [3] * 4
    assert encode(SparseFeat(name="f", side="user", quantiles=4), rows)["f"].tolist() == [1] * 4


@fast
@given(
    values=numbers, boundaries=st.sampled_from([(2.0,), (-1.0, 0.5, 2.0), None]), name=st.sampled_from(["f", "equal"])
)
def test_a_number_in_buckets(values: list[float | None], boundaries: tuple[float, ...] | None, name: str) -> None:
    quantiles = None if boundaries else 4
    check(SparseFeat(name=name, side="user", boundaries=boundaries, quantiles=quantiles), values, pa.float64())


def test_a_number_near_a_boundary_is_no_float32() -> None:
    feature = SparseFeat(name="f", side="user", boundaries=(0.1,))
    check(feature, [0.1, np.nextafter(0.1, 0), float(np.float32(0.1))], pa.float64())


@pytest.mark.parametrize(("unit", "values"), [("hour", 24), ("weekday", 7)])
def test_the_time(unit: Any, values: int) -> None:
    found = encode(SparseFeat(name="f", side="user", time=unit), [{"f": value} for value in range(-1, values + 1)])
    assert found["f"].tolist() == [1, *range(2, values + 2), 1]
    assert encode(SparseFeat(name="f", side="user", time=unit), [{}])["f"].tolist() == [1]


# Pretrained vectors -----------------------------------------------------------------------------------------


@fast
@given(values=st.lists(st.one_of(st.none(), tokens), max_size=6), name=tables)
def test_the_vector_of_an_id(values: list[str | None], name: str) -> None:
    check(DenseFeat(name="v", side="user", pre_embed=name), values, pa.string())


@fast
@given(values=some_lists, reduce=reduces, name=tables, as_text=st.booleans())
def test_the_vectors_of_a_list(values: list[list[str] | None], reduce: Any, name: str, as_text: bool) -> None:
    feature = DenseFeat(name="v", side="user", pre_embed=name, reduce_type=reduce, maxlen=MAXLEN)
    values = [row and [token.replace(",", "") for token in row] for row in values]
    if as_text:
        check(feature, [None if row is None else ",".join(row) for row in values], pa.string())
    else:
        check(feature, values, STRINGS)


def test_all_vectors_of_a_list_without_maxlen() -> None:
    feature = DenseFeat(name="v", side="user", pre_embed="pre", reduce_type="mean")
    check(feature, [["b", "no", "7", "b"] * 20, ["no"], [], None], STRINGS)


# What is asked for ------------------------------------------------------------------------------------------


def test_inputs_say_what_to_send() -> None:
    features: list[AnyFeature] = [
        SparseFeat(name="f", side="user"),
        SparseFeat(name="hour", side="user", time="hour"),
        VarLenSparseFeat(name="l", side="user", share_embedding="f", weighted=True, weight_column="w"),
        VarLenSparseFeat(name="h", side="user", column="clicks", share_embedding="item"),
        DenseFeat(name="age", side="user"),
        VarLenSparseFeat(name="arrays", side="user", share_embedding="f"),
        VarLenSparseFeat(name="texts", side="user", share_embedding="comma"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        inputs = RawEncoder(features, HISTORIES, SPECS, TABLES, folder).inputs
    assert {name: (given.dtype, given.is_list) for name, given in inputs.items()} == {
        "f": ("string", False), "hour": ("int64", False), "l": ("string", True), "l__weight": ("float64", True),
        "h": ("string", True), "age": ("float64", False), "arrays": ("string", True), "texts": ("string", True),
    }  # fmt: skip
    assert inputs["h"].says == 'item ids, the newest first, one a place; "" fills a row up'
    assert inputs["arrays"].says == 'ids, one a place; "" fills a row up'
    assert inputs["texts"].says == "ids, one a place or as one text with ',' between; \"\" fills a row up"
    assert all(given.says for given in inputs.values())
