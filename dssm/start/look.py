"""What a table's columns seem to be, from its first rows. Pure but for the reading."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Literal

import pandas as pd
import pyarrow.parquet as pq

from dssm import storage
from dssm.errors import UserError

ROWS = 2000  # looked at
FEW = 100  # distinct whole numbers up to which a column is a category
AMOUNTS = ("num", "count", "days", "age", "price", "length", "duration", "score", "width", "height")
Format = Literal["csv", "json", "parquet"]
Looks = Literal["number", "category", "list", "weighted list", "text", "vector", "date", "empty"]
DAY = re.compile(r"(?<!\d)(20\d{2})-?(\d{2})-?(\d{2})(?!\d)")
SUFFIXES: dict[str, Format] = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
WEIGHTED = re.compile(r"^[^:,\s]+:[-+.0-9eE]+(,[^:,\s]+:[-+.0-9eE]+)*$")
LIST = re.compile(r"^[^,\s\[\]()]+(,[^,\s\[\]()]+)+$")
SEPARATORS = (",", "|", ";")
OTHER_COMMAS = re.compile(r"[;|\t]")
LEAST_LISTS = 0.01  # share of a column's values that hold the separator, if it is one of lists
TOKEN = re.compile(r"^[^\s\[\](){}\"']{1,24}$")  # so (10,50] is no list
DATE = re.compile(r"^(19[7-9]\d|20\d{2})-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[-+]\d{2}:?\d{2})?)?$")


@dataclass(frozen=True)
class Column:
    """A column, and what it looks like.

    Attributes:
      unique: whether no value stands twice.
      width: numbers of a vector, or the entries of the longest list.
      example: of its values.
      separator: between the entries of a list in a text.
      is_flag: whether it says yes or no by 1 and 0.
      is_whole: whether its values are whole numbers of at least 0.
    """

    name: str
    looks: Looks
    unique: bool
    width: int
    example: str
    separator: str = ","
    is_flag: bool = False
    is_whole: bool = False


@dataclass(frozen=True)
class Looked:
    """A table.

    Attributes:
      path: what settings name; it holds {date} where the files lie in folders of days.
      days: the oldest and newest that a file or folder is named by.
      files: all of its format that hold something, by name.
      sizes: of those, in bytes; 0 where the store does not tell.
      rows: the first ones, as read.
    """

    path: str
    format: Format
    columns: tuple[Column, ...]
    days: tuple[str, str] | None = None
    files: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    rows: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False, compare=False)

    @property
    def in_folders(self) -> bool:
        """Whether it lies in folders of days."""
        return "{date" in self.path

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
    found = {place: system.info(place)} if system.isfile(place) else system.find(place, detail=True)
    known = [file for file in sorted(found) if _format(file) is not None]
    if not known:
        raise UserError(f"{setting} {path}: no file ends in .csv, .csv.gz, .jsonl, .json or .parquet")
    # A writer without rows leaves files without a byte, which hold no column either.
    known = [file for file in known if found[file].get("size") != 0] or known
    kind = _format(known[0])
    assert kind is not None
    try:
        with system.open(known[0], "rb") as file:
            rows = _first_rows(file, kind, "gzip" if known[0].endswith(".gz") else None)
    except (ValueError, OSError, StopIteration) as error:  # pandas' and Arrow's errors are ValueErrors
        reason = " ".join(str(error).split())[:200] or "it has no rows"
        wanted = "UTF-8 with rows" + (" and commas between columns" if kind == "csv" else "")
        raise UserError(f"{setting} {known[0]}: can't be read as {kind} ({reason}); expected {wanted}") from error
    if rows.empty:
        raise UserError(f"{setting} {known[0]}: has no rows; expected some to look at")
    name = str(rows.columns[0])
    if kind == "csv" and len(rows.columns) == 1 and OTHER_COMMAS.search(name):
        raise UserError(f"{setting} {known[0]}: found one column, {name!r}; expected commas between columns")
    columns = _alike(tuple(_column(str(name), rows[name].tolist()) for name in rows.columns))
    below = "" if system.isfile(place) else known[0].removeprefix(place.rstrip("/"))
    folder, _, name = below.rpartition("/")
    tail = f"{_daily(folder)}/*{name[name.index('.') :]}" if below else ""
    days = [day for file in known for day in DAY.findall(file.removeprefix(place))]
    named = sorted("-".join(day) for day in days)
    of_kind = [file for file in known if _format(file) == kind]
    return Looked(
        path.rstrip("/") + tail,
        kind,
        columns,
        (named[0], named[-1]) if named else None,
        tuple(system.unstrip_protocol(file) if "://" in path else file for file in of_kind),
        tuple(found[file].get("size") or 0 for file in of_kind),
        rows,
    )


def _first_rows(file: IO[bytes], kind: Format, compression: Literal["gzip"] | None) -> pd.DataFrame:
    if kind == "parquet":
        return next(pq.ParquetFile(file).iter_batches(ROWS)).to_pandas()
    if kind == "json":
        # pandas would turn numbers into dates where a column is named timestamp or ends in _at, and guess their unit.
        return pd.read_json(file, lines=True, nrows=ROWS, compression=compression, dtype=False, convert_dates=False)
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
    separator = _separator(texts)
    looks: Looks = "list" if separator and not all(map(WEIGHTED.match, texts)) else _looks(name, texts)
    width = max(text.count(separator or ",") + 1 for text in texts)
    return Column(name, looks, unique, width, texts[0][:40], separator or ",", _is_flag(name, texts), _is_whole(texts))


def _separator(texts: Sequence[str]) -> str | None:
    """Returns what stands between the short tokens of some values, where the others are one such token each.

    >>> _separator(["20,43", "39"]), _separator(["a|b", "c"]), _separator(["(0,10]", "500+"]), _separator(["a b, c"])
    (',', '|', None, None)
    """
    for separator in SEPARATORS:
        lists = sum(separator in text for text in texts)
        tokens = itertools.chain.from_iterable(text.split(separator) for text in texts)
        if lists and lists >= LEAST_LISTS * len(texts) and all(TOKEN.match(token) for token in tokens):
            return separator
    return None


def _is_flag(name: str, texts: Sequence[str]) -> bool:
    """Whether both 0 and 1 are there, or one of them and the name says so: an amount may begin with many zeros."""
    found = {float(text) if _is_number(text) else -1.0 for text in texts}
    return found == {0, 1} or (found <= {0, 1} and name.lower().startswith(("is_", "has_")))


def _alike(columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """Makes whole numbers categories where most columns of the same name but for its digits are: ids without meaning.

    One of many values, such as feat3 beside feat0 to feat9, would be taken for an amount.
    """
    stems = [column.name.rstrip("0123456789") for column in columns]
    made = []
    for column, stem in zip(columns, stems, strict=True):
        siblings = [other.looks for other, its in zip(columns, stems, strict=True) if its == stem != other.name]
        is_one = column.looks == "number" and column.is_whole and stem != column.name
        made.append(
            replace(column, looks="category") if is_one and siblings.count("category") > len(siblings) / 2 else column
        )
    return tuple(made)


def _looks(name: str, texts: Sequence[str]) -> Looks:
    if all(map(WEIGHTED.match, texts)):
        return "weighted list"
    if all(map(DATE.match, texts)):
        return "date"
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


def _is_whole(texts: Sequence[str]) -> bool:
    """Whether all are whole numbers of at least 0."""
    return all(_is_number(text) and float(text) >= 0 and float(text).is_integer() for text in texts)


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
