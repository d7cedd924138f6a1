"""Batches of equal size from the files of an epoch plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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


def rank_batches(
    folder: str,
    manifest: Manifest,
    columns: Mapping[str, ColumnSpec],
    plan: EpochPlan,
    rank: int,
    batch_size: int,
    shuffle: tuple[int, int] | None,
    threads: int = 2,
    since: int | None = None,
) -> Iterator[Columns]:
    """Reads one rank's part of an epoch.

    Args:
      folder: the dataset.
      manifest: its manifest.
      columns: what to read; `weight` must be among them.
      plan: of the epoch.
      rank: whose part.
      batch_size: as in the plan.
      shuffle: (seed, epoch) that order the rows within each file; None keeps the file's order.
      threads: Petastorm's reader threads.
      since: Unix ms; rows of earlier events are left out, and `plan` is of what is left. EVENT_TIME must be read.
    Yields: `plan.steps` batches.
    """

    def shuffled() -> Iterator[Columns]:
        numbers = plan.files[rank]
        files = read_files(folder, [manifest.files[number] for number in numbers], columns, threads)
        for number, arrays in zip(numbers, files, strict=True):
            if since is not None:
                arrays = {name: array[arrays[EVENT_TIME] >= since] for name, array in arrays.items()}
            if shuffle is None:
                yield arrays
                continue
            order = np.random.default_rng([*shuffle, number]).permutation(len(arrays[WEIGHT]))
            yield {name: array[order] for name, array in arrays.items()}

    return batches(shuffled(), columns, batch_size, plan.steps)


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
