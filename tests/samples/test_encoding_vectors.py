"""Pretrained vectors of ids and of lists of ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from dssm.features import DenseFeat
from dssm.samples.encoding import encode_features
from dssm.samples.lookup_tables import Tables, Vectors
from tests.samples.encoded import STRINGS, VECTOR_TABLE, VECTORS, cut, encode, padded, tokens

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
