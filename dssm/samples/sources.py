"""Reading of logs, profiles, catalogue and vectors: every row is used, filtered or quarantined, and counted."""

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
from dssm.features import AnyFeature, DenseFeat, VarLenSparseFeat
from dssm.manifest import EVENT_TIME, ITEM_ID, LABEL, SOURCE, USER_ID, WEIGHT, SourceCounts
from dssm.sections import EventSource, Table, VectorTable
from dssm.spark import counts_by, explained, matches

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
LATEST_TIME_MS = 4_102_444_800_000  # 2100-01-01: later times are mistaken units


@dataclass
class Quarantine:
    """Collects unreadable rows: counts by reason, and the rows as JSON lines under `folder`."""

    folder: str
    max_share: float
    counts: dict[str, SourceCounts] = field(default_factory=dict)

    def split(
        self, name: str, table: DataFrame, reason: Column, place: str, missing_days: Sequence[str] = ()
    ) -> DataFrame:
        """Returns the readable rows of a table; writes and counts the others.

        Args:
          name: the table's key in the settings, such as `sources.events`.
          table: the rows as read.
          reason: text column: why a row is unreadable, null where it is not.
          place: where the table lies, for messages and the manifest.
        Raises: UserError where the unreadable share is above the limit, or no row is left.
        """
        checked = table.withColumn(REASON, reason).persist(StorageLevel.DISK_ONLY)
        with _damage_explained(name, place):
            found = counts_by(checked.withColumn(REASON, F.coalesce(REASON, F.lit(""))), REASON)
        used = found.pop("", 0)
        total = used + sum(found.values())
        if found:
            rows = checked.filter(F.col(REASON).isNotNull())
            own = [quoted(column) for column in table.columns if not column.startswith("__")]
            raw = F.to_json(F.struct(*own))
            self._write(name, rows.select(F.col(REASON).alias("reason"), raw.alias("row")))
        self.counts[name] = SourceCounts(
            place=place, rows_read=total, used={"read": used}, quarantined=found, missing_days=list(missing_days)
        )
        bad = total - used
        if bad > self.max_share * total:
            reasons = "; ".join(f"{reason}: {count:,}" for reason, count in sorted(found.items(), key=lambda x: -x[1]))
            example = checked.filter(F.col(REASON).isNotNull()).drop(REASON).first()
            values = example.asDict() if example else {}
            shown = {k: v for k, v in values.items() if v is not None and not k.startswith("__")}
            raise UserError(
                f"{name}: {bad:,} of {total:,} rows of {place} can't be read ({bad / total:.1%}; "
                f"samples.max_quarantine_share allows {self.max_share:.1%}): {reasons}. One of them: {str(shown)[:300]}"
            )
        if used == 0:
            raise UserError(f"{name}: {place} holds no rows; expected at least one")
        return checked.filter(F.col(REASON).isNull()).drop(REASON, CORRUPT)

    def _write(self, name: str, rows: DataFrame) -> None:
        """Writes one file, `NAME.json.gz`, in an order that only the rows decide."""
        scratch = f"{self.folder}/{name}"
        rows.coalesce(1).sortWithinPartitions("reason", "row").write.json(scratch, compression="gzip")
        (file,) = storage.file_names(scratch, ".json.gz")
        storage.rename(f"{scratch}/{file}", f"{scratch}.json.gz")
        storage.remove(scratch)


@contextlib.contextmanager
def _damage_explained(name: str, place: str) -> Iterator[None]:
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
    spark: SparkSession, settings: Settings, name: str, table: Table, daily: bool = False
) -> tuple[DataFrame, str, list[str]]:
    """Reads a table as it is; columns of text files are strings.

    Args:
      daily: {date} in the path stands for each day of the windows; days without files are told.
    Returns: the rows, the place for messages, and the days of `{date}` that have no file.
    Raises: UserError where nothing is there.
    """
    if table.table is not None:
        with explained(f"{name}.table"):
            return spark.table(table.table), table.place, []
    assert table.path is not None
    patterns = [storage.absolute(path) for path in settings.expand(table.path, daily)]
    paths = [pattern for pattern in patterns if matches(spark, f"{name}.path", pattern)]
    if not paths:
        raise UserError(f"{name}.path: nothing found at {_shown(patterns)}; expected {table.format} files")
    missing = (
        []
        if len(patterns) == 1
        else [
            day.isoformat()
            for day, pattern in zip(settings.window_days(), patterns, strict=True)
            if pattern not in paths
        ]
    )
    with explained(f"{name}.path"), _damage_explained(name, _shown(patterns)):
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


