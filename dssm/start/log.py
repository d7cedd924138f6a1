"""One pass over a whole event log: its times, its rows and positives by the hour, and how many users it has."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from dssm import storage
from dssm.errors import UserError
from dssm.start.look import Looked

# A log above this is read in part: files spread evenly over it, at least the first and the last. CSV takes some 40 s a
# GB on a busy core. A file is read to its end, however large, for its last time may stand anywhere.
LIMIT_BYTES = 1_000_000_000
BLOCK_BYTES = 8_000_000  # of text held at a time
BATCH_ROWS = 200_000  # of Parquet held at a time
TYPED_LINES = 100  # of a block of JSON, by which its values' types are told
SMALLEST_HASHES = 4096  # of users: up to so many are counted exactly, more within about 2 %
HOUR_MS = 3_600_000
LATEST_MS = 4_102_444_800_000  # 2100: later than this, or before 1970, is no time
Unit = Literal["ms", "s", "iso"]


@dataclass(frozen=True)
class Tally:
    """What a log holds.

    Attributes:
      first_ms, last_ms: Unix ms of the first and last event; 0 where no row has a time.
      rows: events by the Unix hour; times without a zone are taken as UTC.
      positives: of those.
      users: about how many.
      scale: of all files' bytes to those read, 1 where all were: rows and positives are of those read.
    """

    first_ms: int
    last_ms: int
    rows: Mapping[int, int]
    positives: Mapping[int, int]
    users: int
    scale: float


def tally(log: Looked, user: str, time: str, unit: Unit, label: str | None, limit: int = LIMIT_BYTES) -> Tally:
    """Reads the columns of the user, the time and the label, of all files or of those spread over a large log.

    Memory: a block of text or of rows, and a number an hour of the log.
    Raises: UserError where a file can't be read, or lacks a column.
    """
    chosen = spread(len(log.files), sum(log.sizes), limit)
    read = sum(log.sizes[place] for place in chosen)
    scale = sum(log.sizes) / read if read else 1
    names = list(dict.fromkeys(name for name in (user, time, label) if name is not None))
    first, last = LATEST_MS, 0
    rows: Counter[int] = Counter()
    positives: Counter[int] = Counter()
    users = np.empty(0, np.uint64)
    for place in chosen:
        for frame in _frames(log, log.files[place], names):
            times = unix_ms(frame[time], unit)
            has_time = (times > 0) & (times < LATEST_MS)
            if has_time.any():
                first, last = min(first, int(times[has_time].min())), max(last, int(times[has_time].max()))
            rows.update(_by_hour(times[has_time]))
            positives.update(_by_hour(times[has_time & _is_positive(frame, label)]))
            hashes = pd.util.hash_array(frame[user].astype(str).to_numpy(object))
            users = np.union1d(users, hashes)[:SMALLEST_HASHES]
    return Tally(min(first, last), last, rows, positives, distinct(users), scale)


def spread(files: int, size: int, limit: int) -> list[int]:
    """Returns the places of evenly spread files of about `limit` bytes, the first and the last among them.

    >>> spread(5, 100, 100), spread(5, 100, 60), spread(1, 100, 60)
    ([0, 1, 2, 3, 4], [0, 2, 4], [0])
    """
    if size <= limit:
        return list(range(files))
    return sorted({round(place) for place in np.linspace(0, files - 1, max(2, files * limit // size))})


def distinct(smallest: np.ndarray) -> int:
    """Returns about how many values there are, from the smallest of their hashes (uint64, ascending).

    With k hashes spread evenly over 2^64, the k-th of n lies at about k / n of the way (Bar-Yossef et al., 2002).
    """
    if len(smallest) < SMALLEST_HASHES:
        return len(smallest)
    return round((len(smallest) - 1) / (float(smallest[-1]) / 2.0**64))


def unix_ms(times: pd.Series, unit: Unit) -> np.ndarray:
    """Returns Unix ms (int64), 0 for what is no time; a text without a zone is taken as UTC."""
    if unit == "iso":
        read = pd.to_datetime(times, errors="coerce", utc=True, format="ISO8601")
        days = (read - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(milliseconds=1)
        numbers = days.to_numpy(float)
    else:
        numbers = _numbers(times) * (1 if unit == "ms" else 1000)
    is_time = np.isfinite(numbers) & (numbers > 0) & (numbers < LATEST_MS)
    return np.where(is_time, numbers, 0).astype(np.int64)


def _numbers(values: pd.Series) -> np.ndarray:
    """Returns floats, NaN for what is no number. Pandas' own way was two thirds of a pass."""
    try:
        return values.to_numpy().astype(float)
    except (ValueError, TypeError):
        return pd.to_numeric(values, errors="coerce").to_numpy(float)


