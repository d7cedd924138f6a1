"""Lookup tables as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dssm.samples.lookups import Lookups


def _write(path: Path, number: float) -> None:
    pq.write_table(pa.table({"id": ["p1"], "values": pa.array([[number]], pa.list_(pa.float32()))}), path)


def test_a_second_build_in_the_same_folder_reads_its_own_vectors(tmp_path: Path) -> None:
    path = tmp_path / "vectors.parquet"
    _write(path, 1.0)
    first = Lookups({}, {"post": str(path)})
    np.testing.assert_array_equal(first.load()[1]["post"].matrix, [[1.0]])
    _write(path, -5.0)
    second = Lookups({}, {"post": str(path)})
    np.testing.assert_array_equal(second.load()[1]["post"].matrix, [[-5.0]])


def test_a_table_is_loaded_once_a_build(tmp_path: Path) -> None:
    path = tmp_path / "vectors.parquet"
    _write(path, 1.0)
    lookups = Lookups({}, {"post": str(path)})
    assert lookups.load()[1]["post"] is lookups.load()[1]["post"]
