"""Vectors as a table stores them: float32, float16, or int8 with a scale a row. Pure NumPy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dssm.published import VectorType, scale_column
from dssm.scoring.parquet import Kind

Stored = dict[str, np.ndarray]  # of each column, (rows, width), or (rows,) of a scale
KINDS: dict[VectorType, Kind] = {"float32": "floats", "float16": "halves", "int8": "bytes"}
LARGEST = 127  # of int8, both ways


def stored_columns(widths: Mapping[str, int], dtype: VectorType) -> dict[str, tuple[Kind, int]]:
    """Returns the columns that vectors are stored in, each with its kind and width.

    Args: widths: of each vector column.
    """
    columns: dict[str, tuple[Kind, int]] = {name: (KINDS[dtype], width) for name, width in widths.items()}
    if dtype == "int8":
        columns |= {scale_column(name): ("float", 1) for name in widths}
    return columns


def encoded(vectors: Mapping[str, np.ndarray], dtype: VectorType) -> Stored:
    """Returns vectors as they are stored.

    int8 is symmetric, a scale a row: x ≈ scale · q with scale = max |x| / 127, so that a row's largest error is half
    its scale. A float16 beyond 65,504 becomes infinite.

    Args: vectors: of each column, (rows, width) float32, finite.
    """
    if dtype == "float32":
        return dict(vectors)
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return {name: matrix.astype(np.float16) for name, matrix in vectors.items()}
    stored: Stored = {}
    for name, matrix in vectors.items():
        scale = np.abs(matrix).max(axis=1, initial=0) / np.float32(LARGEST)
        divisor = np.where(scale > 0, scale, 1)[:, None]
        stored[name] = np.clip(np.rint(matrix / divisor), -LARGEST, LARGEST).astype(np.int8)
        stored[scale_column(name)] = scale.astype(np.float32)
    return stored


def decoded(stored: Mapping[str, np.ndarray], column: str, dtype: VectorType) -> np.ndarray:
    """Returns a stored column as float32, (rows, width)."""
    matrix = stored[column].astype(np.float32, copy=False)
    return matrix * stored[scale_column(column)][:, None] if dtype == "int8" else matrix
