from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.errors import UserError
from dssm.manifest import FileSpec
from dssm.sections import Staging
from dssm.stream.staging import Closed, StagedFiles, local_files

_NUMBERS = itertools.count()


def parquet(rows: int, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 2**40, rows)
    pq.write_table(pa.table({"value": values}), buffer, compression="none", use_dictionary=False)
    return buffer.getvalue()


class Store:
    """Files in a folder of fsspec's memory store."""

    def __init__(self, counts: list[int]) -> None:
        self.folder = f"memory://store-{next(_NUMBERS)}/train"
        self.contents = [parquet(rows, seed) for seed, rows in enumerate(counts)]
        self.files: list[FileSpec] = [
            FileSpec(name=f"part-{number:05d}.parquet", rows=rows) for number, rows in enumerate(counts)
        ]
        for file, content in zip(self.files, self.contents, strict=True):
            self.put(file, content)

    def put(self, file: FileSpec, content: bytes) -> None:
        MemoryFileSystem().pipe_file(f"{self.folder}/{file.name}", content)

    @property
    def summed(self) -> list[FileSpec]:
        return [
            file.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
            for file, content in zip(self.files, self.contents, strict=True)
        ]


@contextlib.contextmanager
def opening(open_file: Callable[[str, Callable[[], Any]], Any]) -> Iterator[None]:
    """Has the memory store open its files by a function of the path and of the store's own way."""
    own = MemoryFileSystem.open

    def patched(self: MemoryFileSystem, path: str, *args: Any, **kwargs: Any) -> Any:
        return open_file(path, lambda: own(self, path, *args, **kwargs))

    with mock.patch.object(MemoryFileSystem, "open", patched):
        yield


def at_once(tmp_path: Path, cache_bytes: int = 1 << 30, **changed: Any) -> Staging:
    """Settings without waits between attempts."""
    return Staging(cache_bytes=cache_bytes, folder=str(tmp_path), backoff_s=0.0, **changed)


def disk_in_use(folder: Path) -> int:
    sizes = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # other threads delete and rename
                found = (Path(place) / name).stat()
                sizes[found.st_ino] = found.st_size
    return sum(sizes.values())


@settings(max_examples=60)
@given(
    counts=st.lists(st.integers(0, 400), min_size=1, max_size=12),
    spare=st.floats(0, 3),
    threads=st.integers(1, 4),
)
def test_copies_are_whole_in_order_and_never_take_more_than_the_bound(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], spare: float, threads: int
) -> None:
    store = Store(counts)
    folder = tmp_path_factory.mktemp("copies")
    bound = int(max(map(len, store.contents)) * (1 + spare))
    taken = []

    def measured(path: str, own: Callable[[], Any]) -> Any:
        taken.append(disk_in_use(folder))
        return own()

    with opening(measured), local_files(store.folder, store.files, at_once(folder, bound, threads=threads)) as local:
        for place, content in enumerate(store.contents):
            assert Path(local.path(place)).read_bytes() == content
            assert local.held_bytes <= bound
            local.done(place)
        assert local.held_bytes == 0
    assert max(taken) <= bound
    assert list(folder.iterdir()) == []


def test_files_are_fetched_ahead_until_the_bound_is_full(tmp_path: Path) -> None:
    store = Store([100] * 6)
    size = len(store.contents[0])
    with local_files(store.folder, store.files, at_once(tmp_path, 3 * size)) as local:
        for place in range(3):
            local.path(place)
        time.sleep(0.1)  # for one more, were there room
        assert sorted(file.stem for file in tmp_path.rglob("*.parquet")) == ["000000", "000001", "000002"]
        local.done(0)
        local.path(3)
        assert local.held_bytes == 3 * size


def test_local_files_are_read_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"here")
    with local_files(str(tmp_path), [FileSpec(name="part", rows=1)], Staging(cache_bytes=1)) as local:
        assert local.path(0) == f"{tmp_path}/part"
        local.done(0)
    assert (tmp_path / "part").read_bytes() == b"here"


