"""Reading of tables by id: profiles and their snapshots, the catalogue, pretrained and published vectors."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm import storage
from dssm.config import DAY, Settings
from dssm.errors import UserError, did_you_mean
from dssm.features import AnyFeature, DenseFeat, SparseFeat, TextFeat, VarLenSparseFeat
from dssm.manifest import ALWAYS, UPLOAD_TIME
from dssm.samples.published import current_data, decoded_vectors
from dssm.samples.sources import (
    CORRUPT,
    ID,
    LATEST_TIME_MS,
    NOT_UTF8,
    Quarantine,
    damage_explained,
    first_reason,
    is_blank,
    is_finite,
    is_no_id,
    is_not_utf8,
    malformed,
    need_columns,
    need_ids,
    place_of,
    quoted,
    read_table,
    unix_ms,
)
from dssm.sections import KeyedTable, ProfileTable, VectorTable
from dssm.spark import explained, matches

TABLE, PARTITION = "table:", "dt"  # of published vectors
VALID_FROM = "row__valid_from"  # Unix ms from which events see a profile's row
LOOK_BACK_DAYS = 60  # within which the newest day's snapshot or vectors are looked for
LATER_ITEM = "uploaded after the windows"


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
    place = place_of(patterns)
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
            frame = frame.withColumn(UPLOAD_TIME, F.when(is_blank(given), F.lit(ALWAYS)).otherwise(time))
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
            all_checks += _column_checks(frame, feature)
    snapshot = [VALID_FROM] if VALID_FROM in ours else []
    row_key = [] if table.latest_by is not None else [quoted(key).cast("string"), *map(F.col, snapshot)]
    readable, repeated = quarantine.split(
        name, frame, first_reason(*all_checks), place, missing, ours, table.is_columnar, row_key
    )
    if table.latest_by is not None:
        need_columns(name, readable, {"latest_by": table.latest_by})
        order = _newest_first(f"{name}.latest_by", table.latest_by, readable)
        newest = Window.partitionBy(quoted(key).cast("string"), *snapshot).orderBy(*order)
        latest = readable.withColumn("__rank", F.rank().over(newest)).filter("__rank = 1").drop("__rank")
        counts = quarantine.counts[name]
        kept = latest.count()
        older = {"an older row of its id": counts.used["read"] - kept} if kept < counts.used["read"] else {}
        quarantine.counts[name] = counts.model_copy(update={"used": {"read": kept}, "filtered": older})
        readable, repeated = latest, True  # maybe: rows of an id may be equally new
    if repeated:
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
        readable = is_finite(column) if plain else _is_number(column.cast("string"))
        return [(~is_blank(column) & ~readable, f"{place} is not a number")]
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
    return F.when(is_blank(column), empty).otherwise(F.split(column.cast("string"), f"\\Q{separator}\\E"))


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
    return text.rlike(number) & is_finite(text)


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
            need_ids(key, frame, {"key": table.key})
            _need_vectors(key, frame, table.values)
        else:
            types = {table.key: "string", table.values: "array<float>", CORRUPT: "string"}
            schema = ", ".join(f"`{column}` {kind}" for column, kind in types.items())
            frame = spark.read.schema(schema).option("columnNameOfCorruptRecord", CORRUPT).json(path)
    values = quoted(table.values)
    reason = first_reason(
        (malformed(frame), "malformed row"),
        (is_no_id(frame, table.key), f"no id in '{table.key}'"),
        (is_not_utf8(frame, table.key), f"id in '{table.key}' {NOT_UTF8}"),
        (values.isNull() | (F.size(values) != table.width), f"'{table.values}' is not {table.width} numbers"),
        (
            F.exists(values, lambda value: ~is_finite(value)),
            f"'{table.values}' holds null, NaN or infinity",
        ),
    )
    readable, repeated = quarantine.split(key, frame, reason, path, key=[quoted(table.key).cast("string")])
    if repeated:
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
      place: a Parquet folder; that of a published table or of one of its dates, whose current version is read; or
        `table:NAME`, whose newest partition before the run's date is read. {date} in the folder stands for the newest
        day before the run's date that is there.
      width: of the vectors that these are compared with, where it is known.
    Returns: one row an id, as (id: string, values: array<float>), and the vectors' width; of float16 and int8, too.
    Raises: UserError where there are none, an id stands twice, or the vectors differ in width or are not finite.
    """
    frame, where = _published_rows(spark, settings, name, place)
    kind, _, part = name.rpartition(".")
    settings_of_columns = {"user_id" if part == "users" else "id": key}
    need_columns(kind, frame, {**settings_of_columns, "values": values})
    need_ids(kind, frame, settings_of_columns)
    if not isinstance(frame.schema[values].dataType, T.BinaryType):
        _need_vectors(kind, frame, values)
    rows = decoded_vectors(frame, key, values)
    vector = F.col("values")
    bad = vector.isNull() | F.exists(vector, lambda value: ~is_finite(value))
    with damage_explained(name, where):
        found = rows.agg(
            F.count("*").alias("rows"),
            F.countDistinct("id").alias("ids"),
            F.min(F.size(vector)).alias("least"),
            F.max(F.size(vector)).alias("most"),
            F.sum(bad.cast("int")).alias("bad"),
        ).first()
        no_texts = frame.filter(is_not_utf8(frame, key)).count()
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
    folder = current_data(name, folder, day)
    with explained(name), damage_explained(name, folder):
        return spark.read.parquet(folder), folder


def _need_vectors(name: str, frame: DataFrame, column: str) -> None:
    kind = frame.schema[column].dataType
    if not isinstance(kind, T.ArrayType) or not isinstance(kind.elementType, T.NumericType):
        raise UserError(f"{name}.values: '{column}' holds {kind.simpleString()}; expected lists of numbers")
