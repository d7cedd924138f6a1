"""Reading of logs, profiles, catalogue and vectors: every row is used, filtered or quarantined, and counted."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any
from zoneinfo import ZoneInfo

from py4j.protocol import Py4JJavaError
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm import storage
from dssm.config import DAY, Settings
from dssm.errors import UserError, did_you_mean
from dssm.features import AnyFeature, DenseFeat, SparseFeat, TextFeat, VarLenSparseFeat
from dssm.manifest import (
    ALWAYS,
    EVENT_TIME,
    ITEM_ID,
    LABEL,
    SOURCE,
    UPLOAD_TIME,
    USER_ID,
    WEIGHT,
    SourceCounts,
    target_column,
)
from dssm.sections import Counter, EventSource, History, KeyedTable, ProfileTable, Table, Target, VectorTable
from dssm.spark import counts_by, explained, matches

TABLE, PARTITION = "table:", "dt"  # of published vectors
CORRUPT = "_corrupt_record"
VALID_FROM = "row__valid_from"  # Unix ms from which events see a profile's row
REASON, KEPT = "__reason", "__kept"
ID = "row__id"  # id of a user or an item, beside its table's own columns
DAMAGE_CLASSES = (
    "java.io.",
    "java.util.zip.",
    "org.apache.parquet.",
    "org.apache.spark.sql.execution.datasources.SchemaColumnConvertNotSupportedException",
)
DAMAGE_TEXTS = ("is not a Parquet file", "CSV header does not conform")
LATEST_TIME_MS = 4_102_444_800_000  # 2100-01-01: later times are mistaken units
LOOK_BACK_DAYS = 60  # within which the newest day's snapshot or vectors are looked for
DAY_S = 86_400
LATER_ITEM = "uploaded after the windows"
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
    ) -> DataFrame:
        """Returns the readable rows of a table; writes and counts the others.

        Args:
          name: the table's key in the settings, such as `sources.events`.
          table: the rows as read.
          reason: text column: why a row is unreadable, null where it is not.
          place: where the table lies, for messages and the manifest.
          ours: columns that the reader has added, which are no part of a quarantined row.
          columnar: whether reading the table again is cheaper than keeping it.
        Raises: UserError where the unreadable share is above the limit, or no row is left.
        """
        checked = table.withColumn(REASON, reason)
        if not columnar:
            checked = checked.persist(StorageLevel.DISK_ONLY)
        with damage_explained(name, place):
            found = counts_by(checked.withColumn(REASON, F.coalesce(REASON, F.lit(""))), REASON)
        used = found.pop("", 0)
        own = [column for column in table.columns if column not in ours]
        self.account(name, place, used, found, checked.select(REASON, *map(quoted, own)), missing_days)
        self.counts[name] = self.counts[name].model_copy(update={"used": {"read": used}})
        return checked.filter(F.col(REASON).isNull()).drop(REASON, CORRUPT)

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
        raise UserError(f"{name}.path: nothing found at {_shown(windows)}; expected {table.format} files")
    days = zip(settings.window_days(), windows, strict=True) if len(windows) > 1 else ()
    missing = [day.isoformat() for day, pattern in days if pattern not in paths]
    with explained(f"{name}.path"), damage_explained(name, _shown(patterns)):
        if table.format == "parquet":
            frame = spark.read.parquet(*paths)
        elif table.format == "json":
            frame = spark.read.option("primitivesAsString", True).json(paths)
        else:
            frame = _read_csv(spark, name, paths)
    return frame, _shown(patterns), missing


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


def _shown(patterns: Sequence[str]) -> str:
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


def _need_ids(name: str, frame: DataFrame, columns: Mapping[str, str]) -> None:
    """Checks that ids have one spelling: as a float, 7 would be '7.0' and match nothing.

    Args:
      columns: the id's column that each setting of the table names.
    """
    for setting, column in columns.items():
        kind = frame.schema[column].dataType
        whole = isinstance(kind, T.DecimalType) and kind.scale == 0
        if not isinstance(kind, (T.StringType, T.IntegralType, T.BinaryType)) and not whole:
            hint = " (pandas writes integers with nulls as floats)" if isinstance(kind, T.FractionalType) else ""
            raise UserError(
                f"{name}.{setting}: '{column}' holds {kind.simpleString()}; expected text or integers{hint}"
            )


def _is_not_utf8(frame: DataFrame, column: str) -> Column:
    """Whether a binary column's bytes are no text: as an id or a token they would stop Arrow."""
    if not isinstance(frame.schema[column].dataType, T.BinaryType):
        return F.lit(False)
    return F.encode(F.decode(quoted(column), "UTF-8"), "UTF-8") != quoted(column)


