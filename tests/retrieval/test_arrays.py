from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from dssm.retrieval.arrays import gathered, mapped, mapped_matrix, part_name, parts, write_array, write_matrix


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_arrays_are_mapped_from_any_file_system(tmp_path: Path, scheme: str):
    folder, matrix = f"{scheme}{tmp_path}/new", sp.random(4, 7, density=0.5, format="csr", random_state=0)
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_array(folder, "weights", weights + 1)
    write_array(folder, "weights", weights)  # a second attempt at a task
    write_matrix(folder, "similarity", matrix)
    found = mapped(folder)
    assert sorted(found) == ["similarity.data", "similarity.indices", "similarity.indptr", "weights"]
    np.testing.assert_array_equal(found["weights"], weights)
    assert not found["weights"].flags.writeable
    np.testing.assert_array_equal(mapped_matrix(found, "similarity", 7).toarray(), matrix.toarray())


def test_parts_come_in_the_order_of_their_rows(tmp_path: Path):
    for first in (10, 0, 200):
        write_array(str(tmp_path), part_name("keys", first), np.arange(first, first + 2))
    write_array(str(tmp_path), part_name("other", 5), np.zeros(1))
    arrays = mapped(str(tmp_path))
    assert [(first, part.tolist()) for first, part in parts(arrays, "keys")] == [
        (0, [0, 1]), (10, [10, 11]), (200, [200, 201]),
    ]  # fmt: skip
    assert gathered(arrays, "keys").tolist() == [0, 1, 10, 11, 200, 201]
