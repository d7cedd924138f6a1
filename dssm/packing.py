"""Matrices as columns: packed, as little-endian binaries of fixed width, or as published tables store vectors.

Pure Arrow and NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from dssm.manifest import ColumnSpec


def pack(matrix: np.ndarray) -> pa.BinaryArray:
    """Returns a matrix (n, width) as a binary column of n rows, width · itemsize bytes each."""
    rows, width = matrix.shape
    stride = width * matrix.dtype.itemsize
    if rows * stride >= 2**31:
        raise ValueError(f"{rows} rows of {stride} bytes do not fit one binary column; use smaller batches")
    matrix = np.ascontiguousarray(matrix, dtype=matrix.dtype.newbyteorder("<"))
    offsets = np.arange(rows + 1, dtype=np.int32) * np.int32(stride)
    return pa.BinaryArray.from_buffers(pa.binary(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(matrix)])


def unpack(column: pa.Array, spec: ColumnSpec) -> np.ndarray:
    """Returns an encoded column as numbers, (rows, *shape).

    Raises: ValueError where a packed value has another width than the shape says.
    """
    if spec.encoding != "packed":
        return column.to_numpy(zero_copy_only=False).astype(spec.dtype, copy=False)
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    stride = int(np.prod(spec.shape)) * spec.numpy_dtype.itemsize
    if not (np.diff(bounds) == stride).all():
        raise ValueError(f"packed values are not {stride} bytes each, as {spec.dtype}{list(spec.shape)} takes")
    if len(column) == 0:
        return np.zeros((0, *spec.shape), spec.numpy_dtype)
    values = np.frombuffer(
        data, spec.numpy_dtype, count=(bounds[-1] - bounds[0]) // spec.numpy_dtype.itemsize, offset=bounds[0]
    )
    return values.reshape(len(column), *spec.shape)


def unpack_all(batch: pa.RecordBatch, columns: Mapping[str, ColumnSpec]) -> dict[str, np.ndarray]:
    """Returns the named columns of a batch as numbers, each (rows, *shape)."""
    return {name: unpack(batch.column(name), spec) for name, spec in columns.items()}


def unpack_vectors(column: pa.Array, width: int, scale: pa.Array | None = None) -> np.ndarray:
    """Returns a column of a published table as numbers, (rows, width) float32.

    Args:
      column: lists of float32 or int8, or binaries of little-endian float16.
      scale: (rows,) of int8, what a row's numbers are multiplied by.
    Raises: ValueError where a row is not `width` numbers.
    """
    rows = len(column)
    if pa.types.is_binary(column.type):
        _, offsets, data = column.buffers()
        bounds = np.frombuffer(offsets, np.int32)[column.offset : column.offset + rows + 1]
        if column.null_count or not (np.diff(bounds) == 2 * width).all():
            raise ValueError(f"a vector is not {width} numbers of float16")
        if rows == 0:
            return np.empty((0, width), np.float32)
        halves = np.frombuffer(data, "<f2", count=rows * width, offset=int(bounds[0]))
        return halves.reshape(rows, width).astype(np.float32)
    values = column.flatten()
    even = (np.diff(column.offsets.to_numpy()) == width).all()
    if column.null_count or values.null_count or not even:
        raise ValueError(f"a vector is not {width} numbers")
    matrix = values.to_numpy().reshape(rows, width)
    if scale is None:
        return matrix.astype(np.float32, copy=False)
    return matrix * scale.to_numpy().astype(np.float32)[:, None]