def _need_vectors(name: str, frame: DataFrame, column: str) -> None:
    kind = frame.schema[column].dataType
    if not isinstance(kind, T.ArrayType) or not isinstance(kind.elementType, T.NumericType):
        raise UserError(f"{name}.values: '{column}' holds {kind.simpleString()}; expected lists of numbers")


def _first_reason(*checks: tuple[Column, str]) -> Column:
    """Returns the text of the first check that holds, else null."""
    return F.coalesce(*[F.when(F.coalesce(check, F.lit(False)), F.lit(text)) for check, text in checks])


def _malformed(frame: DataFrame) -> Column:
    return F.col(CORRUPT).isNotNull() if CORRUPT in frame.columns else F.lit(False)


def _is_finite(number: Column) -> Column:
    """Whether a number is neither null, NaN nor infinite, also as a float32."""
    return F.coalesce(F.abs(number.cast("float")) < float("inf"), F.lit(False))  # Spark: NaN is above infinity


def _is_blank(column: Column) -> Column:
    text = column.cast("string")
    return text.isNull() | (F.trim(text) == "")


def quoted(column: str) -> Column:
    """Returns the column of exactly this name: a dot in it does not mean a field."""
    return F.col("`" + column.replace("`", "``") + "`")


@dataclass(frozen=True)
class EventLog:
    """One log as it is read.

    Attributes:
      rows: one row a row of the log: its own columns, and those of `NORMAL` beside REASON (why it is unreadable).
      own: the log's own columns.
    """

    name: str
    place: str
    missing_days: Sequence[str]
    rows: DataFrame
    own: Sequence[str]

    def normal(self, code: int, targets: Sequence[str]) -> DataFrame:
        """Grain: one row a row of the log, in the columns that all logs have; SOURCE is `code`."""
        given = [column for column in self.rows.columns if column in {target_column(name) for name in targets}]
        return self.rows.select(
            REASON,
            USER_ID,
            ITEM_ID,
            EVENT_TIME,
            F.lit(code).alias(SOURCE),
            LABEL,
            WEIGHT,
            KEPT,
            *[
                F.col(column) if column in given else F.lit(float("nan")).cast("float").alias(column)
                for column in map(target_column, targets)
            ],
        )


def days_before(settings: Settings, source: str) -> int:
    """Returns the days before the windows that the first events' histories and counters see of a source.

    A history without `days` asks for none: of a log in days' files it begins with the windows, or with the days
    that another history or counter of the source asks for.
    """
    readers: list[History | Counter] = [*settings.histories.values(), *settings.counters.values()]
    days = max((reader.days or 0 for reader in readers if source in reader.sources), default=0)
    # Days of 24 hours: where the clocks went forward within them, they begin one more calendar day before.
    begin_s = settings.day_start_ms(-settings.window.train_days) // 1000 - days * DAY_S
    begin = dt.datetime.fromtimestamp(begin_s, ZoneInfo(settings.timezone)).date()
    return (settings.window_days()[0] - begin).days


