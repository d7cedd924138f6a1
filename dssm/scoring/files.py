"""A file of the samples through a tower into a file of the table: what a task of score_items does. No Spark.

Rows are read, scored and written a batch at a time; a task holds a batch, and of the version published last a file.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dssm import storage
from dssm.errors import UserError
from dssm.manifest import ColumnSpec
from dssm.packing import unpack_all
from dssm.published import BATCH_ROWS, DATA, DIGESTS, MODEL_VERSION, NOT_FINITE, QUARANTINE, VECTOR, VectorType
from dssm.scoring.digests import id_keys, row_digests
from dssm.scoring.dtypes import Stored, decoded, encoded, stored_columns
from dssm.scoring.earlier import DIGEST, KEY, Earlier, EarlierFile, content_of
from dssm.scoring.parquet import VectorWriter
from dssm.scoring.vectors import load_tower

if TYPE_CHECKING:
    from dssm.model.export import LoadedTower

UNFINISHED = ".tmp"
REFUSED_AT_MOST = 1000  # rows of a file; each is found by some calls of the tower
REFUSED, NO_ID = "the tower refuses the row", "no id"


@dataclass(frozen=True)
class Scoring:
    """What all tasks of a run share.

    Attributes:
      source: folder of the samples.
      target: folder of the version that is being made.
      id_source, id_column: name of the id there and here.
      columns: the tower's inputs.
      tower: folder of its SavedModel.
      threads: of TensorFlow, those of a task.
      norm: that every vector should have, None where the model sets none.
      own_norm: that every vector of one objective should have, where the model has several.
      digests: whether digests of the features are kept.
      earlier: the version published last; None where there is none.
      copies: whether vectors of rows with the same digest are taken from it.
    """

    source: str
    target: str
    id_source: str
    id_column: str
    columns: Mapping[str, ColumnSpec]
    tower: str
    model_version: str
    threads: int
    dtype: VectorType
    norm: float | None
    digests: bool
    own_norm: float | None = None
    earlier: Earlier | None = None
    copies: bool = False


@dataclass
class FileResult:
    """What became of a file. The files lie below the version's folder under temporary names, folder by folder.

    broken: vectors that are not finite; zeros: rows with a vector of zeros alone, and zero_example the id of one;
    norm_off: largest distance from the norm, before rounding, of the combined
    vectors and of each objective's own, these at the scale of the combined;
    drift: of each vector column that the version published last has as wide, sum of the cosines to its vectors;
    drift_rows: rows in both; unread: files of that version that can't be read, with why.
    """

    name: str
    temporary: dict[str, str] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    read: int = 0
    rows: int = 0
    size: int = 0
    scored: int = 0
    copied: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    zeros: int = 0
    zero_example: str | None = None
    norm_off: float = 0.0
    drift: dict[str, float] = field(default_factory=dict)
    drift_rows: int = 0
    unread: list[str] = field(default_factory=list)


def score_file(scoring: Scoring, name: str) -> FileResult:
    """Writes data/, digests/ and, where a row can't be read, quarantine/ of one file of the samples.

    Raises: UserError where the file is damaged, or the tower takes none of its rows.
    """
    tower = load_tower(scoring.tower, scoring.model_version, scoring.threads)
    widths = {output: int(spec.shape[-1]) for output, spec in tower.outputs.items()}
    result = FileResult(name, widths=dict(sorted(widths.items(), key=lambda pair: pair[0] != VECTOR)))
    with _new_file(scoring, result, DATA) as file:
        kinds = {column: kind for column, (kind, _) in stored_columns(result.widths, scoring.dtype).items()}
        writer = VectorWriter(file, {scoring.id_column: "text", **kinds, MODEL_VERSION: "constant"})
        maker = _FileMaker(scoring, tower, writer, result)
        for batch in _batches(f"{scoring.source}/{name}", [scoring.id_source, *scoring.columns]):
            maker.add(batch)
        writer.close()
        result.rows, result.size = writer.rows, writer.size
    _write_rows(scoring, result, DIGESTS, maker.digests())
    if maker.quarantine:
        _write_rows(scoring, result, QUARANTINE, pa.concat_tables(maker.quarantine))
    return result


class _FileMaker:
    """Takes the batches of one file."""

    def __init__(self, scoring: Scoring, tower: LoadedTower, writer: VectorWriter, result: FileResult) -> None:
        self.scoring, self.tower, self.writer, self.result = scoring, tower, writer, result
        earlier = scoring.earlier
        self.earlier: EarlierFile | None = earlier.file(result.name, result.unread.append) if earlier else None
        self.quarantine: list[pa.Table] = []
        self._keys: list[np.ndarray] = []
        self._digests: list[np.ndarray] = []

    def add(self, batch: pa.RecordBatch) -> None:
        scoring = self.scoring
        self.result.read += batch.num_rows
        batch = self._without(batch, *unreadable(batch, scoring.id_source, scoring.columns))
        columns = unpack_all(batch, scoring.columns)
        ids = batch.column(scoring.id_source)
        keys = id_keys(ids)
        digests = row_digests(columns) if scoring.digests else None
        places = self.earlier.places(keys) if self.earlier else np.full(len(keys), -1)
        copied = np.zeros(len(keys), bool)
        if scoring.copies and self.earlier is not None and self.earlier.digests is not None and digests is not None:
            copied = (places >= 0) & (self.earlier.digests[places] == digests)
        wanted = np.flatnonzero(~copied)
        scored = {name: values[wanted] for name, values in columns.items()} if copied.any() else columns
        vectors, reasons, bad = self._score(scored, len(wanted))
        stored = encoded(vectors, scoring.dtype)
        for name in vectors:
            bad[~np.isfinite(_squares(decoded(stored, name, scoring.dtype))) & (bad < 0)] = len(reasons)
        self.result.broken += int((bad == len(reasons)).sum())
        self.result.scored += len(wanted)
        self.result.copied += int(copied.sum())
        self._measure_norms({name: matrix[bad < 0] for name, matrix in vectors.items()}, bool(copied.any()))
        if copied.any() and self.earlier is not None:
            stored = _merged(self.earlier.stored, np.maximum(places, 0), wanted, stored)
        if (bad >= 0).any():
            codes = np.full(len(keys), -1)
            codes[wanted] = bad
            kept = codes < 0
            batch = self._without(batch, codes, [*reasons, NOT_FINITE])
            ids, keys, places, copied = batch.column(scoring.id_source), keys[kept], places[kept], copied[kept]
            digests = digests[kept] if digests is not None else None
            stored = {name: values[kept] for name, values in stored.items()}
        self._count_zeros(stored, ids)
        self._measure(stored, places, copied)
        self._keys.append(keys)
        if digests is not None:
            self._digests.append(digests)
        if len(keys):
            values = {scoring.id_column: ids, **stored, MODEL_VERSION: scoring.model_version}
            self.writer.write(values, len(keys))

    def digests(self) -> pa.Table:
        """Returns the keys, and the digests where they are kept, of the rows written, in their order."""
        arrays = {KEY: self._keys, **({DIGEST: self._digests} if self.scoring.digests else {})}
        return pa.table({name: np.concatenate([np.empty(0, np.int64), *parts]) for name, parts in arrays.items()})

    def _without(self, batch: pa.RecordBatch, codes: np.ndarray, reasons: list[str]) -> pa.RecordBatch:
        """Puts the rows that have a reason aside. Args: codes: (rows,) place of the reason, −1 of good rows."""
        bad = codes >= 0
        if not bad.any():
            return batch
        told = pa.array(reasons).take(pa.array(codes[bad]))
        self.result.quarantined.update({pair["values"]: pair["counts"] for pair in told.value_counts().to_pylist()})
        ids = batch.column(self.scoring.id_source).filter(pa.array(bad))
        self.quarantine.append(pa.table({self.scoring.id_column: ids, "reason": told}))
        return batch.filter(pa.array(~bad))

    def _score(
        self, columns: Mapping[str, np.ndarray], rows: int
    ) -> tuple[dict[str, np.ndarray], list[str], np.ndarray]:
        """Returns the vectors of rows, the reasons why some have none, and the reason's place of each row, or −1."""
        widths = self.result.widths
        if rows == 0:
            return {name: np.empty((0, width), np.float32) for name, width in widths.items()}, [], np.full(0, -1)
        from tensorflow.errors import InvalidArgumentError  # the tower has imported it

        try:
            return self.tower.all_vectors(columns), [], np.full(rows, -1)
        except InvalidArgumentError:
            pass  # a row holds what the tower has no place for, such as an id outside its table
        vectors = {name: np.zeros((rows, width), np.float32) for name, width in widths.items()}
        bad = np.full(rows, -1)
        parts = [np.arange(rows)]
        while parts:
            part = parts.pop()
            try:
                found = self.tower.all_vectors({name: values[part] for name, values in columns.items()})
            except InvalidArgumentError as error:
                if len(part) > 1:
                    parts += np.array_split(part, 2)
                    continue
                bad[part] = 0
                if (bad == 0).sum() + self.result.quarantined[REFUSED] > REFUSED_AT_MOST:
                    raise UserError(
                        f"{self.scoring.source}/{self.result.name}: the tower {self.scoring.tower} refuses more than "
                        f"{REFUSED_AT_MOST:,} rows ({' '.join(str(error.message).split())}); run train again on these "
                        "samples"
                    ) from error
                continue
            for name, matrix in found.items():
                vectors[name][part] = matrix
        return vectors, [REFUSED], bad

    def _measure_norms(self, vectors: Mapping[str, np.ndarray], any_copied: bool) -> None:
        """Notes the largest distance from the norm. A copied row's is in what its version found: here it is rounded.

        Args: vectors: scored and finite, (rows, width) by column, as the tower gave them.
        """
        norm, own = self.scoring.norm, self.scoring.own_norm
        if norm is None:
            return
        # Of two objectives one may be as much too long as the other is too short, and one may have no share.
        expected = {name: norm if name == VECTOR else own for name in vectors}
        offs = [
            np.abs(np.sqrt(_squares(vectors[name])) / wanted - 1).max(initial=0) * norm
            for name, wanted in expected.items()
            if wanted is not None
        ]
        before = self.scoring.earlier.norm_off if any_copied and self.scoring.earlier is not None else 0.0
        self.result.norm_off = max(self.result.norm_off, float(max(offs)), before)

    def _count_zeros(self, stored: Stored, ids: pa.Array) -> None:
        found = np.unique(np.concatenate([_zero_rows(stored[name]) for name in self.result.widths]))
        if len(found):
            self.result.zeros += len(found)
            self.result.zero_example = ids[int(found[0])].as_py()

    def _measure(self, stored: Stored, places: np.ndarray, copied: np.ndarray) -> None:
        """Adds up the drift, of the vectors as they are stored."""
        result, earlier = self.result, self.earlier
        if earlier is None:
            return
        result.drift_rows += int((places >= 0).sum())
        changed = np.flatnonzero((places >= 0) & ~copied)
        moved = {name: values[changed] for name, values in stored.items()}
        for column, width in result.widths.items():
            if earlier.width(column) != width:
                continue
            before, now = earlier.vectors(column, places[changed]), decoded(moved, column, self.scoring.dtype)
            norms = np.linalg.norm(before, axis=1) * np.linalg.norm(now, axis=1)
            products = np.einsum("ij,ij->i", before, now)
            both_zero = ~(before.any(axis=1) | now.any(axis=1))  # the same vector, too
            cosines = np.divide(products, norms, out=both_zero.astype(norms.dtype), where=norms > 0)
            same = int(copied.sum())  # the same vector
            result.drift[column] = result.drift.get(column, 0.0) + same + float(cosines.sum())