class FailsFirst:
    """Opens files that fail in their middle so many times, then the files."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left, self.error, self.opened = times, error, 0

    def __call__(self, path: str, own: Callable[[], Any]) -> Any:
        self.opened += 1
        if self.left == 0:
            return own()
        self.left -= 1
        return _Broken(self.error)


class _Broken(io.BytesIO):
    def __init__(self, error: Exception) -> None:
        super().__init__(b"half of it")
        self.error = error

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        if not content:
            raise self.error
        return content


@pytest.mark.parametrize("times", [1, 4])
def test_an_interrupted_fetch_is_begun_again(tmp_path: Path, times: int) -> None:
    store, failing = Store([50]), FailsFirst(times, ConnectionResetError("reset by peer"))
    with opening(failing), local_files(store.folder, store.files, at_once(tmp_path, attempts=5)) as local:
        assert Path(local.path(0)).read_bytes() == store.contents[0]
    assert failing.opened == times + 1


def test_a_store_that_goes_on_failing_is_an_error_that_names_file_and_store(tmp_path: Path) -> None:
    store, failing = Store([50]), FailsFirst(99, ConnectionResetError("reset by peer"))
    expected = (
        f"{store.folder}/part-00000.parquet: not fetched in 3 attempts (MemoryFileSystem: reset by peer); "
        "check the store, or run build_samples again where the file is damaged there"
    )
    with opening(failing), local_files(store.folder, store.files, at_once(tmp_path, attempts=3)) as local:
        with pytest.raises(UserError) as raised:
            local.path(0)
        assert str(raised.value) == expected
        assert failing.opened == 3
    assert list(tmp_path.iterdir()) == []


def test_the_waits_between_the_attempts_double(tmp_path: Path) -> None:
    store, failing = Store([5]), FailsFirst(3, OSError("busy"))
    staging = Staging(folder=str(tmp_path), backoff_s=0.02, attempts=4)
    started = time.monotonic()
    with opening(failing), local_files(store.folder, store.files, staging) as local:
        local.path(0)
    assert time.monotonic() - started >= 0.02 + 0.04 + 0.08


@pytest.mark.parametrize(
    ("error", "said"), [(PermissionError("denied"), "denied"), (FileNotFoundError("gone"), "gone")]
)
def test_what_no_second_attempt_mends_is_tried_once(tmp_path: Path, error: Exception, said: str) -> None:
    store, failing = Store([50]), FailsFirst(99, error)
    with opening(failing), local_files(store.folder, store.files, at_once(tmp_path)) as local:
        with pytest.raises(UserError, match=rf"part-00000.parquet: not fetched in 1 attempt \(.*{error}"):
            local.path(0)
        assert failing.opened == 1


def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    store, failing = Store([50]), FailsFirst(99, OSError(errno.ENOSPC, "No space left on device"))
    with (
        opening(failing),
        local_files(store.folder, store.files, at_once(tmp_path)) as local,
        pytest.raises(UserError, match=rf"{tmp_path}.*: the disk is full; lower train.staging.cache_bytes"),
    ):
        local.path(0)


def _flipped(content: bytes) -> bytes:
    """The content with one bit of its values changed: a Parquet file still, with the same rows."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "short": lambda content: content[:-9],
    "long": lambda content: content + b"more",
    "without a footer": lambda content: content[:-4] + b"LOST",
    "of other rows": lambda content: parquet(49, seed=0).ljust(len(content), b"\0"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_fetch_that_comes_damaged_is_repeated(tmp_path: Path, damage: str) -> None:
    store = Store([50])
    contents = [DAMAGES[damage](store.contents[0]), store.contents[0]]
    with (
        opening(lambda path, own: io.BytesIO(contents.pop(0))),
        local_files(store.folder, store.files, at_once(tmp_path)) as local,
    ):
        assert Path(local.path(0)).read_bytes() == store.contents[0]
    assert contents == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [("short", "{less:,} bytes came, expected {size:,}"), ("long", "more than {size:,} bytes came, expected {size:,}")],
)
def test_a_file_that_always_comes_in_another_size_is_an_error(tmp_path: Path, damage: str, said: str) -> None:
    store = Store([50])
    size = len(store.contents[0])
    expected = said.format(size=size, less=size - 9)
    with (
        opening(lambda path, own: io.BytesIO(DAMAGES[damage](store.contents[0]))),
        local_files(store.folder, store.files, at_once(tmp_path, attempts=2)) as local,
        pytest.raises(UserError, match=rf"not fetched in 2 attempts \(MemoryFileSystem: {expected}\)"),
    ):
        local.path(0)


def test_the_checksum_tells_a_changed_bit(tmp_path: Path) -> None:
    store = Store([50])
    store.put(store.files[0], _flipped(store.contents[0]))
    with local_files(store.folder, store.files, at_once(tmp_path)) as local:
        assert Path(local.path(0)).read_bytes() != store.contents[0]
    with (
        local_files(store.folder, store.summed, at_once(tmp_path)) as local,
        pytest.raises(UserError, match=r"not fetched in 5 attempts \(.*SHA-256 .*…, the manifest says "),
    ):
        local.path(0)
    store.put(store.files[0], store.contents[0])
    with local_files(store.folder, store.summed, at_once(tmp_path)) as local:
        assert Path(local.path(0)).read_bytes() == store.contents[0]


