"""How often each item is drawn in a pass, where the samples' own column does not say it.

`ITEM_PROBABILITY` beside each sample is the item's share of all training rows that are positives. Where rows without
a positive label are candidates too, and in a last pass over the newest rows, items are drawn in other shares. With
the first, logQ would there push down what has become popular, which that pass is there to learn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from dssm.manifest import (
    EVENT_TIME,
    ITEM_KEY,
    ITEM_PROBABILITY,
    ITEM_ROWS,
    LABEL,
    WEIGHT,
    ColumnSpec,
    Manifest,
    check_columns,
)
from dssm.sections import Staging
from dssm.stream.batches import Batch, Span
from dssm.stream.reader import Columns, read_files

ITEM_ROW_PROBABILITY = "step__item_row_probability"  # as ITEM_PROBABILITY, among rows of any label
KEY = ColumnSpec(dtype="int64")
NUMBER = ColumnSpec(dtype="float32")
TIMES = {EVENT_TIME: KEY, ITEM_KEY: KEY, LABEL: NUMBER, WEIGHT: NUMBER}


@dataclass(frozen=True)
class ItemShares:
    """Attributes: keys: (items,) int64, ascending; share: (items,), sums to 1."""

    keys: np.ndarray
    share: np.ndarray

    @classmethod
    def of_counts(cls, keys: np.ndarray, counts: np.ndarray) -> ItemShares:
        """Args: keys: (n,) int64, in any order and repeated; counts: (n,)."""
        unique, place = np.unique(keys, return_inverse=True)
        added = np.bincount(place, weights=counts, minlength=len(unique))
        return cls(unique, added / max(added.sum(), 1.0))

    def of(self, items: np.ndarray) -> np.ndarray:
        """Returns each item's share, 0 where it has none. Args: (rows,) int64 keys. Returns: (rows,) float32."""
        if not len(self.keys):
            return np.zeros(len(items), np.float32)
        place = np.minimum(np.searchsorted(self.keys, items), len(self.keys) - 1)
        return np.where(self.keys[place] == items, self.share[place], 0).astype(np.float32)


Shares = Mapping[str, ItemShares]  # by the column of a batch that they go over


def with_shares(rows: Batch, shares: Shares) -> Batch:
    """Gives rows, which have ITEM_KEY or are none at all, the columns of the shares."""
    if not rows or not shares:
        return rows
    items = rows[ITEM_KEY].numpy()
    return {**rows, **{name: tf.constant(share.of(items)) for name, share in shares.items()}}


def catalogue_shares(folder: str, manifest: Manifest, staging: Staging | None = None) -> ItemShares:
    """Reads each item's share of the training rows of any label from the encoded catalogue."""
    columns = {ITEM_KEY: KEY, ITEM_ROWS: KEY}
    check_columns(manifest, columns, folder)
    parts = [part for _, part in _read(folder, manifest, columns, staging)]
    keys, counts = (np.concatenate([*(part[name] for part in parts), np.zeros(0, np.int64)]) for name in columns)
    return ItemShares.of_counts(keys, counts)


@dataclass(frozen=True)
class RowsWithin:
    """The rows of a span.

    Attributes:
      files: rows of each file.
      shares: of the items, among these rows.
    """

    files: list[int]
    shares: Shares


def rows_within(folder: str, manifest: Manifest, span: Span, staging: Staging | None = None) -> RowsWithin:
    """Counts the rows whose event is in the span."""
    files = [0] * len(manifest.files)
    counted: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {ITEM_PROBABILITY: [], ITEM_ROW_PROBABILITY: []}
    for number, rows in _read(folder, manifest, TIMES, staging):
        within = span.holds(rows[EVENT_TIME])
        files[number] = int(within.sum())
        drawn = within & (rows[WEIGHT] > 0)
        counted[ITEM_ROW_PROBABILITY].append(np.unique(rows[ITEM_KEY][drawn], return_counts=True))
        positives = rows[ITEM_KEY][drawn & (rows[LABEL] > 0)]
        counted[ITEM_PROBABILITY].append(np.unique(positives, return_counts=True))
    shares = {}
    for name, parts in counted.items():
        keys, counts = (np.concatenate([*of_files, np.zeros(0, np.int64)]) for of_files in zip(*parts, strict=True))
        shares[name] = ItemShares.of_counts(keys, counts)
    return RowsWithin(files, shares)


def _read(
    folder: str, manifest: Manifest, columns: Mapping[str, ColumnSpec], staging: Staging | None
) -> Iterator[tuple[int, Columns]]:
    """Yields the number and the columns of each file with rows."""
    filled = [number for number, file in enumerate(manifest.files) if file.rows]
    files = read_files(folder, [manifest.files[number] for number in filled], columns, staging=staging)
    yield from zip(filled, files, strict=True)