def read_events(spark: SparkSession, settings: Settings, name: str, source: EventSource) -> EventLog:
    """Reads one event log: of one in days' files those of the windows, and of `days_before` them.

    KEPT is false where the source's `where` leaves the row out: of those, all other values may be null or unfit.
    """
    key = f"sources.{name}"
    frame, place, missing = read_table(spark, settings, key, source, True, days_before(settings, name))
    need_columns(key, frame, {"user": source.user, "item": source.item, "time": source.time})
    _need_ids(key, frame, {"user": source.user, "item": source.item})
    own = frame.columns
    columns = frame.drop(CORRUPT)
    with explained(f"{key}.time: '{source.time}'"):
        time = unix_ms(quoted(source.time), frame.schema[source.time].dataType, source.time_unit)
        frame = frame.withColumn(EVENT_TIME, F.when(time.between(0, LATEST_TIME_MS), time))
    for column, setting, expression in ((LABEL, "label", source.label), (WEIGHT, "weight", source.weight)):
        with explained(f"{key}.{setting}: {expression!r}", columns):
            frame = frame.withColumn(column, F.expr(expression).cast("float"))
    target_checks = []
    for target, expression in source.targets.items():
        scale = settings.targets.get(target, Target())
        with explained(f"{key}.targets.{target}: {expression!r}", columns):
            value = F.expr(expression).cast("double")
            frame = frame.withColumn(
                target_column(target), ((value - scale.low) / (scale.high - scale.low)).cast("float")
            )
        value = F.col(target_column(target))
        no_number = value.isNull() & ~_is_blank(F.expr(expression))
        outside = no_number | (value.isNotNull() & (F.isnan(value) | (value < 0) | (value > 1)))
        target_checks.append((F.col(KEPT) & outside, f"target {target} is not in {scale.low:g}…{scale.high:g}"))
    where = source.where or "true"
    with explained(f"{key}.where: {where!r}", columns):
        columns.filter(where)  # analysed, not run: a number is no condition
        frame = frame.withColumn(KEPT, F.coalesce(F.expr(where), F.lit(False)))
    kept, label, weight = F.col(KEPT), F.col(LABEL), F.col(WEIGHT)
    reason = _first_reason(
        (_malformed(frame), "malformed row"),
        (kept & _is_blank(quoted(source.user)), f"no user in '{source.user}'"),
        (kept & _is_not_utf8(frame, source.user), f"user in '{source.user}' {NOT_UTF8}"),
        (kept & _is_blank(quoted(source.item)), f"no item in '{source.item}'"),
        (kept & _is_not_utf8(frame, source.item), f"item in '{source.item}' {NOT_UTF8}"),
        (
            kept & F.col(EVENT_TIME).isNull(),
            f"bad time in '{source.time}' (expected {source.time_unit}, 1970 to 2100)",
        ),
        (kept & ~_is_finite(label), "label is not a number"),
        (kept & (~_is_finite(weight) | (weight < 0)), "weight is not a number of at least 0"),
        *target_checks,
    )
    rows = frame.withColumns(
        {
            REASON: reason,
            USER_ID: quoted(source.user).cast("string"),
            ITEM_ID: quoted(source.item).cast("string"),
            **{target_column(name): F.coalesce(target_column(name), F.lit(float("nan"))) for name in source.targets},
        }
    )
    return EventLog(key, place, missing, rows, own)


def unix_ms(time: Column, kind: T.DataType, unit: str) -> Column:
    """Returns Unix milliseconds, null for what is no time."""
    if unit == "iso":
        return F.unix_millis(F.to_timestamp(time))
    number = time if isinstance(kind, T.NumericType) else time.cast("string")
    whole = number.cast("bigint") if unit == "ms" else (number.cast("double") * 1000).cast("bigint")
    return F.when(_is_finite(number), whole)  # as a bigint, NaN would be 1970


def read_profile(
    spark: SparkSession,
    settings: Settings,
    name: str,
    features: Sequence[AnyFeature],
    quarantine: Quarantine,
) -> DataFrame:
    """Reads a profile table.

    Args:
      name: its key in `profiles`.
      features: all features of the users; those whose column is here are checked.
    Grain: one row a user and snapshot, as (`ID`, `VALID_FROM`: Unix ms from which events see it, the columns as
      they are). Lists come as lists of strings.
    Raises: UserError where an id stands twice, in one snapshot.
    """
    table = settings.profiles[name]
    key = f"profiles.{name}"
    if table.as_of is None and table.has_snapshots:
        frame, place, missing = _read_days(spark, settings, key, table)
    else:
        frame, place, missing = read_table(spark, settings, key, table)
        frame = frame.withColumn(VALID_FROM, F.lit(_available_from(settings, table)).cast("bigint"))
    if table.as_of is not None:
        need_columns(key, frame, {"as_of": table.as_of})
        with explained(f"{key}.as_of: '{table.as_of}'"):
            taken = unix_ms(quoted(table.as_of), frame.schema[table.as_of].dataType, table.as_of_unit)
            # Strictly before the event: a row taken at the same millisecond is not seen.
            frame = frame.withColumn(VALID_FROM, F.when(taken.between(0, LATEST_TIME_MS), taken + 1))
        bad_time = f"bad time in '{table.as_of}' (expected {table.as_of_unit}, 1970 to 2100)"
    else:
        bad_time = "no day"
    checks = [(F.col(VALID_FROM).isNull(), bad_time)]
    return _keyed(key, table, frame, place, missing, features, checks, quarantine, [VALID_FROM])


