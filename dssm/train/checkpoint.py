"""The state of a training on disk: weights, optimizer, what the losses learn, and the place in the epochs.

A checkpoint is a folder of NumPy archives, with a manifest that holds their digests and is written last, under a
temporary name until it is whole. `latest` passes over a damaged one for the one before it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from dssm import storage
from dssm.config import Settings
from dssm.errors import UserError
from dssm.manifest import MANIFEST, SCHEMA_VERSION
from dssm.model.shards import Shard, resliced
from dssm.train.place import Place

Arrays = dict[str, np.ndarray]

FILES_LIMIT_S = 600  # rank 0's wait for the other ranks' files of a sharded model
_HOW_IT_RUNS = {  # what may differ between a training and its resumption
    "launch", "ranks", "hosts", "interfaces", "elastic", "batch_size", "reader_threads", "reader_queue_rows",
    "staging", "prefetch", "threads", "start_timeout_s", "stall_shutdown_s", "pause_limit_s", "checkpoint", "resume",
    "profile",
}  # fmt: skip


class CheckpointFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bytes: int
    sha256: str


class CheckpointManifest(BaseModel):
    """Attributes: settings: digest of those that make the training what it is; place: the next step to take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    settings: str
    samples_build: str
    ranks: int
    iterations: int = Field(0, description="Steps of the optimizer, which a warm start counts on.")
    place: Place
    tables: dict[str, int] = Field(
        default_factory=dict, description="Rows of the tables of which each file holds a shard, see dssm.model.shards."
    )
    files: list[CheckpointFile]


def training_digest(settings: Settings) -> str:
    """Returns a digest of all settings that change what a training computes; the number of ranks is none of them."""
    sections = dict.fromkeys(("date", "seed", "features", "vectors", "model", "train"), True)
    chosen = settings.model_dump(mode="json", include={**sections, "samples": {"negatives": True}})
    chosen["train"] = {name: value for name, value in chosen["train"].items() if name not in _HOW_IT_RUNS}
    return storage.digest(json.dumps(chosen, sort_keys=True))


def file_name(rank: int, ranks: int) -> str:
    return f"rank-{rank}-of-{ranks}.npz"


def write_checkpoint(
    folder: str, arrays: Arrays, manifest: CheckpointManifest, rank: int = 0, limit_s: float = FILES_LIMIT_S
) -> None:
    """Writes one rank's part of a checkpoint, whose manifest names as many files as there are writing ranks.

    Rank 0 waits for the others' files, writes the manifest and renames the folder. The names of the manifest's files
    are taken; their sizes and digests are found here.

    Raises: UserError on rank 0, where a file is not there in time.
    """
    parent, name = folder.rsplit("/", 1)
    temporary = f"{parent}/.{name}.tmp"
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch, manifest.files[rank].name)
        np.savez(local, **arrays)
        made = CheckpointFile(name=local.name, bytes=local.stat().st_size, sha256=_sha256(local))
        storage.put_file(str(local), f"{temporary}/{made.name}")
    storage.write_text(f"{temporary}/{made.name}.json", made.model_dump_json())
    if rank:
        return
    files = [_file_when_there(f"{temporary}/{file.name}", limit_s) for file in manifest.files]
    storage.write_text(f"{temporary}/{MANIFEST}", manifest.model_copy(update={"files": files}).model_dump_json())
    aside = f"{parent}/.{name}.old.tmp"
    storage.remove(aside)
    if storage.exists(folder):
        storage.rename(folder, aside)
    storage.rename(temporary, folder)
    storage.remove(aside)


