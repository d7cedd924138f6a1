"""Events: every row of the logs and what becomes of it."""

from __future__ import annotations

from functools import reduce

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from dssm.config import Settings
from dssm.errors import UserError
from dssm.manifest import (
    CLICKED,
    EVENT_TIME,
    ITEM_ID,
    ITEM_INDEX,
    LABEL,
    LAST_TIME,
    POSITIVE,
    SOURCE,
    TARGETS,
    USER_ID,
    WARM,
)
from dssm.samples.sources import ID, Quarantine, read_events

TRAIN, TEST = "train", "test"
FATE = "__fate"  # train, test, or why the row is no sample
IN_LOG = "__in_log"  # whether the row counts as something the user did


def all_events(spark: SparkSession, settings: Settings, catalogue: DataFrame, quarantine: Quarantine) -> DataFrame:
    """Reads all logs and says what becomes of each row.

    Grain: one row a readable event; FATE is train, test, or the reason why it is no sample;
    IN_LOG whether it counts as something the user did (for histories, seen items, baselines).
    """
    logs = [read_events(spark, settings, name, source, quarantine) for name, source in settings.sources.items()]
    known = catalogue.select(F.col(ID).alias(ITEM_ID), ITEM_INDEX)
    events = reduce(DataFrame.unionByName, logs).join(known, ITEM_ID, "left")
    return (
        events.withColumn(FATE, _fate(settings))
        .withColumn(IN_LOG, F.col("kept") & F.col(ITEM_INDEX).isNotNull())
        .persist(StorageLevel.DISK_ONLY)
    )


def _fate(settings: Settings) -> Column:
    train_start, test_start = settings.day_start_ms(-settings.window.train_days), settings.day_start_ms(0)
    test_end = settings.day_start_ms(settings.window.test_days)
    time = F.col(EVENT_TIME)

    def has_role(role: str) -> Column:
        return F.col(SOURCE).isin([name for name, source in settings.sources.items() if role in source.roles])

    may_train = F.lit(True) if settings.samples.train_rows == "all" else F.col(LABEL) > 0
    return (
        F.when(~F.col("kept"), "left out by where")
        .when(F.col(ITEM_INDEX).isNull(), "item not in the catalogue")
        .when((time < train_start) | (time >= test_end), "outside the windows")
        .when((time < test_start) & ~has_role(TRAIN), "source has no train role")
        .when((time >= test_start) & ~has_role(TEST), "source has no test role")
        .when(time >= test_start, TEST)
        .when(may_train, TRAIN)
        .otherwise("negative, and train_rows is positives")
    )


def count_fates(events: DataFrame, quarantine: Quarantine) -> None:
    """Splits each source's readable rows, in the counts, into used and filtered."""
    fates: dict[str, dict[str, int]] = {}
    for row in events.groupBy(SOURCE, FATE).count().collect():
        fates.setdefault(f"sources.{row[SOURCE]}", {})[row[FATE]] = row["count"]
    for name, found in fates.items():
        used = {fate: found[fate] for fate in (TRAIN, TEST) if fate in found}
        filtered = {fate: found[fate] for fate in sorted(found) if fate not in used}
        counts = quarantine.counts[name]
        quarantine.counts[name] = counts.model_copy(update={"used": used, "filtered": filtered})
        total = sum(found.values()) + sum(counts.quarantined.values())
        if total != counts.rows_read:
            raise RuntimeError(f"{name}: {counts.rows_read} rows read, {total} accounted for")


def check_windows(settings: Settings, events: DataFrame, train_rows: int, test_rows: int) -> None:
    first, split, last = -settings.window.train_days, 0, settings.window.test_days
    for part, rows, begin, end in ((TRAIN, train_rows, first, split), (TEST, test_rows, split, last)):
        if rows:
            continue
        log = (
            events.agg(F.min(EVENT_TIME), F.max(EVENT_TIME))
            .select(
                *[
                    F.date_format(F.timestamp_millis(F.col(f"{f}({EVENT_TIME})")), "yyyy-MM-dd").alias(f)
                    for f in ("min", "max")
                ]
            )
            .first()
        )
        assert log is not None  # an aggregate over no rows is a row of nulls
        days = settings.window_days()
        begin_day, end_day = days[begin - first], days[end - first - 1]
        raise UserError(
            f"window.{part}_days: no row becomes a {part} sample from {begin_day} to {end_day}; "
            f"the logs span {log['min'] or '?'} to {log['max'] or '?'}; "
            "expected rows there: check --date, window and the sources' roles and labels"
        )


def clicked_in_test(events: DataFrame, settings: Settings) -> DataFrame:
    """What to find for each user.

    Grain: one row a user with a positive in the test window, as (USER_ID, CLICKED: item indexes, ascending,
    WARM: 1 if it has any event before the window).
    """
    start = settings.day_start_ms(0)
    found = events.filter((F.col(FATE) == TEST) & (F.col(LABEL) > 0)).groupBy(USER_ID)
    clicked = found.agg(F.array_sort(F.collect_set(ITEM_INDEX)).alias(CLICKED))
    before = events.filter(F.col(IN_LOG) & (F.col(EVENT_TIME) < start)).select(USER_ID).distinct()
    warm = F.col("before").isNotNull().cast("int").alias(WARM)
    return clicked.join(before.withColumn("before", F.lit(1)), USER_ID, "left").select(USER_ID, CLICKED, warm)


def interactions_before_test(events: DataFrame, settings: Settings) -> DataFrame:
    """Grain: one row a (user, item) with an event before the test window; POSITIVE is 1 if one had a label above 0."""
    before = events.filter(F.col(IN_LOG) & (F.col(EVENT_TIME) < settings.day_start_ms(0)))
    positive = (F.col(LABEL) > 0).cast("int")
    tested = F.col(SOURCE).isin([name for name, source in settings.sources.items() if TEST in source.roles])
    return before.groupBy(USER_ID, ITEM_INDEX).agg(
        F.max(positive).alias(POSITIVE),
        F.sum(positive * tested.cast("int")).cast("int").alias(TARGETS),
        F.max(EVENT_TIME).alias(LAST_TIME),
    )
