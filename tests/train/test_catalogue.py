"""The stream of catalogue items: drawn evenly, by any number of ranks, and resumed at any batch."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dssm.manifest import ITEM_INDEX, ColumnSpec, read_manifest
from dssm.paths import RunPaths
from dssm.train.catalogue import catalogue_batches
from tests.datasets import ITEMS, make_settings, write_items

COLUMNS = {ITEM_INDEX: ColumnSpec(dtype="int32")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = make_settings(tmp_path_factory.mktemp("items"))
    write_items(settings)  # two files with rows
    return Path(RunPaths(settings.run_folder).part("items"))


def drawn(folder: Path, rank: int, batches: int, skip: int = 0, items: int = 4) -> np.ndarray:
    manifest = read_manifest(str(folder), "build_samples")
    made = catalogue_batches(str(folder), manifest, COLUMNS, items, rank, (7, 0), skip)
    return np.stack([batch[ITEM_INDEX] for batch in itertools.islice(made, batches)])


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_every_rank_gets_items_and_each_item_comes_as_often(folder: Path, ranks: int):
    passes = 40
    counted: Counter[int] = Counter()
    for rank in range(ranks):
        counted.update(drawn(folder, rank, passes * ITEMS // 4).ravel().tolist())
    assert sorted(counted) == list(range(ITEMS))
    shares = np.array(list(counted.values())) / sum(counted.values()) * ITEMS
    assert np.abs(shares - 1).max() < 0.05


@pytest.mark.parametrize("rank", [0, 1])
def test_the_stream_goes_on_where_it_was(folder: Path, rank: int):
    whole = drawn(folder, rank, 30)
    np.testing.assert_array_equal(drawn(folder, rank, 13, skip=17), whole[17:])


def test_ranks_read_in_orders_of_their_own(folder: Path):
    orders = {tuple(drawn(folder, rank, 3).ravel().tolist()) for rank in range(3)}
    assert len(orders) == 3
