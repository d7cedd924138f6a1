"""Event logs as they are read: their own columns, ours, and why a row is unreadable."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dssm.config import DAY, Settings
from dssm.manifest import EVENT_TIME, ITEM_ID, LABEL, SOURCE, USER_ID, WEIGHT, target_column
from dssm.samples.sources import (
    CORRUPT,
    NOT_UTF8,
    REASON,
    first_reason,
    is_blank,
    is_finite,
    is_no_id,
    is_not_utf8,
    malformed,
    need_columns,
    need_ids,
    quoted,
    read_table,
)
from dssm.samples.times import TimeColumn
from dssm.sections import Counter, EventSource, History, Target
from dssm.spark import explained

KEPT = "__kept"


@dataclass(frozen=True)
class EventLog:
    """One log as it is read.

    Attributes:
      rows: one row a row of the log: its own columns, ours, and REASON, why it is unreadable.
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
    first = dt.datetime.fromtimestamp(settings.day_start_ms(-settings.window.train_days) // 1000, dt.UTC)
    begin = (first - days * DAY).astimezone(ZoneInfo(settings.timezone)).date()
    return (settings.window_days()[0] - begin).days


def read_events(spark: SparkSession, settings: Settings, name: str, source: EventSource) -> EventLog:
    """Reads one event log: of one in days' files those of the windows, and of `days_before` them.

    KEPT is false where the source's `where` leaves the row out: of those, all other values may be null or unfit.
    """
    key = f"sources.{name}"
    frame, place, missing = read_table(spark, settings, key, source, True, days_before(settings, name))
    need_columns(key, frame, {"user": source.user, "item": source.item, "time": source.time})
    need_ids(key, frame, {"user": source.user, "item": source.item})
    own = frame.columns
    columns = frame.drop(CORRUPT)
    time = TimeColumn(key, "time", source.time, "time_unit", source.time_unit)
    frame = frame.withColumn(EVENT_TIME, time.unix_ms(frame))
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
        no_number = value.isNull() & ~is_blank(F.expr(expression))
        outside = no_number | (value.isNotNull() & (F.isnan(value) | (value < 0) | (value > 1)))
        target_checks.append((F.col(KEPT) & outside, f"target {target} is not in {scale.low:g}…{scale.high:g}"))
    where = source.where or "true"
    with explained(f"{key}.where: {where!r}", columns):
        columns.filter(where)  # analysed, not run: a number is no condition
        frame = frame.withColumn(KEPT, F.coalesce(F.expr(where), F.lit(False)))
    kept, label, weight = F.col(KEPT), F.col(LABEL), F.col(WEIGHT)
    reason = first_reason(
        (malformed(frame), "malformed row"),
        (kept & is_no_id(frame, source.user), f"no user in '{source.user}'"),
        (kept & is_not_utf8(frame, source.user), f"user in '{source.user}' {NOT_UTF8}"),
        (kept & is_no_id(frame, source.item), f"no item in '{source.item}'"),
        (kept & is_not_utf8(frame, source.item), f"item in '{source.item}' {NOT_UTF8}"),
        (kept & F.col(EVENT_TIME).isNull(), time.bad_time),
        (kept & ~is_finite(label), "label is not a number"),
        (kept & (~is_finite(weight) | (weight < 0)), "weight is not a number of at least 0"),
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
