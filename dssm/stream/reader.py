"""Sample files to NumPy columns, a file at a time, by the threads of Petastorm's worker pool.

The pool is Petastorm's, the worker is this project's. Petastorm's own Reader opens the footer of every file before
the first row comes (a request each on a remote store), copies each table once, and
makes a Python object of every packed value. Packed columns need none of it: they are views of what PyArrow reads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from petastorm.workers_pool import EmptyResultError
from petastorm.workers_pool.thread_pool import ThreadPool
from petastorm.workers_pool.worker_base import WorkerBase

from dssm.errors import UserError
from dssm.manifest import ColumnSpec, FileSpec
from dssm.packing import unpack
from dssm.sections import Staging
from dssm.stream.staging import Closed, Files, local_files

Columns = dict[str, np.ndarray]
Prepare = Callable[[int, Columns], Columns]


def read_files(
    folder: str,
    files: Sequence[FileSpec],
    columns: Mapping[str, ColumnSpec],
    threads: int = 2,
    *,
    prepare: Prepare | None = None,
    queue_rows: int | None = None,
    staging: Staging | None = None,
) -> Iterator[Columns]:
    """Reads files in their order.

    Closing the iterator ends its threads and removes what it staged.

    Args:
      folder: the dataset, on any store that fsspec reads.
      files: the files, of at least one row each.
      columns: the columns to read, all scalar or packed.
      threads: Petastorm's reader threads.
      prepare: called in those threads with a file's place in `files` and its arrays; what it returns is yielded.
      queue_rows: bound of the rows held at any moment: being read, waiting, and last yielded. A larger file is
        read alone. Default: `threads` + 2 of the largest file.
      staging: how files of a remote store come to local disk.
    Yields: for each file, arrays of shape (rows, *column shape), some of them read-only.
    Raises: UserError where a file can't be read, or does not hold the rows that its manifest says.
    """
    if not files:
        return
    workers = min(threads, len(files))
    rows = [file.rows for file in files]
    queue = _RowQueue(rows, (workers + 2) * max(rows) if queue_rows is None else queue_rows)
    with local_files(folder, files, staging or Staging()) as local:
        # The rows bound what the pool holds; its own bound, which it asks for a thousand times a second, never does.
        pool = ThreadPool(workers, results_queue_size=2 * (len(files) + workers))
        pool.start(_FileWorker, _Job(folder, files, columns, local, queue, prepare))
        try:
            # All are handed out before the first is asked for: only then do Petastorm's results keep their order.
            for place in range(len(files)):
                pool.ventilate(place)
            for place in range(len(files)):
                yield _next(pool)
                queue.release(place)
        finally:
            queue.close()
            local.close()
            pool.stop()
            pool.join()


def _next(pool: ThreadPool) -> Columns:
    try:
        result = pool.get_results()
    except EmptyResultError as error:  # a `for` would take it for the end of the files
        raise RuntimeError("the reader's threads ended before their files") from error
    if isinstance(result, _Failure):
        raise result.error
    return result


class _RowQueue:
    """Lets files in, in their order, while their rows fit under a bound. Always one, whatever its rows."""

    def __init__(self, rows: Sequence[int], bound: int) -> None:
        self._rows, self._bound = rows, bound
        self._changed = threading.Condition()
        self._next = self._held = self._files = 0
        self._closed = False

    def admit(self, place: int) -> None:
        """Waits for the file's turn and for room. Raises: Closed."""

        def ready() -> bool:
            fits = self._files == 0 or self._held + self._rows[place] <= self._bound
            return self._closed or (self._next == place and fits)

        with self._changed:
            self._changed.wait_for(ready)
            if self._closed:
                raise Closed
            self._next += 1
            self._files += 1
            self._held += self._rows[place]
            self._changed.notify_all()

    def release(self, place: int) -> None:
        with self._changed:
            self._files -= 1
            self._held -= self._rows[place]
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@dataclass(frozen=True)
class _Job:
    """What the threads of one reading share."""

    folder: str
    files: Sequence[FileSpec]
    columns: Mapping[str, ColumnSpec]
    local: Files
    queue: _RowQueue
    prepare: Prepare | None

    def read(self, place: int) -> Columns:
        self.queue.admit(place)
        path, file = self.local.path(place), self.files[place]
        try:
            arrays = _read_file(path, self.columns, file.rows)
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            reason = error.args[0] if isinstance(error, KeyError) else error
            raise UserError(f"{self.folder}/{file.name}: {reason}; run build_samples again") from error
        self.local.done(place)
        return arrays if self.prepare is None else self.prepare(place, arrays)


@dataclass(frozen=True)
class _Failure:
    """A worker's error on its way to the reader: Petastorm would print it, and wait for workers that wait for it."""

    error: Exception


class _FileWorker(WorkerBase):
    """Reads whole files. Its `args` are the job."""

    def process(self, place: int) -> None:
        result: Columns | _Failure
        try:
            result = self.args.read(place)
        except Exception as error:
            result = _Failure(error)
        self.publish_func(result)


def _read_file(path: str, columns: Mapping[str, ColumnSpec], rows: int) -> Columns:
    """Returns a file's columns, each (rows, *column shape): packed ones as views of what PyArrow has read."""
    with pq.ParquetFile(path) as source:
        table = source.read(list(columns), use_threads=False)  # files, not columns, are read side by side
    if table.num_rows != rows:
        raise ValueError(f"{table.num_rows} rows, the manifest says {rows}")
    return {name: unpack(_joined(table.column(name)), spec) for name, spec in columns.items()}


def _joined(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
