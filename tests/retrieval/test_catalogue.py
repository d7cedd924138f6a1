from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.errors import UserError
from dssm.manifest import ITEM_INDEX, ITEM_KEY, ITEM_ROWS, read_manifest
from dssm.model.export import LoadedTower
from dssm.model.manifest import read_model_manifest
from dssm.paths import RunPaths
from dssm.retrieval.arrays import gathered, mapped
from dssm.retrieval.catalogue import whole_files, write_catalogue
from dssm.retrieval.rankers import COLD_ITEMS, ITEM_KEYS, VECTORS
from tests.datasets import ITEMS, item_columns_of, make_catalogue, make_settings, write_dataset
from tests.model.tiny import write_model

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@given(rows=st.integers(0, 40), per_file=st.integers(1, 15), per_batch=st.integers(1, 20))
def test_batches_become_whole_files(rows: int, per_file: int, per_batch: int):
    """A file's rows may lie over several batches, a batch's rows over several files; files may be missing."""
    indexes = np.array([index for index in range(rows) if index // per_file != 1], np.int32)
    batches = [
        pa.RecordBatch.from_pydict({ITEM_INDEX: part}) for part in np.split(indexes, range(per_batch, rows, per_batch))
    ]
    found = [table[ITEM_INDEX].to_pylist() for table in whole_files(batches, per_file)]
    files = sorted({int(index) // per_file for index in indexes})
    assert found == [[index for index in indexes.tolist() if index // per_file == file] for file in files]


@pytest.mark.spark
def test_the_catalogue_is_written_in_parts_and_in_order(spark: SparkSession, tmp_path: Path):
    """Rows of any order over three files become parts of four items, and gaps are told."""
    settings = make_settings(tmp_path, storage="table")
    paths = RunPaths(settings.run_folder)
    rows = make_catalogue(settings)
    rows[ITEM_ROWS][[2, 9]] = 0
    order = np.random.default_rng(4).permutation(ITEMS)
    files = [{name: values[part] for name, values in rows.items()} for part in np.split(order, [6, 11])]
    manifest = write_dataset(paths.part("items"), settings, files, "items", item_columns_of(settings))
    write_model(settings)
    model = read_model_manifest(paths.model)

    catalogue = write_catalogue(spark, paths, manifest, model, f"{tmp_path}/arrays", items_per_file=4)
    assert (catalogue.items, catalogue.cold) == (ITEMS, 2)
    arrays = mapped(f"{tmp_path}/arrays")
    assert [len(arrays[name]) for name in sorted(arrays) if name.startswith(VECTORS)] == [4, 4, 4, 3]
    expected = LoadedTower(f"{paths.model}/item_tower").vectors(rows)
    np.testing.assert_allclose(gathered(arrays, VECTORS), expected, rtol=1e-5)
    assert np.flatnonzero(gathered(arrays, COLD_ITEMS)).tolist() == [2, 9]
    assert gathered(arrays, ITEM_KEYS).tolist() == rows[ITEM_KEY].tolist()

    gap = [{name: np.delete(values, 7, axis=0) for name, values in rows.items()}]
    write_dataset(f"{paths.samples}/gap", settings, gap, "items", item_columns_of(settings))
    (tmp_path / "moved").mkdir()
    Path(paths.part("items")).rename(tmp_path / "moved" / "items")
    Path(f"{paths.samples}/gap").rename(paths.part("items"))
    with pytest.raises(UserError, match=r"items: the item indexes are not 0…13; run build_samples again"):
        write_catalogue(spark, paths, read_manifest(paths.part("items"), ""), model, f"{tmp_path}/other")
