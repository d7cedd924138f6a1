"""Encoded columns as one row of words."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dssm.manifest import ColumnSpec
from dssm.packing import pack
from dssm.samples.words import Words

COLUMNS = {
    "id": ColumnSpec(dtype="int32"),
    "list": ColumnSpec(dtype="int32", shape=(3,), encoding="packed"),
    "number": ColumnSpec(dtype="float32"),
    "vector": ColumnSpec(dtype="float32", shape=(2,), encoding="packed"),
}


@given(data=st.data(), rows=st.integers(0, 5))
def test_columns_come_back_to_the_last_bit(data: st.DataObject, rows: int) -> None:
    """Also NaN and −0: floats travel as their bits."""
    words = Words(COLUMNS)
    values = {name: data.draw(hnp.arrays(spec.dtype, (rows, *spec.shape))) for name, spec in COLUMNS.items()}
    arrays = {name: pa.array(value) if value.ndim == 1 else pack(value) for name, value in values.items()}
    joined = words.join(arrays, rows)
    assert (joined.shape, joined.dtype) == ((rows, 7), np.int32)
    assert words.width == 7
    for name, found in words.split(joined).items():
        assert found.shape == values[name].shape
        assert found.tobytes() == values[name].tobytes()


def test_no_columns() -> None:
    assert Words({}).join({}, 4).shape == (4, 0)
    assert Words({}).split(np.zeros((4, 0), np.int32)) == {}