def _file_when_there(path: str, limit_s: float) -> CheckpointFile:
    until, told = time.monotonic() + limit_s, f"{path}.json"
    while not storage.exists(told):
        if time.monotonic() > until:
            raise UserError(
                f"{path}: not there after {limit_s:.0f} s; expected the part of a sharded model that another rank "
                "writes: name a root that all hosts share, and see that rank's output"
            )
        time.sleep(0.05)
    return CheckpointFile.model_validate_json(storage.read_text(told))


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@dataclass(frozen=True)
class OpenCheckpoint:
    """A checkpoint whose arrays are read one by one."""

    manifest: CheckpointManifest
    archives: Sequence[Mapping[str, np.ndarray]]

    @property
    def names(self) -> set[str]:
        return {name for archive in self.archives for name in archive}

    def parts(self, name: str) -> Iterator[np.ndarray]:
        """Yields what each file holds of a variable, in the order of the ranks that wrote them."""
        return (archive[name] for archive in self.archives if name in archive)

    def array(self, name: str) -> np.ndarray:
        """Returns a whole variable."""
        if name not in self.manifest.tables:
            return next(self.parts(name))
        return self.shard(name, Shard())

    def shard(self, name: str, shard: Shard) -> np.ndarray:
        """Returns a shard of a table, however the table was written."""
        if name not in self.manifest.tables:
            whole = next(self.parts(name))
            return resliced([whole], 1, len(whole), shard)
        return resliced(self.parts(name), len(self.archives), self.manifest.tables[name], shard)


@contextlib.contextmanager
def opened_checkpoint(folder: str, check: bool = True) -> Iterator[OpenCheckpoint]:
    """Yields a checkpoint to read from.

    Args: check: compare the files with the manifest first.
    Raises: DamagedCheckpointError where something is missing, or is not what was written.
    """
    manifest = manifest_of(folder)
    with storage.local_copy(folder) as local, contextlib.ExitStack() as stack:
        if check:
            _check(local, manifest)
        paths = [Path(local, file.name) for file in manifest.files]
        yield OpenCheckpoint(manifest, [stack.enter_context(np.load(path, allow_pickle=False)) for path in paths])


def read_checkpoint(folder: str) -> tuple[CheckpointManifest, Arrays]:
    """Reads a whole checkpoint: the manifest, and all variables. Raises: as `opened_checkpoint`."""
    with opened_checkpoint(folder) as opened:
        return opened.manifest, {name: opened.array(name) for name in sorted(opened.names)}


def checked_manifest(folder: str) -> CheckpointManifest:
    """Reads a checkpoint's manifest after its files were compared with it. Raises: as `opened_checkpoint`."""
    with opened_checkpoint(folder) as opened:
        return opened.manifest


def manifest_of(folder: str) -> CheckpointManifest:
    """Reads a checkpoint's manifest alone. Raises: DamagedCheckpointError where that can't be read."""
    try:
        return CheckpointManifest.model_validate_json(storage.read_text(f"{folder}/{MANIFEST}"))
    except (OSError, ValueError) as error:  # of pydantic's and of the decoder's errors too
        raise DamagedCheckpointError(f"{folder}/{MANIFEST} can't be read ({type(error).__name__})") from error


def _check(local: str, manifest: CheckpointManifest) -> None:
    for file in manifest.files:
        path = Path(local, file.name)
        if not path.exists():
            raise DamagedCheckpointError(f"{file.name} is missing")
        if path.stat().st_size != file.bytes or _sha256(path) != file.sha256:
            raise DamagedCheckpointError(f"{file.name} is not what was written: its size or SHA-256 is another")


class DamagedCheckpointError(Exception):
    """A checkpoint that can't be used; the message says why."""


class TakenOverError(Exception):
    """Another process has become the one that writes a training's checkpoints."""


def step_folder(folder: str, place: Place) -> str:
    """Returns a name of the place alone, in the order of the places: the end of a pass is no step of its own."""
    return f"{folder}/step-{place.steps:010d}-{place.epoch:06d}{'-best' if place.took_best else ''}"


def checkpoints_in(folder: str) -> list[str]:
    """Returns the checkpoints of a training, newest first."""
    return [f"{folder}/{name}" for name in reversed(storage.folder_names(folder)) if name.startswith("step-")]


def remove_unfinished(folder: str) -> None:
    """Removes what killed writers have left."""
    for name in storage.folder_names(folder):
        if name.startswith(".") and name.endswith(".tmp"):
            storage.remove(f"{folder}/{name}")


def latest(folder: str, samples_build: str, settings: str) -> tuple[str | None, dict[str, str]]:
    """Finds where to go on.

    Returns: the newest checkpoint that is whole, None where there is none to use; and the newer ones, each with why it
      is passed over.
    """
    passed = {}
    for found in checkpoints_in(folder):
        try:
            manifest = checked_manifest(found)
        except DamagedCheckpointError as error:
            passed[found] = f"is damaged and passed over: {error}"
            continue
        if manifest.samples_build != samples_build:
            passed[found] = f"belongs to other samples ({manifest.samples_build}, now {samples_build})"
        elif manifest.settings != settings:
            passed[found] = "belongs to a training with other settings"
        else:
            return found, passed
    return None, passed


