from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dssm.manifest import ColumnSpec
from dssm.packing import pack, unpack, unpack_all, unpack_vectors

matrices = st.sampled_from(["int32", "int64", "float32"]).flatmap(
    lambda dtype: hnp.arrays(dtype, st.tuples(st.integers(0, 7), st.integers(1, 5)))
)


def spec_of(matrix: np.ndarray) -> ColumnSpec:
    return ColumnSpec(dtype=matrix.dtype.name, shape=matrix.shape[1:], encoding="packed")


@given(matrix=matrices, begin=st.integers(0, 8), length=st.integers(0, 8))
def test_what_was_packed_comes_back_also_from_a_slice(matrix: np.ndarray, begin: int, length: int) -> None:
    column = pack(matrix).slice(begin, length)
    found = unpack(column, spec_of(matrix))
    assert found.dtype == matrix.dtype
    np.testing.assert_array_equal(found, matrix[begin : begin + length])


def test_the_bytes_are_little_endian_rows() -> None:
    assert pack(np.array([[1, 2], [3, 256]], np.int32)).to_pylist() == [
        b"\x01\0\0\0\x02\0\0\0",
        b"\x03\0\0\0\x00\x01\0\0",
    ]
    assert pack(np.array([[1]], ">i4")).to_pylist() == [b"\x01\0\0\0"]


def test_a_matrix_that_is_not_contiguous_is_packed_by_its_rows() -> None:
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(unpack(pack(matrix.T), spec_of(matrix.T)), matrix.T)


def test_another_width_than_the_shape_is_an_error() -> None:
    column = pack(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"packed values are not 8 bytes each, as float32\[2\] takes"):
        unpack(column, ColumnSpec(dtype="float32", shape=(2,), encoding="packed"))


def test_a_null_is_an_error() -> None:
    column = pa.array([b"\0\0\0\0", None], pa.binary())
    with pytest.raises(ValueError, match="packed values are not 4 bytes each"):
        unpack(column, ColumnSpec(dtype="int32", shape=(1,), encoding="packed"))


def test_a_column_beyond_two_gibibytes_is_refused() -> None:
    wide = np.lib.stride_tricks.as_strided(np.zeros(1, np.int32), shape=(2**20, 2**9), strides=(0, 0))
    with pytest.raises(
        ValueError, match="1048576 rows of 2048 bytes do not fit one binary column; use smaller batches"
    ):
        pack(wide)


def test_scalars_come_back_as_their_dtype() -> None:
    batch = pa.RecordBatch.from_pydict(
        {"id": pa.array([4, 5, 6], pa.int32()), "list": pack(np.array([[1], [2], [3]], np.int32))}
    ).slice(1)
    columns = {"list": ColumnSpec(dtype="int32", shape=(1,), encoding="packed"), "id": ColumnSpec(dtype="int32")}
    found = unpack_all(batch, columns)
    assert list(found) == ["list", "id"]
    assert found["id"].tolist() == [5, 6]
    assert found["id"].dtype == np.int32
    assert found["list"].tolist() == [[2], [3]]


@pytest.mark.parametrize(
    "column",
    [pa.array([[1.0, 2.0], [3.0]], pa.list_(pa.float32())), pa.array([b"1234", b"12"]), pa.array([b"1234", None])],
    ids=["lists", "halves", "null"],
)
def test_vectors_of_another_width(column: pa.Array) -> None:
    with pytest.raises(ValueError, match="is not 2 numbers"):
        unpack_vectors(column, 2)
