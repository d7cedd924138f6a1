"""What a last pass over the newest rows needs: how many rows each file has, and how often each item is drawn there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from dssm.manifest import EVENT_TIME, ITEM_KEY, ITEM_PROBABILITY, LABEL, WEIGHT, ColumnSpec, Manifest
from dssm.stream.batches import Batch
from dssm.stream.reader import read_files

COLUMNS = {
    EVENT_TIME: ColumnSpec(dtype="int64"),
    ITEM_KEY: ColumnSpec(dtype="int64"),
    LABEL: ColumnSpec(dtype="float32"),
    WEIGHT: ColumnSpec(dtype="float32"),
}


@dataclass(frozen=True)
class RecentRows:
    """The rows of one pass.

    The share of an item among all training rows is not its chance to be drawn in such a pass: with it, logQ would
    push down what has become popular, which the pass is there to learn.

    Attributes:
      since: Unix ms of the first event.
      files: rows of each file.
      keys: (items,) ascending; share: (items,), that each has among the rows that candidates come from.
    """

    since: int
    files: list[int]
    keys: np.ndarray
    share: np.ndarray

    def share_of(self, items: np.ndarray) -> np.ndarray:
        """Returns each item's share, 0 where it has none. Args: (rows,) int64 keys. Returns: (rows,) float32."""
        if not len(self.keys):
            return np.zeros(len(items), np.float32)
        place = np.minimum(np.searchsorted(self.keys, items), len(self.keys) - 1)
        return np.where(self.keys[place] == items, self.share[place], 0).astype(np.float32)


def recent_rows(folder: str, manifest: Manifest, since: int, all_rows: bool) -> RecentRows:
    """Counts the rows whose event is at `since` (Unix ms) or later.

    Args:
      all_rows: whether candidates come from all rows of a weight, or from positives only.
    """
    filled = [number for number, file in enumerate(manifest.files) if file.rows]
    files, counts = [0] * len(manifest.files), dict[int, int]()
    for number, rows in zip(
        filled, read_files(folder, [manifest.files[number] for number in filled], COLUMNS), strict=True
    ):
        recent = rows[EVENT_TIME] >= since
        files[number] = int(recent.sum())
        drawn = recent & (rows[WEIGHT] > 0) & (all_rows | (rows[LABEL] > 0))
        for key, count in zip(*np.unique(rows[ITEM_KEY][drawn], return_counts=True), strict=True):
            counts[int(key)] = counts.get(int(key), 0) + int(count)
    keys = np.array(sorted(counts), np.int64)
    number_of = np.array([counts[int(key)] for key in keys], np.float64)
    return RecentRows(since, files, keys, number_of / max(number_of.sum(), 1))


def with_share(rows: Batch, recent: RecentRows) -> Batch:
    """Gives rows, which have ITEM_KEY or are none at all, the items' share of the recent rows."""
    if not rows:
        return rows
    return {**rows, ITEM_PROBABILITY: tf.constant(recent.share_of(rows[ITEM_KEY].numpy()))}
