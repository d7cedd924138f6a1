from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.features import AnyFeature, DenseFeat, SparseFeat, TextFeat, VarLenSparseFeat
from dssm.manifest import Statistics, encoded_columns
from dssm.packing import unpack
from dssm.samples import encoding
from dssm.samples.encoding import (
    Tables,
    Vectors,
    encode_event_time,
    encode_features,
    encode_numbers,
    places_in,
    token_ids,
)
from dssm.samples.hashing import bucket_ids
from dssm.sections import VectorTable

TOKENS = ["b:c", "a", "007", "é日"]
VECTORS = {"a": [1.0, 2.0], "b:c": [-3.0, 0.5], "é日": [0.25, 4.0]}
STATISTICS = Statistics(events=9, mean=2.0, deviation=4.0, minimum=-1.0, maximum=7.0, boundaries=(0.5, 2.0, 2.5))
SPECS = {
    "pre": VectorTable(path="-", width=2),
    "table": VectorTable(path="-", width=2, storage="table"),
}
WIDE = VectorTable(path="-", width=768)
VECTOR_TABLE = Vectors(pa.array(list(VECTORS)), np.array(list(VECTORS.values()), np.float32))
TABLES = Tables(
    vocabularies={"f": pa.array(TOKENS)},
    buckets={"hashed": 11, "text": 7},
    statistics={"f": STATISTICS},
    vectors={"pre": VECTOR_TABLE, "table": VECTOR_TABLE},
    storage={name: spec.storage for name, spec in SPECS.items()},
)

SPARSE = SparseFeat(name="f", side="item")
LIST = VarLenSparseFeat(name="f", side="user", maxlen=3)
WEIGHTED = VarLenSparseFeat(name="f", side="user", maxlen=3, weighted=True)
TWO_COLUMNS = VarLenSparseFeat(name="f", side="user", maxlen=3, weighted=True, weight_column="w")
TEXT = TextFeat(name="text", side="item", maxlen=4, hash_buckets=7)


def encode(feature: AnyFeature, column: pa.Array, **others: pa.Array) -> dict[str, np.ndarray]:
    """Encodes one column and checks it against the manifest's description."""
    encoded = encode_features({feature.source_column: column, **others}, [feature], TABLES)
    specs = encoded_columns(feature, SPECS)
    assert set(encoded) == set(specs)
    for name, spec in specs.items():
        assert len(encoded[name]) == len(column)
        assert encoded[name].null_count == 0
        assert encoded[name].type == (pa.binary() if spec.encoding == "packed" else pa.type_for_alias(spec.dtype))
    return {name: unpack(encoded[name], spec) for name, spec in specs.items()}


def id_of(token: str | None) -> int:
    return TOKENS.index(token) + 2 if token in TOKENS else 1


def entries_of(value: str | Sequence[str | None] | None, separator: str = ",") -> list[str]:
    parts = value.split(separator) if isinstance(value, str) else value or []
    return [part.strip() for part in parts if part is not None and part.strip()]


def padded(values: Sequence[float], width: int) -> list[float]:
    return [*values[:width], *[0] * (width - len(values))]


tokens = st.sampled_from([*TOKENS, "unknown", "7"])
blank = st.sampled_from(["", " ", "\t"])
lists = st.lists(st.one_of(tokens, tokens.map(lambda t: f" {t}\t"), blank), max_size=6)
cut = st.tuples(st.integers(0, 8), st.integers(0, 8))
STRINGS = pa.list_(pa.string())


@given(values=st.lists(st.one_of(st.none(), tokens), max_size=8), cut=cut)
def test_one_id(values: list[str | None], cut: tuple[int, int]) -> None:
    column = pa.array(values, pa.string()).slice(*cut)
    assert encode(SPARSE, column)["f"].tolist() == [id_of(value) for value in column.to_pylist()]


def test_ids_are_compared_as_they_are() -> None:
    assert encode(SPARSE, pa.array(["007", "7", "a ", None]))["f"].tolist() == [4, 1, 1, 1]


def test_every_id_is_unknown_to_an_empty_vocabulary() -> None:
    assert token_ids(pa.array(["a", None]), pa.array([], pa.string())).tolist() == [1, 1]