def _available_from(settings: Settings, table: ProfileTable) -> int:
    if table.available_from is None:
        return 0
    return settings.day_start_ms((table.available_from - settings.date).days)


def newest_day(spark: SparkSession, settings: Settings, name: str, path: str, before: dt.date) -> dt.date | None:
    """Returns the newest of the LOOK_BACK_DAYS before a day whose files are there; only looks them up.

    Args:
      name: the setting of the path.
      path: holds {date}.
    """
    days = (before - offset * DAY for offset in range(1, LOOK_BACK_DAYS + 1))
    return next((day for day in days if matches(spark, name, _on_day(settings, path, day))), None)


def _on_day(settings: Settings, path: str, day: dt.date) -> str:
    return storage.absolute(settings.for_date(day).expand(path)[0])


def _read_days(
    spark: SparkSession, settings: Settings, key: str, table: ProfileTable
) -> tuple[DataFrame, str, list[str]]:
    """Reads one snapshot a day; each is seen from the next day's start.

    The first events see the newest snapshot before the windows, which may be some days old.
    """
    assert table.path is not None
    first, patterns, frames, missing = settings.window_days()[0], [], [], []
    newest = newest_day(spark, settings, f"{key}.path", table.path, first) or first - DAY
    for day in [newest, *settings.window_days()]:
        of_day = settings.for_date(day)
        patterns.append(_on_day(settings, table.path, day))
        if not matches(spark, f"{key}.path", patterns[-1]):
            missing.append(day.isoformat())
            continue
        frame, _, _ = read_table(spark, of_day, key, table)
        frames.append(frame.withColumn(VALID_FROM, F.lit(of_day.day_start_ms(1)).cast("bigint")))
    place = _shown(patterns)
    if not frames:
        raise UserError(f"{key}.path: nothing found at {place}; expected {table.format} files")
    columns = {frozenset(frame.columns) for frame in frames}
    if len(columns) > 1:
        raise UserError(f"{key}.path: the days' files differ in their columns; expected the same in each")
    return reduce(DataFrame.unionByName, frames), place, missing


def read_catalogue(
    spark: SparkSession, settings: Settings, features: Sequence[AnyFeature], quarantine: Quarantine
) -> DataFrame:
    """Reads the catalogue.

    Grain: one row an item, as (`ID`, UPLOAD_TIME: Unix ms or `ALWAYS`, the columns as they are). Items uploaded
    after the windows are among them, counted as filtered: their events are told apart from those of no item.
    Raises: UserError where an id stands twice, or all items were uploaded after the windows.
    """
    table = settings.catalogue
    frame, place, missing = read_table(spark, settings, "catalogue", table)
    checks: list[tuple[Column, str]] = []
    if table.upload_time is None:
        frame = frame.withColumn(UPLOAD_TIME, F.lit(ALWAYS))
    else:
        need_columns("catalogue", frame, {"upload_time": table.upload_time})
        given = quoted(table.upload_time)
        with explained(f"catalogue.upload_time: '{table.upload_time}'"):
            time = unix_ms(given, frame.schema[table.upload_time].dataType, table.upload_unit)
            time = F.when(time.between(0, LATEST_TIME_MS), time)
            frame = frame.withColumn(UPLOAD_TIME, F.when(_is_blank(given), F.lit(ALWAYS)).otherwise(time))
        bad = f"bad time in '{table.upload_time}' (expected {table.upload_unit}, 1970 to 2100)"
        checks.append((F.col(UPLOAD_TIME).isNull(), bad))
    rows = _keyed("catalogue", table, frame, place, missing, features, checks, quarantine, [UPLOAD_TIME])
    if table.upload_time is None:
        return rows
    # A past date is built from what was known then.
    counts = quarantine.counts["catalogue"]
    kept = rows.filter(F.col(UPLOAD_TIME) < settings.day_start_ms(settings.window.test_days)).count()
    if later := counts.used["read"] - kept:
        filtered = {**counts.filtered, LATER_ITEM: later}
        quarantine.counts["catalogue"] = counts.model_copy(update={"used": {"read": kept}, "filtered": filtered})
    if kept == 0:
        raise UserError(f"catalogue: all {later:,} items of {place} were {LATER_ITEM}; check --date")
    return rows