def read_events(
    spark: SparkSession, settings: Settings, name: str, source: EventSource, quarantine: Quarantine
) -> DataFrame:
    """Reads one event log.

    Grain: one row a readable event, as (user_id, item_id, event_time in Unix ms, source, label, weight, kept),
    `kept` false where the source's `where` leaves the row out: of those, all other values may be null or unfit.
    """
    key = f"sources.{name}"
    frame, place, missing = read_table(spark, settings, key, source, daily=True)
    need_columns(key, frame, {"user": source.user, "item": source.item, "time": source.time})
    _need_ids(key, frame, {"user": source.user, "item": source.item})
    columns = frame.drop(CORRUPT)
    with explained(f"{key}.time: '{source.time}'"):
        time = _unix_ms(quoted(source.time), frame.schema[source.time].dataType, source.time_unit)
        frame = frame.withColumn("__time", F.when(time.between(0, LATEST_TIME_MS), time))
    for setting, expression in (("label", source.label), ("weight", source.weight)):
        with explained(f"{key}.{setting}: {expression!r}", columns):
            frame = frame.withColumn(f"__{setting}", F.expr(expression).cast("float"))
    where = source.where or "true"
    with explained(f"{key}.where: {where!r}", columns):
        columns.filter(where)  # analysed, not run: a number is no condition
        frame = frame.withColumn("__where", F.coalesce(F.expr(where), F.lit(False)))
    kept, label, weight = F.col("__where"), F.col("__label"), F.col("__weight")
    reason = _first_reason(
        (_malformed(frame), "malformed row"),
        (kept & _is_blank(quoted(source.user)), f"no user in '{source.user}'"),
        (kept & _is_blank(quoted(source.item)), f"no item in '{source.item}'"),
        (
            kept & F.col("__time").isNull(),
            f"bad time in '{source.time}' (expected {source.time_unit}, 1970 to 2100)",
        ),
        (kept & ~_is_finite(label), "label is not a number"),
        (kept & (~_is_finite(weight) | (weight < 0)), "weight is not a number of at least 0"),
    )
    readable = quarantine.split(key, frame, reason, place, missing)
    return readable.select(
        quoted(source.user).cast("string").alias(USER_ID),
        quoted(source.item).cast("string").alias(ITEM_ID),
        F.col("__time").alias(EVENT_TIME),
        F.lit(name).alias(SOURCE),
        label.alias(LABEL),
        weight.alias(WEIGHT),
        kept.alias("kept"),
    )


def _unix_ms(time: Column, kind: T.DataType, unit: str) -> Column:
    """Returns Unix milliseconds, null for what is no time."""
    if unit == "iso":
        return F.unix_millis(F.to_timestamp(time))
    number = time if isinstance(kind, T.NumericType) else time.cast("string")
    whole = number.cast("bigint") if unit == "ms" else (number.cast("double") * 1000).cast("bigint")
    return F.when(_is_finite(number), whole)  # as a bigint, NaN would be 1970


def read_keyed(
    spark: SparkSession,
    settings: Settings,
    name: str,
    table: Table,
    key: str,
    features: Sequence[AnyFeature],
    quarantine: Quarantine,
) -> DataFrame:
    """Reads a profile table or the catalogue.

    Args:
      name: its key in the settings.
      key: column of the id.
      features: all features of the table's side; those whose column is here are checked.
    Returns: one row an id, as (`ID`, the columns as they are). Lists come as lists of strings.
    Raises: UserError where an id stands twice.
    """
    frame, place, missing = read_table(spark, settings, name, table)
    need_columns(name, frame, {"key": key})
    _need_ids(name, frame, {"key": key})
    checks = [(_malformed(frame), "malformed row"), (_is_blank(quoted(key)), f"no id in '{key}'")]
    for feature in features:
        if feature.source_column in frame.columns:
            checks += _column_checks(frame, feature)
    readable = quarantine.split(name, frame, _first_reason(*checks), place, missing)
    _check_unique(name, key, readable)
    columns = [
        (quoted(c.name).cast("array<string>") if isinstance(c.dataType, T.ArrayType) else quoted(c.name)).alias(c.name)
        for c in readable.schema.fields
    ]
    return readable.select(quoted(key).cast("string").alias(ID), *columns)