@given(known=st.lists(st.text("abc", max_size=3), unique=True), data=st.data())
def test_places_are_found_in_short_and_long_tables(known: list[str], data: st.DataObject) -> None:
    asked = data.draw(st.lists(st.one_of(st.none(), st.text("abc", max_size=3), st.sampled_from(known or ["a"]))))
    found = places_in(pa.array(asked, pa.string()), pa.array(known, pa.string()))
    assert found.tolist() == [known.index(token) if token in known else -1 for token in asked]


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


numbers = st.floats(-100, 100, width=32)
weighted_lists = st.lists(st.tuples(tokens, numbers), max_size=6)


@given(values=st.lists(st.one_of(st.none(), weighted_lists), max_size=8), cut=cut, as_text=st.booleans())
def test_a_weighted_list(values: list[list[tuple[str, float]] | None], cut: tuple[int, int], as_text: bool) -> None:
    entries = [v if v is None else [f" {token}:{weight!r} " for token, weight in v] for v in values]
    if as_text:
        column = pa.array([v if v is None else ",".join(v) for v in entries], pa.string())
    else:
        column = pa.array(entries, STRINGS)
    found = encode(WEIGHTED, column.slice(*cut))
    kept = [v or [] for v in values[cut[0] : cut[0] + cut[1]]]
    assert found["f"].tolist() == [padded([id_of(token) for token, _ in v], 3) for v in kept]
    assert found["f__weight"].tolist() == [padded([weight for _, weight in v], 3) for v in kept]


def test_the_last_colon_parts_id_from_weight() -> None:
    found = encode(WEIGHTED, pa.array(["b:c:0.5, a : +2 ,,x\ny:.5"]))
    assert found["f"].tolist() == [[2, 3, 1]]
    assert found["f__weight"].tolist() == [[0.5, 2.0, 0.5]]


paired = st.tuples(
    st.lists(st.one_of(st.none(), tokens, blank), max_size=6),
    st.lists(st.one_of(st.none(), numbers), max_size=6),
)


@given(rows=st.lists(paired, max_size=6), cut=cut, kinds=st.tuples(*[st.sampled_from(["text", "array"])] * 2))
def test_weights_in_a_column_of_their_own(
    rows: list[tuple[list[str | None], list[float | None]]], cut: tuple[int, int], kinds: tuple[str, str]
) -> None:
    if kinds[0] == "array":
        ids = pa.array([ids for ids, _ in rows], pa.list_(pa.string()))
    else:
        ids = pa.array([",".join(entry or "" for entry in ids) for ids, _ in rows], pa.string())
    if kinds[1] == "array":
        weights = pa.array([weights for _, weights in rows], pa.list_(pa.float64()))
    else:
        texts = [",".join("" if entry is None else f" {entry!r}" for entry in weights) for _, weights in rows]
        weights = pa.array(texts, pa.string())
    found = encode(TWO_COLUMNS, ids.slice(*cut), w=weights.slice(*cut))
    pairs = [
        [(i, w) for i, w in zip(ids, weights, strict=False) if i and i.strip() and w is not None]
        for ids, weights in rows[cut[0] : cut[0] + cut[1]]
    ]
    assert found["f"].tolist() == [padded([id_of(token) for token, _ in row], 3) for row in pairs]
    assert found["f__weight"].tolist() == [padded([weight for _, weight in row], 3) for row in pairs]


def test_weights_as_a_list_of_texts_and_as_one_number() -> None:
    found = encode(TWO_COLUMNS, pa.array([["a", "007"]]), w=pa.array([[" 1.5", "2"]]))
    assert (found["f"].tolist(), found["f__weight"].tolist()) == ([[3, 4, 0]], [[1.5, 2.0, 0]])
    found = encode(TWO_COLUMNS, pa.array(["a,007", None]), w=pa.array([3, 4]))
    assert (found["f"].tolist(), found["f__weight"].tolist()) == ([[3, 0, 0], [0, 0, 0]], [[3.0, 0, 0], [0, 0, 0]])


def kept(entries: Sequence, weights: Sequence[float], maxlen: int, keep: str) -> list:
    """What stays of a list, by sorting; its order stays."""
    places = list(range(len(entries)))
    if keep == "last":
        places = places[-maxlen:]
    elif keep == "heaviest":
        places = sorted(sorted(places, key=lambda place: -weights[place])[:maxlen])
    return [entries[place] for place in places[:maxlen]]


few_weights = st.lists(st.tuples(tokens, st.sampled_from([-1.0, 0.5, 2.0, 3.0])), max_size=9)