def _keyed(
    name: str,
    table: KeyedTable,
    frame: DataFrame,
    place: str,
    missing: Sequence[str],
    features: Sequence[AnyFeature],
    checks: Sequence[tuple[Column, str]],
    quarantine: Quarantine,
    ours: Sequence[str],
) -> DataFrame:
    """Checks and quarantines the rows of a table by id; see `read_profile` and `read_catalogue`.

    Args:
      ours: columns that the reader has added.
    """
    key = table.key
    need_columns(name, frame, {"key": key})
    _need_ids(name, frame, {"key": key})
    all_checks = [
        (_malformed(frame), "malformed row"),
        (_is_blank(quoted(key)), f"no id in '{key}'"),
        (_is_not_utf8(frame, key), f"id in '{key}' {NOT_UTF8}"),
        *checks,
    ]
    for feature in features:
        if feature.source_column in frame.columns:
            all_checks += [(_is_not_utf8(frame, feature.source_column), f"'{feature.source_column}' {NOT_UTF8}")]
            all_checks += _column_checks(frame, feature)
    readable = quarantine.split(name, frame, _first_reason(*all_checks), place, missing, ours, table.is_columnar)
    snapshot = [VALID_FROM] if VALID_FROM in ours else []
    if table.latest_by is not None:
        need_columns(name, readable, {"latest_by": table.latest_by})
        order = _newest_first(f"{name}.latest_by", table.latest_by, readable)
        newest = Window.partitionBy(quoted(key).cast("string"), *snapshot).orderBy(*order)
        latest = readable.withColumn("__rank", F.rank().over(newest)).filter("__rank = 1").drop("__rank")
        counts = quarantine.counts[name]
        kept = latest.count()
        older = {"an older row of its id": counts.used["read"] - kept} if kept < counts.used["read"] else {}
        quarantine.counts[name] = counts.model_copy(update={"used": {"read": kept}, "filtered": older})
        readable = latest
    _check_unique(name, key, readable, snapshot)
    columns = [
        (quoted(c.name).cast("array<string>") if isinstance(c.dataType, T.ArrayType) else quoted(c.name)).alias(c.name)
        for c in readable.schema.fields
    ]
    return readable.select(quoted(key).cast("string").alias(ID), *columns)


def _newest_first(setting: str, column: str, frame: DataFrame) -> list[Column]:
    """Returns what orders rows by a column, the largest first: numbers in texts by value, before other texts."""
    kind, value = frame.schema[column].dataType, quoted(column)
    if isinstance(kind, (T.DateType, T.TimestampType, T.TimestampNTZType, T.BooleanType, T.IntegralType)):
        return [F.desc_nulls_last(value)]
    if not isinstance(kind, (T.StringType, T.BinaryType, T.NumericType)):
        raise UserError(f"{setting}: '{column}' holds {kind.simpleString()}; expected numbers, times or text")
    text = value.cast("string")
    number = value if isinstance(kind, T.NumericType) else text
    return [F.desc_nulls_last(F.nanvl(number.cast("double"), F.lit(None))), F.desc_nulls_last(text)]


def _column_checks(frame: DataFrame, feature: AnyFeature) -> list[tuple[Column, str]]:
    """Returns what makes a row's value unreadable for a feature, each with its reason."""
    column, place = quoted(feature.source_column), f"'{feature.source_column}'"
    kind = frame.schema[feature.source_column].dataType
    takes_list = isinstance(feature, VarLenSparseFeat) or getattr(feature, "reduce_type", "none") != "none"
    if isinstance(kind, T.ArrayType) and (not takes_list or isinstance(feature, TextFeat)):
        raise UserError(
            f"features.{feature.name}.column: {place} holds lists, a {feature.kind} takes one value a row; "
            "expected a VarLenSparseFeat, or a DenseFeat with pre_embed and a reduce_type"
        )
    is_number = isinstance(feature, DenseFeat) and feature.is_number
    if is_number or (isinstance(feature, SparseFeat) and feature.is_bucketised):
        plain = isinstance(kind, (T.NumericType, T.BooleanType))
        readable = _is_finite(column) if plain else _is_number(column.cast("string"))
        return [(~_is_blank(column) & ~readable, f"{place} is not a number")]
    if isinstance(feature, VarLenSparseFeat) and feature.weight_column is not None:
        if feature.weight_column not in frame.columns:
            raise UserError(
                f"features.{feature.name}.weight_column: no column is named '{feature.weight_column}'"
                + did_you_mean(feature.weight_column, frame.columns)
            )
        of_weights = frame.schema[feature.weight_column].dataType
        # Blank entries count here: an id and its weight stand at the same place.
        ids = _raw_entries(column, kind, feature.separator)
        weights = _raw_entries(quoted(feature.weight_column), of_weights, feature.separator)
        name = f"'{feature.weight_column}'"
        return [
            (F.size(ids) != F.size(weights), f"{place} and {name} differ in length"),
            (F.exists(weights, lambda weight: ~_is_number(weight)), f"{name} holds what is not a number"),
        ]
    if isinstance(feature, VarLenSparseFeat) and feature.weighted and not isinstance(feature, TextFeat):
        return [
            (
                F.exists(list_entries(column, kind, feature.separator), lambda entry: ~_is_weighted(entry)),
                f"{place} is not id:weight,id:weight",
            )
        ]
    return []


