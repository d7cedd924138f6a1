from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dssm.manifest import USER_KEY, WEIGHT, FileSpec, Manifest
from dssm.stream.batches import rank_batches
from dssm.stream.plan import plan_epoch
from dssm.stream.reader import read_files
from tests.datasets import Rows, columns_of, draw_files, make_settings, write_dataset

COUNTS = [700, 1, 13, 5, 240, 2, 11]
SETTINGS = make_settings("unused")
COLUMNS = columns_of(SETTINGS)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest, list[Rows]]:
    """A dataset whose files differ much in their rows: its folder, manifest and files' rows."""
    folder = str(tmp_path_factory.mktemp("stream") / "train")
    files = draw_files(SETTINGS, COUNTS, seed=7)
    return folder, write_dataset(folder, SETTINGS, files, kind="train"), files


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_files_come_in_the_order_of_the_list_with_all_their_values(written, threads: int):
    folder, manifest, files = written
    order = [4, 0, 6, 1, 5, 3, 2]
    read = list(read_files(folder, [manifest.files[number] for number in order], COLUMNS, threads))

    assert len(read) == len(order)
    for number, arrays in zip(order, read, strict=True):
        assert list(arrays) == list(COLUMNS)
        for name, spec in COLUMNS.items():
            assert arrays[name].dtype == spec.dtype
            np.testing.assert_array_equal(arrays[name], files[number][name])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_consumer_faster_than_the_threads_gets_every_file_in_order(tmp_path: Path, threads: int):
    """Petastorm by itself lost or reordered files in most of such readings."""
    folder = f"{tmp_path}/train"
    manifest = write_dataset(folder, SETTINGS, draw_files(SETTINGS, [3] * 40, seed=0), kind="train")
    for _ in range(8):
        read = read_files(folder, manifest.files, {USER_KEY: COLUMNS[USER_KEY]}, threads)
        assert [int(key) for arrays in read for key in arrays[USER_KEY]] == list(range(1, 121))


def test_only_the_named_columns_are_read(written):
    folder, manifest, files = written
    (arrays,) = read_files(folder, manifest.files[2:3], {"clicked": COLUMNS["clicked"]})
    assert list(arrays) == ["clicked"]
    np.testing.assert_array_equal(arrays["clicked"], files[2]["clicked"])


def test_no_files_are_no_rows(written):
    assert list(read_files(written[0], [], COLUMNS)) == []


def test_a_file_with_other_rows_than_its_manifest_says_is_an_error(written):
    folder, manifest, _ = written
    files = [manifest.files[2], FileSpec(name=manifest.files[3].name, rows=6)]
    with pytest.raises(ValueError, match=r"part-00003.parquet: 5 rows, the manifest says 6"):
        list(read_files(folder, files, COLUMNS))


def _epoch(written, epoch: int, ranks: int, seed: int = 3, shuffle: bool = True) -> list[list[Rows]]:
    """Each rank's batches of 8 rows."""
    folder, manifest, _ = written
    plan = plan_epoch([file.rows for file in manifest.files], seed, epoch, ranks, batch_size=8)
    order = (seed, epoch) if shuffle else None
    return [list(rank_batches(folder, manifest, COLUMNS, plan, rank, 8, order)) for rank in range(ranks)]


def _keys(batches: list[Rows]) -> list[int]:
    """The keys of the rows that weigh something, in their order."""
    return [int(key) for batch in batches for key in batch[USER_KEY][batch[WEIGHT] > 0]]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_ranks_see_each_row_once_in_equally_many_steps(written, ranks: int):
    read = _epoch(written, epoch=0, ranks=ranks)
    assert len({len(batches) for batches in read}) == 1
    assert sorted(key for batches in read for key in _keys(batches)) == list(range(1, sum(COUNTS) + 1))


def test_rows_stay_whole_when_they_are_shuffled(written):
    files = written[2]
    whole = {name: np.concatenate([rows[name] for rows in files]) for name in COLUMNS}
    (batches,) = _epoch(written, epoch=1, ranks=1)
    read = {name: np.concatenate([batch[name] for batch in batches]) for name in COLUMNS}
    real = read[WEIGHT] > 0
    for name in COLUMNS:
        np.testing.assert_array_equal(read[name][real], whole[name][read[USER_KEY][real] - 1])


def test_order_depends_on_seed_and_epoch_alone(written):
    (first,), (again,) = _epoch(written, epoch=0, ranks=1), _epoch(written, epoch=0, ranks=1)
    assert _keys(first) == _keys(again)
    (next_epoch,), (other_seed,) = _epoch(written, epoch=1, ranks=1), _epoch(written, epoch=0, ranks=1, seed=4)
    for other in (next_epoch, other_seed):
        assert _keys(other) != _keys(first)
        # Also within the largest file, not the files alone: its rows are keyed 1 to 700.
        assert [key for key in _keys(other) if key <= 700] != [key for key in _keys(first) if key <= 700]


def test_without_shuffling_a_file_keeps_its_order(written):
    (batches,) = _epoch(written, epoch=0, ranks=1, shuffle=False)
    keys = _keys(batches)
    assert [key for key in keys if key <= 700] == list(range(1, 701))


def test_closing_early_leaves_no_reader_threads(written):
    folder, manifest, _ = written
    before = set(threading.enumerate())
    plan = plan_epoch(COUNTS, 0, 0, 1, batch_size=4)
    batches = rank_batches(folder, manifest, COLUMNS, plan, 0, 4, (0, 0), threads=2)
    next(batches)
    assert set(threading.enumerate()) - before, "the reader runs in threads of its own"
    batches.close()
    gc.collect()
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(threading.enumerate()) - before == set()


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path, written):
    with pytest.raises(Exception, match="part-00042"):
        list(read_files(written[0], [FileSpec(name="part-00042.parquet", rows=3)], COLUMNS))
