"""What TensorBoard draws of a training."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from dssm import storage
from dssm.model.towers import TwoTowers
from dssm.train.clock import OwnTime
from dssm.train.collectives import gather

Curves = Mapping[str, float | None]  # a number of each by its name; None or no finite one where it is not known
COPY_EVERY_S, COPY_LIMIT_S = 60, 30


class Board:
    """TensorBoard's folder of a run, which rank 0 writes.

    TensorFlow itself writes to local disks: what a run in a store has is copied there by a thread each minute, and in
    the end. A store that fails ends no training: what it lacks is copied the next time.

    Args: folder: in the run.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._scratch = tempfile.TemporaryDirectory(prefix="dssm-logs-") if "://" in folder else None
        self._writer = tf.summary.create_noop_writer()
        self._writes = False
        self._sent: dict[Path, tuple[int, int]] = {}  # size and time of what the store has
        self._copying: threading.Thread | None = None
        self._copied = time.monotonic()

    @property
    def local_folder(self) -> str:
        """Where this process writes: the folder, or what is copied there."""
        return self._scratch.name if self._scratch else self._folder

    @contextlib.contextmanager
    def open(self, anew: bool, writes: bool) -> Iterator[None]:
        """Has `draw` draw here, and everything stand in the run's folder in the end, also after an error.

        Args:
          anew: whether what an earlier training left is removed: it would be drawn into the same curves.
          writes: whether this rank is the one; after a loss another may be.
        """
        self._writes = writes
        if writes and anew:
            storage.remove(self._folder)
            for file in self._files():
                file.unlink()
            self._sent.clear()
        self._writer = tf.summary.create_file_writer(self.local_folder) if writes else tf.summary.create_noop_writer()
        try:
            with self._writer.as_default():
                yield
        finally:
            self.copy()

    def copy_now_and_then(self) -> None:
        """Begins to copy what was drawn into the run's folder, if it is time."""
        if self._scratch and time.monotonic() - self._copied > COPY_EVERY_S:
            self._begin()

    def copy(self) -> None:
        """Copies what the run's folder does not have yet; a store that needs too long does not get the rest."""
        if not self._scratch:
            with self._told():
                self._writer.flush()
        elif self._writes:
            until = time.monotonic() + COPY_LIMIT_S
            for _ in range(2):  # what is being copied may have grown since
                self._begin()
                if self._copying is not None:
                    self._copying.join(max(0.0, until - time.monotonic()))
            if self._copying is not None and self._copying.is_alive():
                print(f"train: curves not all copied to {self._folder} in {COPY_LIMIT_S} s", file=sys.stderr)

    def _begin(self) -> None:
        self._copied = time.monotonic()
        if self._writes and (self._copying is None or not self._copying.is_alive()):
            self._copying = threading.Thread(target=self._copy, name="curves", daemon=True)
            self._copying.start()

    def _copy(self) -> None:
        with self._told():
            self._writer.flush()
        for file in self._files():
            with self._told():
                now = (file.stat().st_size, file.stat().st_mtime_ns)
                if self._sent.get(file) != now:
                    storage.put_file(str(file), f"{self._folder}/{file.relative_to(self.local_folder).as_posix()}")
                    self._sent[file] = now

    def _files(self) -> list[Path]:
        return [file for file in Path(self._scratch.name).rglob("*") if file.is_file()] if self._scratch else []

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever the store's file system raises: curves are worth no training
            print(f"train: curves not written to {self._folder} ({type(error).__name__}: {error})", file=sys.stderr)


def draw(values: Curves, step: int, prefix: str = "") -> None:
    """Writes a point of each curve whose number is known."""
    for name, value in values.items():
        if value is not None and np.isfinite(value):
            tf.summary.scalar(f"{prefix}{name}", value, step=step)


def speeds_of_ranks(own: OwnTime) -> dict[str, float]:
    """Gathers how fast each rank is. All ranks call it at the same step.

    Returns: by rank `samples_per_s/rank_K`, of rows with a weight, since the ranks were last asked; and
      `own_samples_per_s/rank_K`, of the time outside of the exchange: the lowest is of the rank that the others wait
      for. The latter is NaN where no rank waits for another, or the exchange is not timed.
    """
    speeds = {}
    of_ranks = gather(tf.constant([[own.rows, own.seconds, own.exchange_s]], tf.float64), "own_time").numpy()
    for rank, (rows, seconds, exchange_s) in enumerate(of_ranks):
        speeds[f"samples_per_s/rank_{rank}"] = rows / seconds
        own_s = seconds - exchange_s  # of two clocks
        speeds[f"own_samples_per_s/rank_{rank}"] = rows / own_s if own_s > 0 else float("nan")
    return speeds


def embedding_norms(towers: TwoTowers) -> dict[str, float]:
    """Returns the mean norm of each table's rows, of this rank's where they are spread over ranks."""
    norms = {name: tf.norm(table.embeddings, axis=1) for name, table in towers.tables.items()}
    return {f"embedding_norm/{name}": float(tf.reduce_mean(of_rows)) for name, of_rows in norms.items()}