def unreadable(
    batch: pa.RecordBatch, id_column: str, columns: Mapping[str, ColumnSpec]
) -> tuple[np.ndarray, list[str]]:
    """Returns which rows can't be read: the place of each one's first reason, (rows,), or −1, and the reasons."""
    codes = np.full(batch.num_rows, -1)
    reasons = [NO_ID]
    codes[pc.is_null(batch.column(id_column)).to_numpy(zero_copy_only=False)] = 0
    for name, spec in columns.items():
        column = batch.column(name)
        bad = pc.is_null(column).to_numpy(zero_copy_only=False) if column.null_count else np.zeros(len(column), bool)
        reason = f"column '{name}' is null"
        if spec.encoding == "packed":
            stride = int(np.prod(spec.shape)) * spec.numpy_dtype.itemsize
            reason = f"column '{name}' is not {stride} bytes"
            bounds = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
            bad = bad | (np.diff(bounds) != stride)
        if bad.any():
            codes[bad & (codes < 0)] = len(reasons)
            reasons.append(reason)
    return codes, reasons


def _squares(matrix: np.ndarray) -> np.ndarray:
    """Returns the rows' squared norms, (rows,); not finite where a number is not, or is beyond 10¹⁹."""
    squares: np.ndarray = np.einsum("ij,ij->i", matrix, matrix)
    return squares