def _raw_entries(column: Column, kind: T.DataType, separator: str) -> Column:
    """Returns the entries of a list as texts, blank ones included; null is an empty list."""
    empty = F.array().cast("array<string>")
    if isinstance(kind, T.ArrayType):
        return F.coalesce(F.transform(column.cast("array<string>"), lambda e: F.coalesce(e, F.lit(""))), empty)
    return F.when(_is_blank(column), empty).otherwise(F.split(column.cast("string"), f"\\Q{separator}\\E"))


def list_entries(column: Column, kind: T.DataType, separator: str) -> Column:
    """Returns the entries of a list as the encoder splits them: trimmed, without null and blank ones."""
    if isinstance(kind, T.ArrayType):
        entries = column.cast("array<string>")
    else:
        entries = F.split(column.cast("string"), f"\\Q{separator}\\E")
    trimmed = F.transform(entries, lambda entry: F.regexp_replace(entry, r"(?U)^\s+|\s+$", ""))
    return F.filter(trimmed, lambda entry: entry != "")


def _is_weighted(entry: Column) -> Column:
    return entry.rlike(r"\S\s*:[^:]*$") & _is_number(F.regexp_extract(entry, "[^:]*$", 0))


def _is_number(text: Column) -> Column:
    """Whether a text is a number that Arrow can read: Java also takes `1d`, `0x1p3` and `Infinity`."""
    number = r"^\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*$"
    return text.rlike(number) & _is_finite(text)


def _check_unique(name: str, key: str, frame: DataFrame, within: Sequence[str] = ()) -> None:
    repeated = frame.groupBy(quoted(key).cast("string").alias(ID), *within).count().filter("count > 1")
    worst = repeated.orderBy(F.desc("count"), ID).limit(3).collect()
    if worst:
        shown = ", ".join(f"'{row[ID]}' ({row['count']} rows)" for row in worst)
        fix = "" if name.startswith("vectors.") else ", or latest_by: the column that says which row is newest"
        raise UserError(
            f"{name}.key: {repeated.count():,} values of '{key}' stand in more than one row"
            f"{' of a snapshot' if within else ''}: {shown}; expected one row an id{fix}"
        )


def read_vectors(
    spark: SparkSession, settings: Settings, name: str, table: VectorTable, quarantine: Quarantine
) -> DataFrame:
    """Reads pretrained vectors. Grain: one row an id, as (id, values: array<float> of the stated width)."""
    key = f"vectors.{name}"
    path = storage.absolute(settings.expand(table.path)[0])
    if not matches(spark, f"{key}.path", path):
        raise UserError(f"{key}.path: nothing found at {path}; expected {table.format} files")
    with explained(f"{key}.path"), damage_explained(key, path):
        if table.format == "parquet":
            frame = spark.read.parquet(path)
            need_columns(key, frame, {"key": table.key, "values": table.values})
            _need_ids(key, frame, {"key": table.key})
            _need_vectors(key, frame, table.values)
        else:
            types = {table.key: "string", table.values: "array<float>", CORRUPT: "string"}
            schema = ", ".join(f"`{column}` {kind}" for column, kind in types.items())
            frame = spark.read.schema(schema).option("columnNameOfCorruptRecord", CORRUPT).json(path)
    values = quoted(table.values)
    reason = _first_reason(
        (_malformed(frame), "malformed row"),
        (_is_blank(quoted(table.key)), f"no id in '{table.key}'"),
        (_is_not_utf8(frame, table.key), f"id in '{table.key}' {NOT_UTF8}"),
        (values.isNull() | (F.size(values) != table.width), f"'{table.values}' is not {table.width} numbers"),
        (
            F.exists(values, lambda value: ~_is_finite(value)),
            f"'{table.values}' holds null, NaN or infinity",
        ),
    )
    readable = quarantine.split(key, frame, reason, path)
    _check_unique(key, table.key, readable)
    return readable.select(quoted(table.key).cast("string").alias("id"), values.cast("array<float>").alias("values"))