@given(rows=st.lists(few_weights, max_size=6), maxlen=st.integers(1, 5), keep=st.sampled_from(["last", "heaviest"]))
def test_the_last_or_the_heaviest_entries_stay(rows: list[list[tuple[str, float]]], maxlen: int, keep: str) -> None:
    feature = VarLenSparseFeat(name="f", side="user", maxlen=maxlen, weighted=True, keep=keep)
    found = encode(feature, pa.array([[f"{token}:{weight}" for token, weight in row] for row in rows], STRINGS))
    stay = [kept(row, [weight for _, weight in row], maxlen, keep) for row in rows]
    assert found["f"].tolist() == [padded([id_of(token) for token, _ in row], maxlen) for row in stay]
    assert found["f__weight"].tolist() == [padded([weight for _, weight in row], maxlen) for row in stay]


def test_the_last_ids_of_a_list_stay() -> None:
    feature = VarLenSparseFeat(name="f", side="user", maxlen=2, keep="last")
    assert encode(feature, pa.array(["b:c,a,007,", "a"]))["f"].tolist() == [[3, 4], [3, 0]]


letters = st.sampled_from([*"aAbB#É日Σ \t\n\u3000\u00a0\x1c", "😀"])


def trigram_counts(text: str | None) -> dict[int, int]:
    """Ids of a text's trigrams, in the order of their first places, and how often each comes."""
    words = "".join(letter.lower() for letter in text or "").split()
    trigrams = [f"#{word}#"[place : place + 3] for word in words for place in range(len(word))]
    return Counter(bucket_ids(pa.array(trigrams, pa.string()), 7).tolist())


@given(
    texts=st.lists(st.one_of(st.none(), st.text(letters)), max_size=8),
    cut=cut,
    keep=st.sampled_from(["first", "last", "heaviest"]),
    at_once=st.integers(1, 20),
)
def test_a_text(texts: list[str | None], cut: tuple[int, int], keep: str, at_once: int) -> None:
    feature = TEXT.model_copy(update={"keep": keep})
    with mock.patch.object(encoding, "MAX_ENTRIES", at_once):
        found = encode(feature, pa.array(texts, pa.string()).slice(*cut))
    counts = [trigram_counts(text) for text in texts[cut[0] : cut[0] + cut[1]]]
    stay = [kept(list(row), list(row.values()), 4, keep) for row in counts]
    assert found["text"].tolist() == [padded(row, 4) for row in stay]
    weights = [[count[i] for i in row] for count, row in zip(counts, stay, strict=True)]
    assert found["text__weight"].tolist() == [padded(row, 4) for row in weights]


@pytest.mark.parametrize("behind", [b"\0", b"a", b" ", b"\x80", b"\xe6", b"\xff"])
def test_what_lies_in_memory_behind_the_last_text_is_no_part_of_it(behind: bytes) -> None:
    """A kernel's result may be followed by bytes of an earlier text: here by bytes that begin no letter, too."""

    def followed(texts: pa.Array) -> pa.Array:
        data = b"".join(text.encode() for text in texts.to_pylist())
        offsets = np.cumsum([0, *[len(text.encode()) for text in texts.to_pylist()]], dtype=np.int32)
        return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(data + 8 * behind))

    lower = pc.utf8_lower
    with mock.patch.object(pc, "utf8_lower", lambda texts: followed(lower(texts))):
        found = encode(TEXT, pa.array(["Cat ", "a\u3000", " Cat\t"]))
    assert found["text"][2].tolist() == found["text"][0].tolist() == padded(list(trigram_counts("cat")), 4)
    assert found["text__weight"][2].tolist() == padded(list(trigram_counts("cat").values()), 4)
    assert found["text"][1].tolist() == padded(list(trigram_counts("a")), 4)


def test_the_trigrams_of_two_words() -> None:
    feature = TextFeat(name="text", side="item", maxlen=6, hash_buckets=100_000)
    tables = Tables(buckets={"text": 100_000})
    encoded = encode_features({"text": pa.array([" Cat\u3000a CAT "])}, [feature], tables)
    ids = np.frombuffer(encoded["text"][0].as_py(), "<i4")
    expected = bucket_ids(pa.array(["#ca", "cat", "at#", "#a#"]), 100_000)
    assert ids.tolist() == [*expected.tolist(), 0, 0]
    assert np.frombuffer(encoded["text__weight"][0].as_py(), "<f4").tolist() == [2, 2, 2, 1, 0, 0]