def _is_positive(frame: pd.DataFrame, label: str | None) -> np.ndarray:
    if label is None:
        return np.ones(len(frame), bool)
    return _numbers(frame[label]) > 0


def _by_hour(times: np.ndarray) -> dict[int, int]:
    hours, counts = np.unique(times // HOUR_MS, return_counts=True)
    return dict(zip(hours.tolist(), counts.tolist(), strict=True))


def _frames(log: Looked, path: str, names: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Yields a file's columns, a part at a time.

    Raises: UserError where it can't be read, or lacks a column.
    """
    system, place = storage.filesystem(path)
    try:
        with system.open(place, "rb", compression="gzip" if path.endswith(".gz") else None) as file:
            for batch in _READ[log.format](file, names):
                yield batch.select(list(names)).to_pandas()
    except (ValueError, OSError, KeyError, EOFError) as error:  # Arrow's errors are ValueErrors or KeyErrors
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--events {path}: can't be read as {log.format} ({reason}); expected rows with {', '.join(names)}"
        ) from error


def _csv_batches(file: IO[bytes], names: Sequence[str]) -> Iterator[pa.Table]:
    texts = pa_csv.ConvertOptions(
        include_columns=list(names), column_types=dict.fromkeys(names, pa.string()), check_utf8=False
    )
    # A quoted text may hold a newline; a row with too many fields is the job's to quarantine, not init's.
    parsing = pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda _: "skip")
    with pa_csv.open_csv(file, pa_csv.ReadOptions(block_size=BLOCK_BYTES), parsing, texts) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _json_batches(file: IO[bytes], names: Sequence[str]) -> Iterator[pa.Table]:
    """Yields blocks of whole lines as texts. Raises: ValueError where no line at all is an object."""
    rows, seen = 0, False
    for lines in _blocks(file):
        seen = True
        table = _json_table(lines, names)
        rows += len(table)
        yield table
    if seen and not rows:
        raise ValueError("no line is a JSON object")


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    """Yields whole lines, a part at a time: Arrow would read all of a file of JSON lines at once."""
    rest = b""
    while block := file.read(BLOCK_BYTES):
        lines, _, rest = (rest + block).rpartition(b"\n")
        if lines.strip():
            yield lines
    if rest.strip():
        yield rest


def _json_table(lines: bytes, names: Sequence[str]) -> pa.Table:
    """Returns the values as texts, null where a line has none.

    Arrow is the faster, but refuses a block for one bad line, or for a value of another type than most: then each line
    is read by itself, and a bad one is the job's to quarantine.
    """
    types = _json_types(_objects(lines.split(b"\n", TYPED_LINES)[:TYPED_LINES]), names)
    try:
        table = pa_json.read_json(
            io.BytesIO(lines),
            pa_json.ReadOptions(block_size=len(lines) + 1),
            pa_json.ParseOptions(explicit_schema=types, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid:
        rows = list(_objects(lines.split(b"\n")))
        return pa.table({name: pa.array([_text(row.get(name)) for row in rows], pa.string()) for name in names})
    numbers = [pa.field(kind.name, pa.int8()) if pa.types.is_boolean(kind.type) else kind for kind in types]
    return table.cast(pa.schema(numbers)).cast(pa.schema([(name, pa.string()) for name in names]))


def _json_types(rows: Iterable[Mapping[str, object]], names: Sequence[str]) -> pa.Schema:
    """Returns what Arrow shall read the values as; text where they are of several types, or there is none."""
    found: dict[str, set[type]] = {name: set() for name in names}
    for row in rows:
        for name in names:
            if row.get(name) is not None:
                found[name].add(type(row[name]))
    arrow = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    return pa.schema(
        [
            (name, arrow.get(float if kinds == {int, float} else next(iter(kinds), str), pa.string()))
            for name, kinds in found.items()
        ]
    )


def _objects(lines: Iterable[bytes]) -> Iterator[dict[str, object]]:
    """Yields the JSON objects among the lines."""
    for line in lines:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict):
                yield row


def _text(value: object) -> str | None:
    return None if value is None else str(int(value) if isinstance(value, bool) else value)


def _parquet_batches(file: IO[bytes], names: Sequence[str]) -> Iterator[pa.Table]:
    for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=list(names)):
        yield pa.Table.from_batches([batch])


_READ = {"csv": _csv_batches, "json": _json_batches, "parquet": _parquet_batches}
