"""Reading of tables, whatever they hold: every row is used, filtered or quarantined, and counted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm import storage
from dssm.config import Settings
from dssm.errors import UserError, did_you_mean
from dssm.manifest import SourceCounts
from dssm.sections import Table
from dssm.spark import explained, matches

CORRUPT = "_corrupt_record"
REASON = "__reason"
ID = "row__id"  # id of a user or an item, beside its table's own columns
DAMAGE_CLASSES = (
    "java.io.",
    "java.util.zip.",
    "org.apache.parquet.",
    "org.apache.spark.sql.execution.datasources.SchemaColumnConvertNotSupportedException",
)
DAMAGE_TEXTS = ("is not a Parquet file", "CSV header does not conform")
NOT_UTF8 = "is not UTF-8 text"


@dataclass
class Quarantine:
    """Collects unreadable rows: counts by reason, and the rows as JSON lines under `folder`."""

    folder: str
    max_share: float
    counts: dict[str, SourceCounts] = field(default_factory=dict)

    def split(
        self,
        name: str,
        table: DataFrame,
        reason: Column,
        place: str,
        missing_days: Sequence[str] = (),
        ours: Sequence[str] = (),
        columnar: bool = False,
        key: Sequence[Column] = (),
    ) -> tuple[DataFrame, bool]:
        """Writes and counts a table's unreadable rows.

        Args:
          name: the table's key in the settings, such as `sources.events`.
          table: the rows as read.
          reason: text column: why a row is unreadable, null where it is not.
          place: where the table lies, for messages and the manifest.
          ours: columns that the reader has added, which are no part of a quarantined row.
          columnar: whether reading the table again is cheaper than keeping it.
          key: what should tell the readable rows apart.
        Returns: the readable rows, and whether two of them have the same key.
        Raises: UserError where the unreadable share is above the limit, or no row is left.
        """
        checked = table.withColumn(REASON, reason)
        if not columnar:
            checked = checked.persist(StorageLevel.DISK_ONLY)
        reasons = F.coalesce(REASON, F.lit(""))
        # In one pass over the table: a plan of its own takes a small one longer than the rows.
        of_key = checked.groupBy(reasons.alias(REASON), *[F.when(reasons == "", part) for part in key]).count()
        totals = of_key.groupBy(REASON).agg(F.sum("count").alias("rows"), F.max("count").alias("most"))
        with damage_explained(name, place):
            rows = totals.collect()
        found = dict(sorted((row[REASON], row["rows"]) for row in rows))
        repeated = any(row[REASON] == "" and row["most"] > 1 for row in rows)
        used = found.pop("", 0)
        own = [column for column in table.columns if column not in ours]
        self.account(name, place, used, found, checked.select(REASON, *map(quoted, own)), missing_days)
        self.counts[name] = self.counts[name].model_copy(update={"used": {"read": used}})
        return checked.filter(F.col(REASON).isNull()).drop(REASON, CORRUPT), repeated

    def account(
        self,
        name: str,
        place: str,
        readable: int,
        bad: Mapping[str, int],
        rows: DataFrame,
        missing_days: Sequence[str] = (),
    ) -> None:
        """Counts a table's rows, and writes the unreadable ones.

        Args:
          readable: number of rows without a reason.
          bad: number of rows by reason.
          rows: REASON and the table's own columns.
        Raises: UserError where the unreadable share is above the limit, or no row is left.
        """
        total = readable + sum(bad.values())
        if bad:
            own = [quoted(column) for column in rows.columns if column != REASON]
            unreadable = rows.filter(F.col(REASON).isNotNull())
            self._write(name, unreadable.select(F.col(REASON).alias("reason"), F.to_json(F.struct(*own)).alias("row")))
        self.counts[name] = SourceCounts(
            place=place, rows_read=total, quarantined=dict(bad), missing_days=list(missing_days)
        )
        if total - readable > self.max_share * total:
            reasons = "; ".join(f"{reason}: {count:,}" for reason, count in sorted(bad.items(), key=lambda x: -x[1]))
            example = rows.filter(F.col(REASON).isNotNull()).drop(REASON).first()
            values = example.asDict() if example else {}
            shown = {k: v for k, v in values.items() if v is not None}
            share = (total - readable) / total
            raise UserError(
                f"{name}: {total - readable:,} of {total:,} rows of {place} can't be read ({share:.1%}; "
                f"samples.max_quarantine_share allows {self.max_share:.1%}): {reasons}. One of them: {str(shown)[:300]}"
            )
        if readable == 0:
            raise UserError(f"{name}: {place} holds no {'readable ' if total else ''}rows; expected at least one")

    def _write(self, name: str, rows: DataFrame) -> None:
        """Writes one file, `NAME.json.gz`, in an order that only the rows decide."""
        scratch = f"{self.folder}/{name}"
        rows.coalesce(1).sortWithinPartitions("reason", "row").write.json(scratch, compression="gzip")
        (file,) = storage.file_names(scratch, ".json.gz")
        storage.rename(f"{scratch}/{file}", f"{scratch}.json.gz")
        storage.remove(scratch)


@contextlib.contextmanager
def damage_explained(name: str, place: str) -> Iterator[None]:
    """Turns Spark's failure over a damaged file, which comes when the file is read, into a UserError."""
    try:
        yield
    except Py4JJavaError as error:
        cause = error.java_exception
        while cause.getCause() is not None:
            cause = cause.getCause()
        reason = " ".join(str(cause.getMessage()).split())
        if not cause.getClass().getName().startswith(DAMAGE_CLASSES) and not any(
            text in reason for text in DAMAGE_TEXTS
        ):
            raise
        raise UserError(f"{name}: {place} can't be read: {reason}") from error


