"""Encoded columns of a row side by side as one row of 32-bit words: what travels with a row as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dssm.manifest import ColumnSpec
from dssm.packing import unpack


@dataclass(frozen=True)
class Words:
    """The columns, in their order; all of 32-bit numbers, scalar or packed."""

    columns: Mapping[str, ColumnSpec]

    @property
    def width(self) -> int:
        return sum(_width(spec) for spec in self.columns.values())

    def join(self, arrays: Mapping[str, pa.Array], rows: int) -> np.ndarray:
        """Returns the encoded columns as (rows, width) int32; floats keep their bits."""
        parts = [
            unpack(arrays[name], spec).reshape(rows, _width(spec)).view(np.int32) for name, spec in self.columns.items()
        ]
        return np.concatenate(parts, axis=1) if parts else np.zeros((rows, 0), np.int32)

    def split(self, words: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the columns of (rows, width) words, each (rows, *shape)."""
        columns, start = {}, 0
        for name, spec in self.columns.items():
            part = np.ascontiguousarray(words[:, start : start + _width(spec)]).view(spec.numpy_dtype)
            columns[name] = part.reshape(len(words), *spec.shape)
            start += _width(spec)
        return columns


def _width(spec: ColumnSpec) -> int:
    return int(np.prod(spec.shape))
