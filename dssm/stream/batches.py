"""Batches of equal size from the files of an epoch plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from dssm.manifest import EVENT_TIME, WEIGHT, ColumnSpec, Manifest
from dssm.stream.plan import EpochPlan
from dssm.stream.reader import Columns, read_files

Batch = dict[str, tf.Tensor]  # what a step takes: each (batch, *column shape)


def batches(
    files: Iterator[Columns], columns: Mapping[str, ColumnSpec], batch_size: int, steps: int
) -> Iterator[Columns]:
    """Cuts files into batches of exactly `batch_size` rows, and pads to `steps` batches.

    Rows beyond the data are zeros: weight 0, padding ids.

    Args:
      files: arrays of shape (rows, *column shape).
      columns: the columns, `weight` among them.
      batch_size: rows of a batch.
      steps: number of batches; at least as many as the rows fill.
    Yields: arrays of shape (batch_size, *column shape).
    """
    held: list[Columns] = []
    count = made = 0
    for arrays in files:
        held.append(arrays)
        count += len(arrays[WEIGHT])
        if count < batch_size:
            continue
        joined = _concatenate(held)
        whole = count - count % batch_size
        for start in range(0, whole, batch_size):
            yield {name: array[start : start + batch_size] for name, array in joined.items()}
            made += 1
        held, count = [{name: array[whole:] for name, array in joined.items()}], count - whole
    if count:
        yield {name: _padded(array, batch_size) for name, array in _concatenate(held).items()}
        made += 1
    for _ in range(made, steps):
        yield {name: np.zeros((batch_size, *spec.shape), spec.dtype) for name, spec in columns.items()}


def _concatenate(parts: list[Columns]) -> Columns:
    return parts[0] if len(parts) == 1 else {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _padded(array: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([array, np.zeros((rows - len(array), *array.shape[1:]), array.dtype)])


@dataclass(frozen=True)
class Span:
    """Events of a time. Attributes: since, until: Unix ms, the latter not included; None: no limit."""

    since: int | None = None
    until: int | None = None

    @property
    def is_all(self) -> bool:
        return self.since is None and self.until is None

    def holds(self, times: np.ndarray) -> np.ndarray:
        """Args: times (rows,) int64. Returns: (rows,) bool."""
        held = np.ones(len(times), bool)
        if self.since is not None:
            held &= times >= self.since
        if self.until is not None:
            held &= times < self.until
        return held


ALL_ROWS = Span()


@dataclass(frozen=True)
class Reading:
    """What of a dataset the ranks read, and in which order.

    Attributes:
      plan: which rank reads which files.
      order: (seed, epoch) that order the rows within each file; None keeps the file's order.
      span: rows of other events are left out; the plan is of what is left. Unless it is all, EVENT_TIME must be read.
      done: rows of each file, in that order, that an earlier leg of the epoch has seen; the plan is of the others.
      steps_done: steps of this plan that were taken before; its first batches are left out.
    """

    plan: EpochPlan
    order: tuple[int, int] | None = None
    span: Span = ALL_ROWS
    done: Sequence[int] | None = None
    steps_done: int = 0


def rank_batches(
    folder: str,
    manifest: Manifest,
    columns: Mapping[str, ColumnSpec],
    reading: Reading,
    rank: int,
    batch_size: int,
    threads: int = 2,
) -> Iterator[Columns]:
    """Reads one rank's part of an epoch.

    Args:
      folder: the dataset.
      manifest: its manifest.
      columns: what to read; `weight` must be among them.
      reading: what of it.
      rank: whose part.
      batch_size: as in the plan.
      threads: Petastorm's reader threads.
    Yields: `plan.steps` − `steps_done` batches.
    """

    def rows() -> Iterator[Columns]:
        skipped = reading.steps_done * batch_size
        numbers = list(reading.plan.files[rank])
        while numbers and skipped >= (held := reading.plan.file_rows[numbers[0]]):
            skipped -= held
            del numbers[0]
        files = read_files(folder, [manifest.files[number] for number in numbers], columns, threads)
        for number, arrays in zip(numbers, files, strict=True):
            kept = np.arange(len(arrays[WEIGHT]))
            if not reading.span.is_all:
                kept = kept[reading.span.holds(arrays[EVENT_TIME])]
            if reading.order is not None:
                kept = kept[np.random.default_rng([*reading.order, number]).permutation(len(kept))]
            kept = kept[(reading.done[number] if reading.done else 0) + skipped :]
            skipped = 0
            whole = reading.order is None and len(kept) == len(arrays[WEIGHT])
            yield arrays if whole else {name: array[kept] for name, array in arrays.items()}

    return batches(rows(), columns, batch_size, reading.plan.steps - reading.steps_done)


def as_dataset(
    make: Iterator[Columns], columns: Mapping[str, ColumnSpec], batch_size: int, prefetch: int
) -> tf.data.Dataset:
    """Returns batches as a tf.data.Dataset whose reading overlaps the steps. It can be iterated once.

    Elements: dict of tensors of shape (batch_size, *column shape).
    """
    signature = {
        name: tf.TensorSpec((batch_size, *spec.shape), tf.as_dtype(spec.dtype)) for name, spec in columns.items()
    }
    return tf.data.Dataset.from_generator(lambda: make, output_signature=signature).prefetch(prefetch)
