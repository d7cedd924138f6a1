"""Petastorm: sample files to NumPy columns, a file at a time, with no per-row Python."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from petastorm import make_batch_reader
from petastorm.reader import Reader

from dssm import storage
from dssm.manifest import ColumnSpec, FileSpec

Columns = dict[str, np.ndarray]


def read_files(
    folder: str, files: Sequence[FileSpec], columns: Mapping[str, ColumnSpec], threads: int = 2
) -> Iterator[Columns]:
    """Reads files in their order.

    Args:
      folder: the dataset.
      files: the files, of one row group and at least one row each.
      columns: the columns to read, all scalar or packed.
      threads: Petastorm's reader threads.
    Yields: for each file, arrays of shape (rows, *column shape).
    Raises: ValueError where a file does not hold the rows that its manifest says.
    """
    if not files:
        return
    with warnings.catch_warnings():
        # Petastorm stands on the legacy Parquet dataset API, which PyArrow 14 still has and warns of.
        warnings.simplefilter("ignore", FutureWarning)
        reader = make_batch_reader(
            [storage.url(f"{folder}/{file.name}") for file in files],
            schema_fields=list(columns),
            reader_pool_type="thread",
            workers_count=threads,
            results_queue_size=2 * threads,
            shuffle_row_groups=False,
            num_epochs=1,
            convert_early_to_numpy=True,
        )
        try:
            _hand_out_all(reader, len(files))
            for file, group in zip(files, reader, strict=True):
                arrays = {name: _decode(getattr(group, name), spec) for name, spec in columns.items()}
                rows = len(next(iter(arrays.values())))
                if rows != file.rows:
                    raise ValueError(f"{folder}/{file.name}: {rows} rows, the manifest says {file.rows}")
                yield arrays
        finally:  # not the reader's own context manager: that prints to the terminal
            reader.stop()
            reader.join()


def _hand_out_all(reader: Reader, files: int) -> None:
    """Gives Petastorm's threads all their files before the first is read: then results come in the list's order.

    Petastorm 0.13 hands files out a few at a time, and takes a thread that waits for its next one for
    finished: a consumer faster than the reading gets files in another order, or not at all.
    """
    reader.ventilator._max_ventilation_queue_size = files
    while not reader.ventilator.completed():
        time.sleep(0.001)


def _decode(values: np.ndarray, spec: ColumnSpec) -> np.ndarray:
    """Returns a column as (rows, *shape): packed binaries are joined and viewed, not parsed."""
    if spec.encoding == "packed":
        return np.frombuffer(b"".join(values), dtype=spec.numpy_dtype).reshape(len(values), *spec.shape)
    return np.asarray(values, dtype=spec.dtype)
