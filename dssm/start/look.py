"""What a table's columns seem to be, from its first rows. Pure but for the reading."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Literal

import pandas as pd
import pyarrow.parquet as pq

from dssm import storage
from dssm.errors import UserError

ROWS = 2000  # looked at
FEW = 100  # distinct whole numbers up to which a column is a category
AMOUNTS = ("num", "count", "days", "age", "price", "length", "duration", "score", "width", "height")
Format = Literal["csv", "json", "parquet"]
Looks = Literal["number", "category", "list", "weighted list", "text", "vector", "empty"]
DAY = re.compile(r"(?<!\d)(20\d{2})-?(\d{2})-?(\d{2})(?!\d)")
SUFFIXES: dict[str, Format] = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
WEIGHTED = re.compile(r"^[^:,\s]+:[-+.0-9eE]+(,[^:,\s]+:[-+.0-9eE]+)*$")
LIST = re.compile(r"^[^,\s\[\]()]+(,[^,\s\[\]()]+)+$")


@dataclass(frozen=True)
class Column:
    """A column, and what it looks like.

    Attributes:
      unique: whether no value stands twice.
      width: numbers of a vector, or the entries of the longest list.
      example: of its values.
      last: the largest number, or the last text, of those looked at.
    """

    name: str
    looks: Looks
    unique: bool
    width: int
    example: str
    last: str = ""


@dataclass(frozen=True)
class Looked:
    """A table: the path that settings name, its format, its columns, and the newest day that a folder is named by."""

    path: str
    format: Format
    columns: tuple[Column, ...]
    newest_day: str | None = None

    def named(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)


def look(setting: str, path: str) -> Looked:
    """Looks at the first rows of a file, or of the first file of a folder.

    Args: setting: the option that names it, for messages; path: a file, or a folder of files or of dt=… folders.
    Raises: UserError where there is nothing to read.
    """
    system, place = storage.filesystem(path)
    if not system.exists(place):
        raise UserError(f"{setting} {path}: not found; expected a file, or a folder of files")
    files = [place] if system.isfile(place) else sorted(system.find(place))
    known = [file for file in files if _format(file) is not None]
    if not known:
        raise UserError(f"{setting} {path}: no file ends in .csv, .csv.gz, .jsonl, .json or .parquet")
    kind = _format(known[0])
    assert kind is not None
    try:
        with system.open(known[0], "rb") as file:
            rows = _first_rows(file, kind, "gzip" if known[0].endswith(".gz") else None)
    except (ValueError, OSError, StopIteration) as error:  # pandas' and Arrow's errors are ValueErrors
        reason = " ".join(str(error).split())[:200] or "it has no rows"
        raise UserError(
            f"{setting} {known[0]}: can't be read as {kind} ({reason}); expected UTF-8 with rows"
        ) from error
    if rows.empty:
        raise UserError(f"{setting} {known[0]}: has no rows; expected some to look at")
    columns = tuple(_column(str(name), rows[name].tolist()) for name in rows.columns)
    below = "" if system.isfile(place) else known[0].removeprefix(place.rstrip("/"))
    folder, _, name = below.rpartition("/")
    tail = f"{_daily(folder)}/*{name[name.index('.') :]}" if below else ""
    days = [day for file in known for day in DAY.findall(file.removeprefix(place))]
    newest = max(("-".join(day) for day in days), default=None)
    return Looked(path.rstrip("/") + tail, kind, columns, newest)


def _first_rows(file: IO[bytes], kind: Format, compression: Literal["gzip"] | None) -> pd.DataFrame:
    if kind == "parquet":
        return next(pq.ParquetFile(file).iter_batches(ROWS)).to_pandas()
    if kind == "json":
        return pd.read_json(file, lines=True, nrows=ROWS, compression=compression, dtype=False)
    return pd.read_csv(file, nrows=ROWS, compression=compression, dtype=str, keep_default_na=False)


def _daily(folder: str) -> str:
    """Returns a folder's name for all days, where it is of one.

    >>> _daily("/dt=2024-01-15/part"), _daily("/20240115"), _daily("/all")
    ('/dt={date}/part', '/{date:%Y%m%d}', '/all')
    """
    return DAY.sub(lambda day: "{date}" if "-" in day.group() else "{date:%Y%m%d}", folder)


def _format(path: str) -> Format | None:
    bare = path.removesuffix(".gz")
    return next((kind for suffix, kind in SUFFIXES.items() if bare.endswith(suffix)), None)


def _column(name: str, values: Sequence[object]) -> Column:
    given = [value for value in values if not _is_blank(value)]
    if not given:
        return Column(name, "empty", False, 0, "")
    if all(_entries(value) is not None for value in given):
        lists = [_entries(value) or [] for value in given]
        width = max(map(len, lists))
        entries = list(itertools.chain.from_iterable(lists))
        numbers = all(isinstance(x, (int, float)) for x in entries) and any(isinstance(x, float) for x in entries)
        is_vector = width > 1 and numbers and len(set(map(len, lists))) == 1
        return Column(name, "vector" if is_vector else "list", False, width, str(given[0])[:40])
    texts = [" ".join(str(value).split()) for value in given]
    unique = len(set(texts)) == len(texts)
    looks = _looks(name, texts)
    last = max(texts, key=float) if all(_is_number(text) for text in texts) else max(texts)
    return Column(name, looks, unique, max(text.count(",") + 1 for text in texts), texts[0][:40], last)


def _looks(name: str, texts: Sequence[str]) -> Looks:
    if all(WEIGHTED.match(text) for text in texts):
        return "weighted list"
    if sum(LIST.match(text) is not None for text in texts) > len(texts) / 3:
        return "list"
    if all(_is_number(text) for text in texts):
        whole = all(float(text).is_integer() for text in texts)
        words = name.lower().split("_")
        if whole and words[-1] in ("id", "type", "code"):
            return "category"
        is_amount = any(word in words for word in AMOUNTS)
        return "category" if whole and not is_amount and len(set(texts)) <= FEW else "number"
    if sum(" " in text for text in texts) > len(texts) / 3:
        return "text"
    return "category"


def _entries(value: object) -> list[object] | None:
    return list(value) if isinstance(value, (list, tuple)) or type(value).__name__ == "ndarray" else None  # type: ignore[call-overload]


def _is_blank(value: object) -> bool:
    return (
        value is None or (isinstance(value, float) and value != value) or (isinstance(value, str) and not value.strip())
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