def _column_checks(frame: DataFrame, feature: AnyFeature) -> list[tuple[Column, str]]:
    """Returns what makes a row's value unreadable for a feature, each with its reason."""
    column, place = quoted(feature.source_column), f"'{feature.source_column}'"
    kind = frame.schema[feature.source_column].dataType
    takes_list = isinstance(feature, VarLenSparseFeat) or getattr(feature, "reduce_type", "none") != "none"
    if isinstance(kind, T.ArrayType) and not takes_list:
        raise UserError(
            f"features.{feature.name}.column: {place} holds lists, a {feature.kind} takes one value a row; "
            "expected a VarLenSparseFeat, or a DenseFeat with pre_embed and a reduce_type"
        )
    if isinstance(feature, DenseFeat) and feature.pre_embed is None:
        plain = isinstance(kind, (T.NumericType, T.BooleanType))
        readable = _is_finite(column) if plain else _is_number(column.cast("string"))
        return [(~_is_blank(column) & ~readable, f"{place} is not a number")]
    if isinstance(feature, VarLenSparseFeat) and feature.weighted:
        return [
            (
                F.exists(list_entries(column, kind, feature.separator), lambda entry: ~_is_weighted(entry)),
                f"{place} is not id:weight,id:weight",
            )
        ]
    return []


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


def _check_unique(name: str, key: str, frame: DataFrame) -> None:
    repeated = frame.groupBy(quoted(key).cast("string").alias(ID)).count().filter("count > 1")
    worst = repeated.orderBy(F.desc("count"), ID).limit(3).collect()
    if worst:
        shown = ", ".join(f"'{row[ID]}' ({row['count']} rows)" for row in worst)
        raise UserError(
            f"{name}.key: {repeated.count():,} values of '{key}' stand in more than one row: {shown}; "
            "expected one row an id"
        )


def read_vectors(
    spark: SparkSession, settings: Settings, name: str, table: VectorTable, quarantine: Quarantine
) -> DataFrame:
    """Reads pretrained vectors. Grain: one row an id, as (id, values: array<float> of the stated width)."""
    key = f"vectors.{name}"
    path = storage.absolute(settings.expand(table.path)[0])
    if not matches(spark, f"{key}.path", path):
        raise UserError(f"{key}.path: nothing found at {path}; expected {table.format} files")
    with explained(f"{key}.path"), _damage_explained(key, path):
        if table.format == "parquet":
            frame = spark.read.parquet(path)
            need_columns(key, frame, {"key": table.key, "values": table.values})
            _need_ids(key, frame, {"key": table.key})
            kind = frame.schema[table.values].dataType
            if not isinstance(kind, T.ArrayType) or not isinstance(kind.elementType, T.NumericType):
                raise UserError(
                    f"{key}.values: '{table.values}' holds {kind.simpleString()}; expected lists of numbers"
                )
        else:
            types = {table.key: "string", table.values: "array<float>", CORRUPT: "string"}
            schema = ", ".join(f"`{column}` {kind}" for column, kind in types.items())
            frame = spark.read.schema(schema).option("columnNameOfCorruptRecord", CORRUPT).json(path)
    values = quoted(table.values)
    reason = _first_reason(
        (_malformed(frame), "malformed row"),
        (_is_blank(quoted(table.key)), f"no id in '{table.key}'"),
        (values.isNull() | (F.size(values) != table.width), f"'{table.values}' is not {table.width} numbers"),
        (
            F.exists(values, lambda value: ~_is_finite(value)),
            f"'{table.values}' holds null, NaN or infinity",
        ),
    )
    readable = quarantine.split(key, frame, reason, path)
    _check_unique(key, table.key, readable)
    return readable.select(quoted(table.key).cast("string").alias("id"), values.cast("array<float>").alias("values"))