def read_table(
    spark: SparkSession, settings: Settings, name: str, table: Table, daily: bool = False, before: int = 0
) -> tuple[DataFrame, str, list[str]]:
    """Reads a table as it is; columns of text files are strings.

    Args:
      daily: {date} in the path stands for each day of the windows; days without files are told.
      before: days before the windows that {date} stands for as well. Those without files are not told: most logs
        begin somewhere.
    Returns: the rows, the place for messages, and the days of the windows that have no file.
    Raises: UserError where nothing is there on the windows' days.
    """
    if table.table is not None:
        with explained(f"{name}.table"):
            return spark.table(table.table), table.place, []
    assert table.path is not None
    windows = [storage.absolute(path) for path in settings.expand(table.path, daily)]
    patterns = [storage.absolute(path) for path in settings.expand(table.path, daily, before)]
    # Each once: the days of a month have one pattern where {date} names months only.
    paths = [pattern for pattern in dict.fromkeys(patterns) if matches(spark, f"{name}.path", pattern)]
    if not set(paths) & set(windows):
        raise UserError(f"{name}.path: nothing found at {place_of(windows)}; expected {table.format} files")
    days = zip(settings.window_days(), windows, strict=True) if len(windows) > 1 else ()
    missing = [day.isoformat() for day, pattern in days if pattern not in paths]
    with explained(f"{name}.path"), damage_explained(name, place_of(patterns)):
        if table.format == "parquet":
            frame = spark.read.parquet(*paths)
        elif table.format == "json":
            frame = spark.read.option("primitivesAsString", True).json(paths)
        else:
            frame = _read_csv(spark, name, paths)
    return frame, place_of(patterns), missing


def _read_csv(spark: SparkSession, name: str, paths: list[str]) -> DataFrame:
    options: dict[str, Any] = {"header": True, "quote": '"', "escape": '"'}
    header = spark.read.options(**options).csv(paths[0]).columns
    if not header:
        raise UserError(f"{name}.path: {paths[0]} is empty; expected a header line and rows")
    # With every column a string, ids keep their leading zeros, and a row with too few or too many
    # fields is the only thing that can be malformed: Spark puts it into the corrupt-record column.
    schema = T.StructType([T.StructField(column, T.StringType()) for column in [*header, CORRUPT]])
    return (
        spark.read.options(**options, mode="PERMISSIVE", columnNameOfCorruptRecord=CORRUPT, enforceSchema=False)
        .schema(schema)
        .csv(paths)
    )


def place_of(patterns: Sequence[str]) -> str:
    return patterns[0] if len(patterns) == 1 else f"{patterns[0]} … {patterns[-1]} ({len(patterns)} days)"


def need_columns(name: str, frame: DataFrame, wanted: Mapping[str, str]) -> None:
    """Checks that columns exist.

    Args:
      wanted: the column that each setting of the table names.
    """
    known = [column for column in frame.columns if column != CORRUPT]
    for setting, column in wanted.items():
        if column not in known:
            raise UserError(f"{name}.{setting}: no column is named '{column}'" + did_you_mean(column, known))


def need_ids(name: str, frame: DataFrame, columns: Mapping[str, str]) -> None:
    """Checks that ids have one spelling: as a float, 7 would be '7.0' and match nothing.

    Args:
      columns: the id's column that each setting of the table names.
    """
    for setting, column in columns.items():
        kind = frame.schema[column].dataType
        if not isinstance(kind, (T.StringType, T.IntegralType, T.BinaryType)) and not is_whole(kind):
            hint = " (pandas writes integers with nulls as floats)" if isinstance(kind, T.FractionalType) else ""
            raise UserError(
                f"{name}.{setting}: '{column}' holds {kind.simpleString()}; expected text or integers{hint}"
            )


def is_whole(kind: T.DataType) -> bool:
    """Whether a type is a decimal without places."""
    return isinstance(kind, T.DecimalType) and kind.scale == 0


def is_no_id(frame: DataFrame, column: str) -> Column:
    """Whether an id is null or blank; only a text can be blank."""
    is_text = isinstance(frame.schema[column].dataType, (T.StringType, T.BinaryType))
    return is_blank(quoted(column)) if is_text else quoted(column).isNull()


def is_not_utf8(frame: DataFrame, column: str) -> Column:
    """Whether a binary column's bytes, or an entry's of a list of binaries, are no text: they would stop Arrow."""
    kind = frame.schema[column].dataType
    if isinstance(kind, T.ArrayType) and isinstance(kind.elementType, T.BinaryType):
        return F.exists(quoted(column), _is_no_text)
    return _is_no_text(quoted(column)) if isinstance(kind, T.BinaryType) else F.lit(False)


def _is_no_text(value: Column) -> Column:
    return F.encode(F.decode(value, "UTF-8"), "UTF-8") != value


def first_reason(*checks: tuple[Column, str]) -> Column:
    """Returns the text of the first check that holds, else null."""
    return F.coalesce(*[F.when(F.coalesce(check, F.lit(False)), F.lit(text)) for check, text in checks])


def malformed(frame: DataFrame) -> Column:
    return F.col(CORRUPT).isNotNull() if CORRUPT in frame.columns else F.lit(False)


def is_finite(number: Column) -> Column:
    """Whether a number is neither null, NaN nor infinite, also as a float32."""
    return F.coalesce(F.abs(number.cast("float")) < float("inf"), F.lit(False))  # Spark: NaN is above infinity


def is_blank(column: Column) -> Column:
    text = column.cast("string")
    return text.isNull() | (F.trim(text) == "")


def quoted(column: str) -> Column:
    """Returns the column of exactly this name: a dot in it does not mean a field."""
    return F.col("`" + column.replace("`", "``") + "`")