def test_other_rows_than_the_manifest_says_are_an_error(tmp_path: Path) -> None:
    store = Store([50])
    with (
        local_files(store.folder, [FileSpec(name=store.files[0].name, rows=51)], at_once(tmp_path)) as local,
        pytest.raises(UserError, match="50 rows, the manifest says 51"),
    ):
        local.path(0)


def test_a_bound_below_one_file_is_an_error_before_anything_is_fetched(tmp_path: Path) -> None:
    store = Store([10, 900])
    size = len(store.contents[1])
    with (
        pytest.raises(
            UserError, match=rf"^train.staging.cache_bytes: {size - 1:,}, but .*part-00001.parquet.* {size:,} bytes"
        ),
        local_files(store.folder, store.files, at_once(tmp_path, size - 1)),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_the_store_lacks_is_an_error_before_anything_is_fetched(tmp_path: Path) -> None:
    store = Store([10])
    wanted = [*store.files, FileSpec(name="part-00042.parquet", rows=3)]
    with (
        pytest.raises(UserError, match=r"part-00042.parquet: not in the store; run build_samples again"),
        local_files(store.folder, wanted, at_once(tmp_path)),
    ):
        pass


def test_a_folder_that_the_store_lacks_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"^memory://nowhere/train: can't be listed"),
        local_files("memory://nowhere/train", [FileSpec(name="part", rows=3)], at_once(tmp_path)),
    ):
        pass


def test_closing_early_ends_the_threads_and_removes_the_copies(tmp_path: Path) -> None:
    store, before = Store([100] * 20), set(threading.enumerate())
    size = len(store.contents[0])
    local = StagedFiles(store.folder, store.files, at_once(tmp_path, 2 * size))
    local.path(0)
    assert len(set(threading.enumerate()) - before) == 2
    local.close()
    assert set(threading.enumerate()) - before == set()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Closed):
        local.path(19)
    local.close()


def test_closing_does_not_wait_for_the_next_attempt(tmp_path: Path) -> None:
    store, before = Store([5]), set(threading.enumerate())
    staging = Staging(folder=str(tmp_path), backoff_s=600)
    with opening(FailsFirst(99, OSError("busy"))):
        local = StagedFiles(store.folder, store.files, staging)
        started = time.monotonic()
        local.close()
    assert time.monotonic() - started < 4
    assert set(threading.enumerate()) - before == set()


def test_closing_leaves_a_fetch_behind_that_hangs_in_the_store(tmp_path: Path) -> None:
    store, hung, go_on = Store([5]), threading.Event(), threading.Event()

    def hanging(path: str, own: Callable[[], Any]) -> Any:
        hung.set()
        go_on.wait(60)
        return own()

    with opening(hanging), mock.patch("dssm.stream.staging.CLOSE_S", 0.05):
        local = StagedFiles(store.folder, store.files, at_once(tmp_path))
        assert hung.wait(10)
        local.close()
        assert list(tmp_path.iterdir()) == []
        go_on.set()
        for thread in threading.enumerate():
            if thread.name.startswith("staging-"):
                thread.join(10)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_waits_is_let_go_at_the_close(tmp_path: Path) -> None:
    store, go_on, raised = Store([5]), threading.Event(), []

    def wait() -> None:
        try:
            local.path(0)
        except Closed as error:
            raised.append(error)

    with opening(lambda path, own: (go_on.wait(60), own())[1]), mock.patch("dssm.stream.staging.CLOSE_S", 0.05):
        local = StagedFiles(store.folder, store.files, at_once(tmp_path))
        thread = threading.Thread(target=wait)
        thread.start()
        local.close()
        thread.join(10)
        go_on.set()
    assert len(raised) == 1


def test_copies_of_a_killed_process_are_removed_and_those_of_a_live_one_stay(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    folders = {pid: tmp_path / f"dssm-staging-{socket.gethostname()}-{pid}-abc" for pid in (ended.pid, os.getpid())}
    elsewhere = tmp_path / f"dssm-staging-another-host-{ended.pid}-abc"
    for folder in (*folders.values(), elsewhere):
        folder.mkdir()
        (folder / "000000.parquet").write_bytes(b"copy")
    store = Store([5])
    with local_files(store.folder, store.files, at_once(tmp_path)):
        assert not folders[ended.pid].exists()
        assert folders[os.getpid()].exists()
        assert elsewhere.exists()
