from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.features import AnyFeature, DenseFeat, SparseFeat, VarLenSparseFeat
from dssm.manifest import encoded_columns
from dssm.packing import unpack
from dssm.samples.encoding import Vectors, encode_features, token_ids

TOKENS = ["b:c", "a", "007", "é日"]
VECTORS = {"a": [1.0, 2.0], "b:c": [-3.0, 0.5], "é日": [0.25, 4.0]}
WIDTHS = {"pre": 2}

SPARSE = SparseFeat(name="f", side="item")
LIST = VarLenSparseFeat(name="f", side="user", maxlen=3)
WEIGHTED = VarLenSparseFeat(name="f", side="user", maxlen=3, weighted=True)


def encode(feature: AnyFeature, column: pa.Array) -> dict[str, np.ndarray]:
    """Encodes one column and checks it against the manifest's description."""
    vectors = {"pre": Vectors(pa.array(list(VECTORS)), np.array(list(VECTORS.values()), np.float32))}
    encoded = encode_features({feature.source_column: column}, [feature], {"f": pa.array(TOKENS)}, vectors)
    specs = encoded_columns(feature, WIDTHS)
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


@given(values=st.lists(st.one_of(st.none(), tokens), max_size=8), cut=cut)
def test_one_id(values: list[str | None], cut: tuple[int, int]) -> None:
    column = pa.array(values, pa.string()).slice(*cut)
    assert encode(SPARSE, column)["f"].tolist() == [id_of(value) for value in column.to_pylist()]


def test_ids_are_compared_as_they_are() -> None:
    assert encode(SPARSE, pa.array(["007", "7", "a ", None]))["f"].tolist() == [4, 1, 1, 1]


def test_every_id_is_unknown_to_an_empty_vocabulary() -> None:
    assert token_ids(pa.array(["a", None]), pa.array([], pa.string())).tolist() == [1, 1]


@given(values=st.lists(st.one_of(st.none(), lists), max_size=8), cut=cut, as_text=st.booleans())
def test_a_list_of_ids(values: list[list[str] | None], cut: tuple[int, int], as_text: bool) -> None:
    if as_text:
        column = pa.array([v if v is None else ",".join(v) for v in values], pa.string()).slice(*cut)
    else:
        column = pa.array(values, pa.list_(pa.string())).slice(*cut)
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
        column = pa.array(entries, pa.list_(pa.string()))
    found = encode(WEIGHTED, column.slice(*cut))
    kept = [v or [] for v in values[cut[0] : cut[0] + cut[1]]]
    assert found["f"].tolist() == [padded([id_of(token) for token, _ in v], 3) for v in kept]
    assert found["f__weight"].tolist() == [padded([weight for _, weight in v], 3) for v in kept]


def test_the_last_colon_parts_id_from_weight() -> None:
    found = encode(WEIGHTED, pa.array(["b:c:0.5, a : +2 ,,x\ny:.5"]))
    assert found["f"].tolist() == [[2, 3, 1]]
    assert found["f__weight"].tolist() == [[0.5, 2.0, 0.5]]


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


vector_lists = st.lists(st.one_of(st.none(), st.lists(tokens, max_size=6)), max_size=8)


@given(values=vector_lists, cut=cut, reduce=st.sampled_from(["mean", "sum"]), as_text=st.booleans())
def test_the_vectors_of_a_list(
    values: list[list[str] | None], cut: tuple[int, int], reduce: str, as_text: bool
) -> None:
    feature = DenseFeat(name="f", side="user", pre_embed="pre", reduce_type=reduce)
    if as_text:
        column = pa.array([v if v is None else ",".join(v) for v in values], pa.string()).slice(*cut)
    else:
        column = pa.array(values, pa.list_(pa.string())).slice(*cut)
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


@pytest.mark.parametrize(
    "feature",
    [
        SPARSE,
        LIST,
        WEIGHTED,
        DenseFeat(name="f", side="user"),
        DenseFeat(name="f", side="user", pre_embed="pre"),
        DenseFeat(name="f", side="user", pre_embed="pre", reduce_type="mean"),
    ],
    ids=lambda feature: f"{feature.kind} {getattr(feature, 'weighted', '')}{getattr(feature, 'reduce_type', '')}",
)
def test_a_batch_without_rows(feature: AnyFeature) -> None:
    for name, values in encode(feature, pa.array([], pa.string())).items():
        assert values.shape == (0, *encoded_columns(feature, WIDTHS)[name].shape)


def test_features_read_their_columns_and_share_vocabularies() -> None:
    features = [
        SparseFeat(name="topic", side="item"),
        VarLenSparseFeat(name="followed", side="user", column="topics", share_embedding="topic", maxlen=2),
    ]
    columns = {"topic": pa.array(["y"]), "topics": pa.array(["x,y"]), "other": pa.array([1])}
    encoded = encode_features(columns, features, {"topic": pa.array(["x", "y"])}, {})
    assert encoded["topic"].to_pylist() == [3]
    assert np.frombuffer(encoded["followed"][0].as_py(), "<i4").tolist() == [2, 3]
