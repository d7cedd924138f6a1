from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dssm.scoring.dtypes import decoded, encoded, stored_columns

MATRICES = hnp.arrays(
    np.float32, st.tuples(st.integers(0, 6), st.integers(1, 9)), elements=st.floats(-1e4, 1e4, width=32)
)


@given(MATRICES)
def test_int8_is_off_by_half_a_step_at_most(matrix: np.ndarray) -> None:
    stored = encoded({"vector": matrix}, "int8")
    assert set(stored) == {"vector", "scale"}
    assert stored["vector"].dtype == np.int8
    assert stored["scale"].dtype == np.float32
    step = np.abs(matrix).max(axis=1, initial=0)[:, None] / 127
    assert (np.abs(decoded(stored, "vector", "int8") - matrix) <= 0.5001 * step + 1e-30).all()


@given(MATRICES)
def test_float16_keeps_eleven_bits(matrix: np.ndarray) -> None:
    stored = encoded({"vector": matrix}, "float16")
    assert stored["vector"].dtype == np.float16
    found = decoded(stored, "vector", "float16")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, matrix, rtol=2**-11, atol=2**-25)


def test_float32_is_the_vector_itself() -> None:
    matrix = np.array([[0.1, -3e38]], np.float32)
    assert decoded(encoded({"vector": matrix}, "float32"), "vector", "float32") is matrix


def test_a_float16_too_large_is_infinite() -> None:
    assert np.isinf(encoded({"vector": np.array([[70_000.0]], np.float32)}, "float16")["vector"]).all()


def test_a_row_of_zeros_stays_one() -> None:
    stored = encoded({"vector": np.array([[0, 0], [1, -2]], np.float32)}, "int8")
    assert stored["vector"].tolist() == [[0, 0], [64, -127]]
    assert stored["scale"].tolist() == [0.0, pytest.approx(2 / 127)]
    assert decoded(stored, "vector", "int8")[0].tolist() == [0, 0]


def test_each_objective_has_its_own_scale() -> None:
    widths = {"vector": 4, "vector_like": 2}
    assert stored_columns(widths, "int8") == {
        "vector": ("bytes", 4), "vector_like": ("bytes", 2), "scale": ("float", 1), "scale_like": ("float", 1),
    }  # fmt: skip
    assert stored_columns(widths, "float16") == {"vector": ("halves", 4), "vector_like": ("halves", 2)}
    stored = encoded({"vector": np.ones((1, 4), np.float32), "vector_like": np.full((1, 2), 5, np.float32)}, "int8")
    assert decoded(stored, "vector_like", "int8").tolist() == [[5, 5]]
