"""What TensorBoard draws of a training."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from dssm import storage
from dssm.model.towers import TwoTowers
from dssm.train.clock import OwnTime
from dssm.train.collectives import gather

Curves = Mapping[str, float | None]  # a number of each by its name; None or no finite one where it is not known
COPY_EVERY_S = 60


class Board:
    """TensorBoard's folder of a run, which rank 0 writes.

    TensorFlow itself writes to local disks: what a run in a store has is copied there, each minute and in the end.

    Args: folder: in the run; writes: whether this rank is the one.
    """

    def __init__(self, folder: str, writes: bool) -> None:
        self._folder, self._writes = folder, writes
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._writer = tf.summary.create_noop_writer()
        self._copied = time.monotonic()
        if writes and "://" in folder:
            self._scratch = tempfile.TemporaryDirectory(prefix="dssm-logs-")

    @property
    def local_folder(self) -> str:
        """Where this process writes: the folder, or what is copied there."""
        return self._scratch.name if self._scratch else self._folder

    def open(self, anew: bool) -> tf.summary.SummaryWriter:
        """Args: anew: whether what an earlier training left is removed: it would be drawn into the same curves."""
        if self._writes:
            if anew:
                storage.remove(self._folder)
            self._writer = tf.summary.create_file_writer(self.local_folder)
        return self._writer

    def copy_now_and_then(self) -> None:
        """Has what was drawn stand in the run's folder, if it is time."""
        if self._scratch and time.monotonic() - self._copied > COPY_EVERY_S:
            self.copy()

    def copy(self) -> None:
        """Has all that was drawn, and profiled, stand in the run's folder."""
        self._writer.flush()
        if self._scratch:
            local = Path(self._scratch.name)
            for file in (path for path in local.rglob("*") if path.is_file()):
                storage.put_file(str(file), f"{self._folder}/{file.relative_to(local).as_posix()}")
            self._copied = time.monotonic()


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