def _zero_rows(matrix: np.ndarray) -> np.ndarray:
    """Returns the places of rows of zeros alone: of most the first number says that they are none."""
    rows = np.flatnonzero(matrix[:, 0] == 0)
    return rows[~matrix[rows].any(axis=1)]


def _merged(earlier: Stored, places: np.ndarray, wanted: np.ndarray, scored: Stored) -> Stored:
    """Returns the earlier rows at `places`, those at `wanted` replaced by the ones scored now."""
    merged: Stored = {}
    begin = int(places[0])
    in_order = bool((places == np.arange(begin, begin + len(places))).all())
    for name, values in earlier.items():
        merged[name] = values[begin : begin + len(places)].copy() if in_order else values[places]
        merged[name][wanted] = scored[name]
    return merged


# Reading and writing ---------------------------------------------------------------------------------


def _batches(path: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        parquet = pq.ParquetFile(pa.BufferReader(content_of(path)))
        missing = [name for name in columns if name not in parquet.schema_arrow.names]
        if missing:
            raise UserError(f"{path}: no column '{missing[0]}'; run build_samples again")
        yield from parquet.iter_batches(BATCH_ROWS, columns=columns, use_threads=False)
    except pa.ArrowInvalid as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: damaged ({reason}); run build_samples again") from error


@contextmanager
def _new_file(scoring: Scoring, result: FileResult, part: str) -> Iterator[BinaryIO]:
    """Opens a file of the version under a name of its own: a task may be killed, or run twice at a time."""
    folder = f"{scoring.target}/{part}"
    storage.make_folder(folder)
    temporary = f".{result.name}.{uuid.uuid4().hex}{UNFINISHED}"
    system, place = storage.filesystem(f"{folder}/{temporary}")
    try:
        with system.open(place, "wb") as file:
            yield file
    except BaseException:
        storage.remove(f"{folder}/{temporary}")
        raise
    result.temporary[part] = temporary


def _write_rows(scoring: Scoring, result: FileResult, part: str, rows: pa.Table) -> None:
    with _new_file(scoring, result, part) as file:
        pq.write_table(rows, file, compression="none", use_dictionary=False)
