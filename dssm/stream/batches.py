"""Batches of equal size from the files of an epoch plan."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from dssm.manifest import EVENT_TIME, WEIGHT, ColumnSpec, Manifest
from dssm.sections import Staging
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
    rest: Columns = {}
    made = 0
    for arrays in files:
        count, start = len(arrays[WEIGHT]), 0
        held = len(rest[WEIGHT]) if rest else 0
        if held:
            start = min(batch_size - held, count)
            rest = _concatenate([rest, {name: array[:start] for name, array in arrays.items()}])
            if len(rest[WEIGHT]) < batch_size:
                continue
            yield rest
            made += 1
        end = start + (count - start) // batch_size * batch_size
        for first in range(start, end, batch_size):
            yield {name: array[first : first + batch_size] for name, array in arrays.items()}
            made += 1
        rest = {name: array[end:] for name, array in arrays.items()} if end < count else {}
    if rest:
        yield {name: _padded(array, batch_size) for name, array in rest.items()}
        made += 1
    for _ in range(made, steps):
        yield {name: np.zeros((batch_size, *spec.shape), spec.dtype) for name, spec in columns.items()}


def _concatenate(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


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
    queue_rows: int | None = None,
    staging: Staging | None = None,
) -> Iterator[Columns]:
    """Reads one rank's part of an epoch.

    Args:
      folder: the dataset.
      manifest: its manifest.
      columns: what to read; `weight` must be among them.
      reading: what of it.
      rank: whose part.
      batch_size: as in the plan.
      threads, queue_rows, staging: as `read_files` takes them.
    Yields: `plan.steps` − `steps_done` batches.
    """
    skipped = reading.steps_done * batch_size
    numbers = list(reading.plan.files[rank])
    while numbers and skipped >= (held := reading.plan.file_rows[numbers[0]]):
        skipped -= held
        del numbers[0]

    def prepare(place: int, arrays: Columns) -> Columns:
        number, kept = numbers[place], np.arange(len(arrays[WEIGHT]))
        if not reading.span.is_all:
            kept = kept[reading.span.holds(arrays[EVENT_TIME])]
        if reading.order is not None:
            kept = kept[np.random.default_rng([*reading.order, number]).permutation(len(kept))]
        kept = kept[(reading.done[number] if reading.done else 0) + (0 if place else skipped) :]
        if reading.order is None and len(kept) == len(arrays[WEIGHT]):
            return arrays
        return {name: array.take(kept, axis=0) for name, array in arrays.items()}

    files = read_files(
        folder, [manifest.files[number] for number in numbers], columns, threads,
        prepare=prepare, queue_rows=queue_rows, staging=staging,
    )  # fmt: skip
    return batches(files, columns, batch_size, reading.plan.steps - reading.steps_done)


_Queue = queue.Queue[Batch | BaseException | None]


class Prefetched:
    """Batches as tensors, made by a thread while the steps run.

    tf.data's own way from Python, `from_generator`, costs a call of the interpreter and a copy for each column.

    Args:
      made: the batches; they are made, and closed, in the thread alone.
      depth: how many wait at most.
    Iterating gives dicts of tensors; an error of `made` is raised in its place. `close` ends the thread.
    """

    def __init__(self, made: Iterator[Columns], depth: int) -> None:
        self._queue: _Queue = queue.Queue(depth)
        self._closed = threading.Event()
        self._ended = False
        # The thread knows the queue, not this object: one that nobody holds any more ends it.
        given = (made, self._queue, self._closed)
        self._thread = threading.Thread(target=_make_ahead, args=given, name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Prefetched:
        return self

    def __next__(self) -> Batch:
        if self._ended:
            raise StopIteration
        got = self._queue.get()
        if isinstance(got, dict):
            return got
        self._ended = True
        if got is None:
            raise StopIteration
        raise got

    def close(self) -> None:
        """Ends the thread, and with it the reading."""
        self._ended = True
        self._closed.set()
        self._thread.join(10)

    def __del__(self) -> None:
        self._closed.set()


def _make_ahead(made: Iterator[Columns], ahead: _Queue, closed: threading.Event) -> None:
    def put(what: Batch | BaseException | None) -> bool:
        """Waits for room. Returns: False where the batches are not wanted any more."""
        while not closed.is_set():
            try:
                ahead.put(what, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    try:
        for arrays in made:
            if not put({name: tf.convert_to_tensor(array) for name, array in arrays.items()}):
                return
        put(None)
    except BaseException as error:  # whoever waits for the batch must hear of it
        put(error)
    finally:
        if (close := getattr(made, "close", None)) is not None:
            close()