@given(values=st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=8), cut=cut, as_text=st.booleans())
def test_a_number(values: list[float | None], cut: tuple[int, int], as_text: bool) -> None:
    if as_text:
        column = pa.array([v if v is None else f" {v!r}" for v in values], pa.string()).slice(*cut)
    else:
        column = pa.array(values, pa.float64()).slice(*cut)
    plain = [v or 0.0 for v in values[cut[0] : cut[0] + cut[1]]]
    raw = encode(DenseFeat(name="f", side="user"), column)["f"]
    np.testing.assert_array_equal(raw, np.array(plain, np.float32))
    logs = encode(DenseFeat(name="f", side="user", transform="log1p"), column)["f"]
    expected = [math.copysign(math.log1p(abs(v)), v) for v in plain]
    np.testing.assert_allclose(logs, expected, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["3", " 4.5\t", "", "  ", None, "+5", "1e3"]), [3, 4.5, 0, 0, 0, 5, 1000]),
        (pa.array([3, None], pa.int64()), [3, 0]),
        (pa.array([True, False]), [1, 0]),
        (pa.array([None, None], pa.float64()), [0, 0]),
    ],
    ids=["text", "integers", "booleans", "null"],
)
def test_numbers_of_every_kind(column: pa.Array, expected: list[float]) -> None:
    assert encode(DenseFeat(name="f", side="user"), column)["f"].tolist() == expected