def read_published(
    spark: SparkSession,
    settings: Settings,
    name: str,
    place: str,
    key: str,
    values: str,
    width: int | None = None,
) -> tuple[DataFrame, int]:
    """Reads a model's published vectors.

    Args:
      name: the setting that names them, samples.negatives.NAME.items or .users.
      place: a Parquet folder, or `table:NAME`, whose newest partition before the run's date is read. {date} in the
        folder stands for the newest day before the run's date that is there.
      width: of the vectors that these are compared with, where it is known.
    Returns: one row an id, as (key: string, values: array<float>), and the vectors' width.
    Raises: UserError where there are none, an id stands twice, or the vectors differ in width or are not finite.
    """
    frame, where = _published_rows(spark, settings, name, place)
    kind, _, part = name.rpartition(".")
    settings_of_columns = {"user_id" if part == "users" else "id": key}
    need_columns(kind, frame, {**settings_of_columns, "values": values})
    _need_ids(kind, frame, settings_of_columns)
    _need_vectors(kind, frame, values)
    rows = frame.select(quoted(key).cast("string").alias(key), quoted(values).cast("array<float>").alias(values))
    vector = quoted(values)
    bad = vector.isNull() | F.exists(vector, lambda value: ~_is_finite(value))
    with damage_explained(name, where):
        found = rows.agg(
            F.count("*").alias("rows"),
            F.countDistinct(quoted(key)).alias("ids"),
            F.min(F.size(vector)).alias("least"),
            F.max(F.size(vector)).alias("most"),
            F.sum(bad.cast("int")).alias("bad"),
        ).first()
        no_texts = frame.filter(_is_not_utf8(frame, key)).count()
    assert found is not None  # an aggregate over no rows is a row
    if no_texts:
        raise UserError(f"{name}: {no_texts:,} ids in '{key}' of {where} are not UTF-8 text; expected text or integers")
    if not found["rows"] or found["ids"] != found["rows"] or found["least"] != found["most"] or found["bad"]:
        raise UserError(
            f"{name}: {where} holds {found['rows']:,} rows of {found['ids']:,} ids, "
            f"{found['least']} to {found['most']} numbers each, {found['bad'] or 0:,} of them null or not finite; "
            "expected one vector an id, of one width"
        )
    if width is not None and found["most"] != width:
        raise UserError(
            f"{name}: the vectors of {where} are {found['most']} wide, the items' {width}; expected those of one model"
        )
    return rows, found["most"]


def _published_rows(spark: SparkSession, settings: Settings, name: str, place: str) -> tuple[DataFrame, str]:
    """Returns published vectors as they are, and where they lie."""
    day = settings.date.isoformat()
    if place.startswith(TABLE):
        table = place.removeprefix(TABLE)
        with explained(name):
            frame = spark.table(table)
        need_columns(name, frame, {"table": PARTITION})
        newest = frame.filter(F.col(PARTITION) < day).agg(F.max(PARTITION)).first()
        if newest is None or newest[0] is None:
            raise UserError(f"{name}: {table} has no partition before {day}; publish one first")
        return frame.filter(F.col(PARTITION) == newest[0]), f"{place}, {PARTITION}={newest[0]}"
    if "{date" in place:
        found = newest_day(spark, settings, name, place, settings.date)
        if found is None:
            first, last = (_on_day(settings, place, settings.date - days * DAY) for days in (LOOK_BACK_DAYS, 1))
            raise UserError(
                f"{name}: nothing found at {first} … {last} ({LOOK_BACK_DAYS} days); expected a folder of Parquet "
                f"files of a day before {day}; publish one first"
            )
        folder = _on_day(settings, place, found)
    else:
        folder = storage.absolute(settings.expand(place)[0])
        if not matches(spark, name, folder):
            raise UserError(f"{name}: nothing found at {folder}; expected a folder of Parquet files")
    with explained(name), damage_explained(name, folder):
        return spark.read.parquet(folder), folder
