"""Reading of tables by id: profiles and their snapshots, the catalogue."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm.config import DAY, Settings
from dssm.errors import UserError
from dssm.features import AnyFeature
from dssm.manifest import ALWAYS, UPLOAD_TIME
from dssm.samples.column_checks import column_checks, holds_ids, with_whole_ids
from dssm.samples.dated_paths import newest_day, on_day
from dssm.samples.sources import (
    ID,
    NOT_UTF8,
    Quarantine,
    first_reason,
    is_blank,
    is_no_id,
    is_not_utf8,
    malformed,
    need_columns,
    need_ids,
    place_of,
    quoted,
    read_table,
)
from dssm.samples.times import TimeColumn
from dssm.sections import KeyedTable, ProfileTable
from dssm.spark import matches

VALID_FROM = "row__valid_from"  # Unix ms from which events see a profile's row
LATER_ITEM = "uploaded after the windows"
OLDER_ROW, LATER_ROW = "an older row of its id", "of after the windows"
DATES = (T.DateType, T.TimestampType, T.TimestampNTZType)


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
    older = [history.then for history in settings.histories.values() if history.then is not None]
    ids = [*older, *(feature.source_column for feature in features if holds_ids(feature))]
    if table.as_of is None and table.has_snapshots:
        frame, place, missing = _read_days(spark, settings, key, table, ids)
    else:
        frame, place, missing = read_table(spark, settings, key, table)
        frame = frame.withColumn(VALID_FROM, F.lit(_available_from(settings, table)).cast("bigint"))
    if table.as_of is not None:
        need_columns(key, frame, {"as_of": table.as_of})
        taken = TimeColumn(key, "as_of", table.as_of, "as_of_unit", table.as_of_unit)
        frame = frame.withColumn(VALID_FROM, taken.seen_from(frame))
        bad_time = taken.bad_time
    else:
        bad_time = "no day"
    older = [column for column in dict.fromkeys(older) if column in frame.columns]
    frame = with_whole_ids(frame, older)
    checks = [(F.col(VALID_FROM).isNull(), bad_time)]
    checks += [(is_not_utf8(frame, column), f"'{column}' {NOT_UTF8}") for column in older]
    end = settings.day_start_ms(settings.window.test_days)
    return _keyed(key, table, frame, place, missing, features, checks, quarantine, [VALID_FROM], end)


def _available_from(settings: Settings, table: ProfileTable) -> int:
    if table.available_from is None:
        return 0
    return settings.day_start_ms((table.available_from - settings.date).days)


def _read_days(
    spark: SparkSession, settings: Settings, key: str, table: ProfileTable, ids: Sequence[str]
) -> tuple[DataFrame, str, list[str]]:
    """Reads one snapshot a day; each is seen from the next day's start.

    The first events see the newest snapshot before the windows, which may be some days old.

    Args: ids: columns that hold ids, or lists of them, where they are there.
    Raises: UserError where two days have one file, no day has any, or a day's keys are no ids.
    """
    assert table.path is not None
    first, frames = settings.window_days()[0], []
    newest = newest_day(spark, settings, f"{key}.path", table.path, first) or first - DAY
    missing = [(newest + number * DAY).isoformat() for number in range(1, (first - newest).days)]  # they may come late
    patterns = {day: on_day(settings, table.path, day) for day in [newest, *settings.window_days()]}
    _check_each_its_own(key, table.path, patterns)
    for day, pattern in patterns.items():
        of_day = settings.for_date(day)
        if not matches(spark, f"{key}.path", pattern):
            missing.append(day.isoformat())
            continue
        frame, _, _ = read_table(spark, of_day, key, table)
        # By day: beside the text of another day, a float becomes the text 7.0.
        need_columns(key, frame, {"key": table.key})
        need_ids(key, frame, {"key": table.key})
        frame = with_whole_ids(frame, [c for c in ids if c in frame.columns and c != table.latest_by])
        frames.append(frame.withColumn(VALID_FROM, F.lit(of_day.day_start_ms(1)).cast("bigint")))
    place = place_of(list(patterns.values()))
    if not frames:
        raise UserError(f"{key}.path: nothing found at {place}; expected {table.format} files")
    columns = {frozenset(frame.columns) for frame in frames}
    if len(columns) > 1:
        raise UserError(f"{key}.path: the days' files differ in their columns; expected the same in each")
    return reduce(DataFrame.unionByName, frames), place, missing


def _check_each_its_own(key: str, path: str, patterns: Mapping[dt.date, str]) -> None:
    """Checks that no two days have one file: what it holds of the later one the day after the earlier would see."""
    first_of: dict[str, dt.date] = {}
    for day, pattern in patterns.items():
        if (other := first_of.setdefault(pattern, day)) != day:
            raise UserError(
                f"{key}.path: {path} is {pattern} on {other} and on {day}; expected a file for each day, as {{date}} "
                "and {date:%Y%m%d} name them. For files of several days put * in the place of {date}, and name as_of, "
                "the column of the time that a row was taken"
            )


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
        uploaded = TimeColumn("catalogue", "upload_time", table.upload_time, "upload_unit", table.upload_unit)
        always = is_blank(quoted(table.upload_time))
        frame = frame.withColumn(UPLOAD_TIME, F.when(always, F.lit(ALWAYS)).otherwise(uploaded.unix_ms(frame)))
        checks.append((F.col(UPLOAD_TIME).isNull(), uploaded.bad_time))
    end = settings.day_start_ms(settings.window.test_days)
    rows = _keyed("catalogue", table, frame, place, missing, features, checks, quarantine, [UPLOAD_TIME], end)
    if table.upload_time is None:
        return rows
    # A past date is built from what was known then.
    counts = quarantine.counts["catalogue"]
    kept = rows.filter(F.col(UPLOAD_TIME) < end).count()
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
    end: int,
) -> DataFrame:
    """Checks and quarantines the rows of a table by id; see `read_profile` and `read_catalogue`.

    Args:
      ours: columns that the reader has added.
      end: Unix ms, of the windows.
    """
    key = table.key
    need_columns(name, frame, {"key": key})
    need_ids(name, frame, {"key": key})
    all_checks = [
        (malformed(frame), "malformed row"),
        (is_no_id(frame, key), f"no id in '{key}'"),
        (is_not_utf8(frame, key), f"id in '{key}' {NOT_UTF8}"),
        *checks,
    ]
    for feature in features:
        if feature.source_column in frame.columns:
            all_checks += [(is_not_utf8(frame, feature.source_column), f"'{feature.source_column}' {NOT_UTF8}")]
            all_checks += column_checks(frame, feature)
    snapshot = [VALID_FROM] if VALID_FROM in ours else []
    row_key = [] if table.latest_by is not None else [quoted(key).cast("string"), *map(F.col, snapshot)]
    readable, repeated = quarantine.split(
        name, frame, first_reason(*all_checks), place, missing, ours, table.is_columnar, row_key
    )
    if table.latest_by is not None:
        readable = _latest_rows(
            name, table.latest_by, readable, [quoted(key).cast("string"), *snapshot], end, quarantine
        )
        repeated = True  # maybe: rows of an id may be equally new
    if repeated:
        check_unique(name, key, readable, snapshot)
    ids = [f.source_column for f in features if holds_ids(f) and f.source_column in readable.columns]
    readable = with_whole_ids(readable, ids)  # not before: the newest row is found by numbers
    columns = [
        (quoted(c.name).cast("array<string>") if isinstance(c.dataType, T.ArrayType) else quoted(c.name)).alias(c.name)
        for c in readable.schema.fields
    ]
    return readable.select(quoted(key).cast("string").alias(ID), *columns)


def _latest_rows(
    name: str, column: str, rows: DataFrame, key: Sequence[Column | str], end: int, quarantine: Quarantine
) -> DataFrame:
    """Returns the rows of each key that are newest by a column, and counts the others as filtered.

    Args:
      end: Unix ms: of a column of dates or timestamps, a row of then or later is none.
    Raises: UserError where the column is not there or orders no rows, or no row is left.
    """
    need_columns(name, rows, {"latest_by": column})
    order = _newest_first(f"{name}.latest_by", column, rows)
    counts = quarantine.counts[name]
    read = known = counts.used["read"]
    if isinstance(rows.schema[column].dataType, DATES):
        # A past date is built from what was known then.
        time = F.unix_millis(quoted(column).cast("timestamp"))
        rows = rows.filter(time.isNull() | (time < end))
        known = rows.count()
        if known == 0:
            raise UserError(f"{name}.latest_by: all {read:,} rows of {counts.place} are {LATER_ROW}; check --date")
    newest = Window.partitionBy(*key).orderBy(*order)
    latest = rows.withColumn("__rank", F.rank().over(newest)).filter("__rank = 1").drop("__rank")
    kept = latest.count()
    filtered = {reason: left for reason, left in ((OLDER_ROW, known - kept), (LATER_ROW, read - known)) if left}
    quarantine.counts[name] = counts.model_copy(update={"used": {"read": kept}, "filtered": filtered})
    return latest


def _newest_first(setting: str, column: str, frame: DataFrame) -> list[Column]:
    """Returns what orders rows by a column, the largest first: numbers in texts by value, before other texts."""
    kind, value = frame.schema[column].dataType, quoted(column)
    if isinstance(kind, (*DATES, T.BooleanType, T.IntegralType)):
        return [F.desc_nulls_last(value)]
    if not isinstance(kind, (T.StringType, T.BinaryType, T.NumericType)):
        raise UserError(f"{setting}: '{column}' holds {kind.simpleString()}; expected numbers, times or text")
    text = value.cast("string")
    number = value if isinstance(kind, T.NumericType) else text
    return [F.desc_nulls_last(F.nanvl(number.cast("double"), F.lit(None))), F.desc_nulls_last(text)]


def check_unique(name: str, key: str, frame: DataFrame, within: Sequence[str] = ()) -> None:
    repeated = frame.groupBy(quoted(key).cast("string").alias(ID), *within).count().filter("count > 1")
    worst = repeated.orderBy(F.desc("count"), ID).limit(3).collect()
    if worst:
        shown = ", ".join(f"'{row[ID]}' ({row['count']} rows)" for row in worst)
        fix = "" if name.startswith("vectors.") else ", or latest_by: the column that says which row is newest"
        raise UserError(
            f"{name}.key: {repeated.count():,} values of '{key}' stand in more than one row"
            f"{' of a snapshot' if within else ''}: {shown}; expected one row an id{fix}"
        )