@given(values=st.lists(st.one_of(st.none(), st.floats(-20, 20)), max_size=8))
def test_numbers_by_their_statistics(values: list[float | None]) -> None:
    column = pa.array(values, pa.float64())
    plain = [2.0 if value is None else value for value in values]  # the mean
    found = encode(DenseFeat(name="f", side="user", transform="minmax"), column)["f"]
    np.testing.assert_allclose(found, [min(max((v + 1) / 8, 0), 1) for v in plain], rtol=1e-6, atol=1e-30)
    found = encode(DenseFeat(name="f", side="user", transform="standard"), column)["f"]
    np.testing.assert_allclose(found, [(v - 2) / 4 for v in plain], rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize(
    ("transform", "null", "expected"),
    [
        ("raw", None, 0.0),
        ("raw", -3.0, -3.0),
        ("log1p", None, 0.0),
        ("log1p", math.e - 1, 1.0),
        ("minmax", None, 3 / 8),
        ("minmax", 5.0, 6 / 8),
        ("minmax", 50.0, 1.0),
        ("standard", None, 0.0),
        ("standard", 0.0, -0.5),
    ],
)
def test_what_stands_for_null_is_transformed_too(transform: str, null: float | None, expected: float) -> None:
    feature = DenseFeat(name="f", side="item", transform=transform, null=null)
    found = encode(feature, pa.array([None, " "], pa.string()))["f"]
    np.testing.assert_allclose(found, [expected, expected], rtol=1e-6)


@pytest.mark.parametrize("transform", ["minmax", "standard"])
def test_a_number_that_never_varied_is_zero(transform: str) -> None:
    constant = Statistics(events=3, mean=5, deviation=0, minimum=5, maximum=5)
    feature = DenseFeat(name="f", side="item", transform=transform)
    assert encode_numbers(feature, np.array([5.0, 7.0, np.nan]), constant).tolist() == [0, 0, 0]


def test_nan_is_null_and_a_large_integer_is_rounded() -> None:
    feature = DenseFeat(name="f", side="item", null=1.0)
    assert encode(feature, pa.array([np.nan, 2.0]))["f"].tolist() == [1, 2]
    assert encode(feature, pa.array([2**60 + 1]))["f"].tolist() == [2.0**60]
    values = np.array([np.nan])
    assert encode_numbers(feature, values, None).dtype == np.float32
    assert np.isnan(values[0])  # left as it was


ZONES = ["UTC", "Asia/Kathmandu", "Australia/Lord_Howe", "Europe/Berlin", "America/St_Johns", "Asia/Pyongyang"]


@given(times=st.lists(st.integers(0, 2_145_916_800_000), max_size=20), zone=st.sampled_from(ZONES))
def test_hours_and_weekdays_of_every_zone(times: list[int], zone: str) -> None:
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    local = [(epoch + dt.timedelta(milliseconds=time)).astimezone(ZoneInfo(zone)) for time in times]
    asked = np.array(times, np.int64)
    assert encode_event_time(asked, "hour", zone).tolist() == [2 + time.hour for time in local]
    assert encode_event_time(asked, "weekday", zone).tolist() == [2 + time.weekday() for time in local]


def test_the_hour_that_summer_time_skips_and_the_one_that_comes_twice() -> None:
    utc = ["2024-03-31T00:59", "2024-03-31T01:00", "2024-10-27T00:30", "2024-10-27T01:30", "2024-12-31T23:30"]
    times = np.array(utc, "datetime64[ms]").astype(np.int64)
    assert encode_event_time(times, "hour", "Europe/Berlin").tolist() == [2 + hour for hour in (1, 3, 2, 2, 0)]
    sunday, wednesday = 6, 2
    expected = [2 + day for day in (sunday, sunday, sunday, sunday, wednesday)]
    assert encode_event_time(times, "weekday", "Europe/Berlin").tolist() == expected
    assert encode_event_time(times, "weekday", "Europe/Berlin").dtype == np.int32


vector_lists = st.lists(st.one_of(st.none(), st.lists(tokens, max_size=6)), max_size=8)


@given(values=vector_lists, cut=cut, reduce=st.sampled_from(["mean", "sum"]), as_text=st.booleans())
def test_the_vectors_of_a_list(
    values: list[list[str] | None], cut: tuple[int, int], reduce: str, as_text: bool
) -> None:
    feature = DenseFeat(name="f", side="user", pre_embed="pre", reduce_type=reduce)
    if as_text:
        column = pa.array([v if v is None else ",".join(v) for v in values], pa.string()).slice(*cut)
    else:
        column = pa.array(values, STRINGS).slice(*cut)
    expected = []
    for value in values[cut[0] : cut[0] + cut[1]]:
        found = [VECTORS[token] for token in value or [] if token in VECTORS]
        divisor = max(len(found), 1) if reduce == "mean" else 1
        expected.append([sum(vector[place] for vector in found) / divisor for place in range(2)])
    np.testing.assert_allclose(encode(feature, column)["f"], np.reshape(expected, (-1, 2)), rtol=1e-6)


def test_a_missing_vector_does_not_shrink_the_mean() -> None:
    feature = DenseFeat(name="f", side="user", pre_embed="pre", reduce_type="mean")
    assert encode(feature, pa.array(["a,unknown,b:c", "unknown", None]))["f"].tolist() == [[-1, 1.25], [0, 0], [0, 0]]


def test_the_vector_of_an_id() -> None:
    feature = DenseFeat(name="f", side="item", pre_embed="pre")
    column = pa.array(["x", "é日", "unknown", None, "a"]).slice(1)
    assert encode(feature, column)["f"].tolist() == [[0.25, 4], [0, 0], [0, 0], [1, 2]]
    in_table = DenseFeat(name="f", side="item", pre_embed="table")
    assert encode(in_table, column)["f"].tolist() == [3, 0, 0, 1]


@given(values=vector_lists, maxlen=st.integers(1, 4))
def test_the_first_entries_with_a_vector_count_in_both_storages(values: list[list[str] | None], maxlen: int) -> None:
    column = pa.array(values, STRINGS)
    found = [[token for token in value or [] if token in VECTORS][:maxlen] for value in values]
    in_table = DenseFeat(name="f", side="user", pre_embed="table", reduce_type="sum", maxlen=maxlen)
    rows = [padded([1 + list(VECTORS).index(token) for token in row], maxlen) for row in found]
    assert encode(in_table, column)["f"].tolist() == rows
    inline = DenseFeat(name="f", side="user", pre_embed="pre", reduce_type="sum", maxlen=maxlen)
    sums = [np.sum([VECTORS[token] for token in row] or [[0, 0]], axis=0) for row in found]
    np.testing.assert_allclose(encode(inline, column)["f"], np.reshape(sums, (-1, 2)), rtol=1e-6)


def test_vectors_can_lie_in_a_mapped_file(tmp_path: Path) -> None:
    VECTOR_TABLE.matrix.tofile(tmp_path / "matrix")
    mapped = np.memmap(tmp_path / "matrix", np.float32, "r", shape=(3, 2))
    tables = Tables(vectors={"pre": Vectors(VECTOR_TABLE.ids, mapped)})
    feature = DenseFeat(name="f", side="user", pre_embed="pre", reduce_type="sum")
    encoded = encode_features({"f": pa.array(["a,é日", "a"])}, [feature], tables)["f"]
    assert [np.frombuffer(value, "<f4").tolist() for value in encoded.to_pylist()] == [[1.25, 6], [1, 2]]


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
