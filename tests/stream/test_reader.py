from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm import storage
from dssm.errors import UserError
from dssm.manifest import USER_KEY, WEIGHT, ColumnSpec, FileSpec, Manifest
from dssm.sections import Staging
from dssm.stream.batches import Reading, rank_batches
from dssm.stream.plan import plan_epoch
from dssm.stream.reader import Columns, read_files
from tests.datasets import Rows, columns_of, draw_files, make_settings, write_dataset

COUNTS = [700, 1, 13, 5, 240, 2, 11]
SETTINGS = make_settings("unused")
COLUMNS = columns_of(SETTINGS)
KEY = {USER_KEY: COLUMNS[USER_KEY]}


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
        read = read_files(folder, manifest.files, KEY, threads)
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
    with pytest.raises(UserError, match=r"part-00003.parquet: 5 rows, the manifest says 6; run build_samples again"):
        list(read_files(folder, files, COLUMNS))


def test_a_missing_column_is_an_error_that_names_it_and_the_file(written):
    folder, manifest, _ = written
    columns = {**COLUMNS, "colour": ColumnSpec(dtype="int32")}
    with pytest.raises(UserError, match=r'part-00002.parquet: .*"colour".*; run build_samples again'):
        list(read_files(folder, manifest.files[2:3], columns))


def test_packed_values_of_another_width_are_an_error(written):
    folder, manifest, _ = written
    spec = COLUMNS["clicked"]
    columns = {"clicked": spec.model_copy(update={"shape": (spec.shape[0] + 1,)})}
    with pytest.raises(UserError, match=r"part-00002.parquet: packed values are not \d+ bytes each"):
        list(read_files(folder, manifest.files[2:3], columns))


def test_files_are_prepared_in_the_readers_threads_and_come_in_order(written):
    folder, manifest, files = written
    threads = set()

    def backwards(place: int, arrays: Columns) -> Columns:
        threads.add(threading.get_ident())
        return {"place": np.full(len(arrays[USER_KEY]), place), USER_KEY: arrays[USER_KEY][::-1]}

    read = list(read_files(folder, manifest.files, COLUMNS, prepare=backwards))
    for place, arrays in enumerate(read):
        assert set(arrays["place"]) == {place}
        np.testing.assert_array_equal(arrays[USER_KEY], files[place][USER_KEY][::-1])
    assert len(threads) == 2
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_of_preparing_ends_the_reading_and_its_threads(written, threads: int):
    folder, manifest, _ = written
    before = set(threading.enumerate())

    def failing(place: int, arrays: Columns) -> Columns:
        return {"of": 1 / np.zeros(0)} if place < 2 else {"of": arrays["no such column"]}

    read = read_files(folder, manifest.files, COLUMNS, threads, prepare=failing, queue_rows=1)
    assert [len(next(read)["of"]) for _ in range(2)] == [0, 0]
    with pytest.raises(KeyError, match="no such column"):
        next(read)
    assert set(threading.enumerate()) - before == set()


@settings(max_examples=40)
@given(
    order=st.lists(st.integers(0, len(COUNTS) - 1), min_size=1, max_size=12),
    bound=st.integers(1, 1500),
    threads=st.integers(1, 4),
)
def test_rows_held_stay_under_the_bound_whatever_the_files(written, order: list[int], bound: int, threads: int):
    """More only where a file alone has more."""
    folder, manifest, _ = written
    lock, held, most = threading.Lock(), 0, 0

    def counted(place: int, arrays: Columns) -> Columns:
        nonlocal held, most
        with lock:
            held += COUNTS[order[place]]
            most = max(most, held)
        return arrays

    files = [manifest.files[number] for number in order]
    rows = 0
    for arrays in read_files(folder, files, KEY, threads, prepare=counted, queue_rows=bound):
        rows += len(arrays[USER_KEY])
        with lock:
            held -= len(arrays[USER_KEY])
    assert rows == sum(file.rows for file in files)
    assert most <= max(bound, *(file.rows for file in files))


def test_files_are_read_ahead_while_the_bound_has_room(written):
    folder, manifest, _ = written
    prepared, files = [], [manifest.files[number] for number in (2, 3, 5, 6, 4)]  # 13, 5, 2, 11 and 240 rows
    read = read_files(folder, files, KEY, prepare=lambda place, arrays: prepared.append(place) or arrays, queue_rows=31)
    next(read)
    deadline = time.monotonic() + 10
    while len(prepared) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert sorted(prepared) == [0, 1, 2, 3]
    read.close()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_files_of_a_remote_store_are_the_same_rows(tmp_path: Path, written, threads: int):
    folder, manifest, files = written
    storage.put_folder(folder, f"memory://remote-{threads}/train")
    sizes = {entry.name: entry.stat().st_size for entry in Path(folder).glob("*.parquet")}
    staging = Staging(cache_bytes=max(sizes.values()), folder=str(tmp_path))
    read = list(read_files(f"memory://remote-{threads}/train", manifest.files, COLUMNS, threads, staging=staging))
    assert len(read) == len(files)
    for arrays, expected in zip(read, files, strict=True):
        for name in COLUMNS:
            np.testing.assert_array_equal(arrays[name], expected[name])
    assert list(tmp_path.iterdir()) == []


def test_closing_early_removes_what_was_staged(tmp_path: Path, written):
    folder, manifest, _ = written
    storage.put_folder(folder, "memory://closed/train")
    before = set(threading.enumerate())
    read = read_files("memory://closed/train", manifest.files, KEY, queue_rows=1, staging=Staging(folder=str(tmp_path)))
    next(read)
    assert len(list(tmp_path.iterdir())) == 1
    read.close()
    assert list(tmp_path.iterdir()) == []
    assert set(threading.enumerate()) - before == set()


def _epoch(written, epoch: int, ranks: int, seed: int = 3, shuffle: bool = True) -> list[list[Rows]]:
    """Each rank's batches of 8 rows."""
    folder, manifest, _ = written
    plan = plan_epoch([file.rows for file in manifest.files], seed, epoch, ranks, batch_size=8)
    reading = Reading(plan, (seed, epoch) if shuffle else None)
    return [list(rank_batches(folder, manifest, COLUMNS, reading, rank, 8)) for rank in range(ranks)]


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
    batches = rank_batches(folder, manifest, COLUMNS, Reading(plan, (0, 0)), 0, 4, threads=2)
    next(batches)
    assert set(threading.enumerate()) - before, "the reader runs in threads of its own"
    batches.close()
    gc.collect()
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(threading.enumerate()) - before == set()


def test_a_missing_file_is_an_error_that_names_it(written):
    with pytest.raises(UserError, match=r"part-00042.parquet: .*No such file.*; run build_samples again"):
        list(read_files(written[0], [FileSpec(name="part-00042.parquet", rows=3)], COLUMNS))