@dataclass(frozen=True)
class _Copy:
    """What one rank writes of a checkpoint. Attributes: rank: of those that write; rank 0 commits and removes."""

    arrays: Arrays
    manifest: CheckpointManifest
    rank: int


class CheckpointWriter:
    """Writes checkpoints in a thread, one at a time, and keeps the newest.

    Nobody waits for a slow store: while one checkpoint is written the next is pending, and takes the place of an older
    one that is. So at most two copies are in memory, and a store that can't keep up gets the newest of them.

    Args:
      folder: of the training's checkpoints.
      keep: how many stay.
      limit_s: rank 0's wait for the others' files.
      alone: whether no other rank writes. A pending one is then begun as soon as the one before is written. Ranks that
        write together are done at different times: they `begin` it together, or some would have replaced it.
      check_owner: raises TakenOverError; rank 0's thread calls it before each.
    """

    def __init__(
        self,
        folder: str,
        keep: int,
        limit_s: float = FILES_LIMIT_S,
        alone: bool = True,
        check_owner: Callable[[], None] | None = None,
    ) -> None:
        self._folder, self._keep, self._limit_s, self._alone = folder, keep, limit_s, alone
        self._check_owner = check_owner
        self._taken_over: TakenOverError | None = None
        self._lock = threading.Lock()
        self._written: _Copy | None = None  # at the moment
        self._pending: _Copy | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_writing(self) -> bool:
        return self._written is not None

    @property
    def has_pending(self) -> bool:
        return self._pending is not None

    @property
    def unfinished(self) -> list[CheckpointManifest]:
        """Of what is not known to be whole: what is being written, and what is pending."""
        with self._lock:
            return [copy.manifest for copy in (self._written, self._pending) if copy is not None]

    def copy(self, arrays: Callable[[], Arrays], manifest: CheckpointManifest, rank: int = 0) -> None:
        """Copies the arrays now; they are pending until `begin`."""
        with self._lock:
            self._pending = None  # before the copy: three would be in memory
        copied = _Copy(arrays(), manifest, rank)
        with self._lock:
            self._pending = copied

    def forget(self) -> None:
        """Drops what is pending, and that another process had taken over."""
        with self._lock:
            self._pending = self._taken_over = None

    def begin(self) -> None:
        """Begins to write what is pending, unless another is being written.

        Raises: TakenOverError where the thread has found that.
        """
        if self._taken_over is not None:
            raise self._taken_over
        with self._lock:
            if self._written is None and self._pending is not None:
                self._written, self._pending = self._pending, None
                self._thread = threading.Thread(target=self._write_all, name="checkpoint", daemon=True)
                self._thread.start()

    def finish(self) -> None:
        """Waits until all is written, what is pending too."""
        self._join()
        self.begin()
        self._join()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _write_all(self) -> None:
        while (copy := self._written) is not None:
            self._write(copy)
            with self._lock:
                self._written = self._pending if self._alone else None
                if self._alone:
                    self._pending = None

    def _write(self, copy: _Copy) -> None:
        place = copy.manifest.place
        try:
            if copy.rank == 0 and self._check_owner is not None:
                self._check_owner()
            folder = step_folder(self._folder, place)
            write_checkpoint(folder, copy.arrays, copy.manifest, copy.rank, self._limit_s)
            if copy.rank == 0:
                for old in checkpoints_in(self._folder)[self._keep :]:
                    storage.remove(old)
        except TakenOverError as error:
            self._taken_over = error
        except Exception as error:  # a training does not end for a store that fails now and then
            print(f"train: no checkpoint at step {place.steps}: {error}", file=sys.stderr, flush=True)


def arrays_of(variables: Mapping[str, object]) -> Arrays:
    """Copies variables to NumPy."""
    return {name: np.array(variable) for name, variable in variables.items()}


def unique_names(names: Sequence[str]) -> list[str]:
    """Returns the names, with #2, #3, … behind those that were there before."""
    seen: dict[str, int] = {}
    made = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        made.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return made
