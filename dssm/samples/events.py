"""Events: every row of the logs and what becomes of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import NamedTuple
from zoneinfo import ZoneInfo

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from dssm import storage
from dssm.config import Settings
from dssm.console import warn
from dssm.errors import UserError
from dssm.manifest import (
    EVENT_TIME,
    ITEM_ID,
    ITEM_INDEX,
    LABEL,
    NO_ITEM,
    SOURCE,
    UPLOAD_TIME,
    USER_ID,
    USER_KEY,
    WEIGHT,
    target_column,
)
from dssm.samples.event_logs import KEPT, EventLog, days_before, read_events
from dssm.samples.pass_columns import HASH, IN_LOG
from dssm.samples.sources import ID, REASON, Quarantine, quoted
from dssm.samples.tables import LATER_ITEM
from dssm.spark import matches

TRAIN, TEST = "train", "test"
FATE = "__fate"  # train, test, or why the row is no sample; null where it is unreadable
UNKNOWN, LATER = "item not in the catalogue", f"item {LATER_ITEM}"  # fates of events without an item
TOO_EARLY = "item uploaded after the event"
ELSEWHERE, OUTSIDE = "left out by where", "outside the windows"
NO_TRAIN_ROLE, NO_TEST_ROLE = "source has no train role", "source has no test role"
NEGATIVE, UNCLICKED = "negative, and train_rows is positives", "negative, left out by unclicked_share"
BEHIND_TEST, COLD_USER, COLD_ITEM = "not before the user's test row", "cold user", "cold item"
POPULAR, CAPPED = "popular item, left out by popular_threshold", "positive beyond max_positives_per_user"
THINNED = (POPULAR, CAPPED)  # fates of positives that are left out by chance
# All of them. What a row becomes goes to Python as its place here; most rows' come first, as they are looked up first.
FATES: tuple[str, ...] = (
    TRAIN, TEST, NEGATIVE, OUTSIDE, UNKNOWN, LATER, TOO_EARLY, ELSEWHERE, NO_TRAIN_ROLE, NO_TEST_ROLE, UNCLICKED,
    BEHIND_TEST, COLD_USER, COLD_ITEM, *THINNED,
)  # fmt: skip


def fate_number(name: str) -> int:
    """Returns the place of a fate among FATES.

    >>> fate_number("train"), fate_number("test")
    (0, 1)
    """
    return FATES.index(name)


def fate_numbers() -> Column:
    """Returns the fates as numbers: Spark hands those over to Python several times as fast as texts."""
    number = F.when(F.col(FATE) == FATES[0], 0)
    for place, name in enumerate(FATES[1:], start=1):
        number = number.when(F.col(FATE) == name, place)
    return number


def read_logs(spark: SparkSession, settings: Settings) -> list[EventLog]:
    for line in cut_histories(spark, settings):
        warn(f"  {line}")
    return [read_events(spark, settings, name, source) for name, source in settings.sources.items()]


def cut_histories(spark: SparkSession, settings: Settings) -> list[str]:
    """Returns a line for each history without `days` of a log in days' files that has a day before those read."""
    lines = []
    for name, history in settings.histories.items():
        for source in history.sources if history.days is None else ():
            path, before = settings.sources[source].path or "", days_before(settings, source)
            earlier, *read = (storage.absolute(day) for day in settings.expand(path, True, before + 1))
            if read and earlier not in read and matches(spark, f"sources.{source}.path", earlier):
                lines.append(
                    f"histories.{name}: sources.{source} is read from {settings.window_days(before)[0]} on, and has "
                    "days before; with `days` it is read so many days before the windows"
                )
    return lines


def all_events(settings: Settings, logs: Sequence[EventLog], catalogue: DataFrame, broadcast: bool) -> DataFrame:
    """Joins all logs with the catalogue and says what becomes of each row.

    Grain: one row a row of the logs. SOURCE is the source's number; REASON why the row is unreadable, else null;
    FATE train, test, or why a readable row is no sample; IN_LOG whether it counts as something the user did (for
    histories, counters, seen items, baselines); HASH 64 bits that its contents and the seed decide.

    Args:
      catalogue: the items by (`ID`, ITEM_INDEX, UPLOAD_TIME); NO_ITEM for those uploaded after the windows.
      broadcast: whether the catalogue's ids go to every executor, so that the logs need no shuffle.
    """
    targets = settings.target_names
    rows = reduce(DataFrame.unionByName, [log.normal(code, targets) for code, log in enumerate(logs)])
    known = catalogue.select(F.col(ID).alias(ITEM_ID), ITEM_INDEX, UPLOAD_TIME)
    rows = rows.join(F.broadcast(known) if broadcast else known, ITEM_ID, "left")
    rows = rows.withColumn(ITEM_INDEX, F.coalesce(ITEM_INDEX, F.lit(NO_ITEM)))
    checked = [code for code, source in enumerate(settings.sources.values()) if source.check_upload]
    too_early = F.col(SOURCE).isin(checked) & (F.col(UPLOAD_TIME) > F.col(EVENT_TIME))
    identity = [USER_ID, ITEM_ID, EVENT_TIME, SOURCE, LABEL, WEIGHT, *map(target_column, targets)]
    columns = {
        HASH: F.xxhash64(F.lit(settings.seed), *identity),
        USER_KEY: F.xxhash64(USER_ID),
        IN_LOG: F.col(REASON).isNull()
        & F.col(KEPT)
        & (F.col(ITEM_INDEX) != NO_ITEM)
        & ~F.coalesce(too_early, F.lit(False)),
    }
    rows = rows.withColumns(columns).withColumn(FATE, _fate(settings, too_early))
    return rows.drop(ITEM_ID, KEPT, UPLOAD_TIME)


def _fate(settings: Settings, too_early: Column) -> Column:
    train_start, test_start = settings.day_start_ms(-settings.window.train_days), settings.day_start_ms(0)
    by_time = settings.samples.split.kind == "time"
    test_end = settings.day_start_ms(settings.window.test_days) if by_time else test_start
    time, positive = F.col(EVENT_TIME), F.col(LABEL) > 0
    may_train = F.lit(True) if settings.samples.train_rows == "all" else positive
    unclicked = ~positive & (uniform("unclicked") >= settings.samples.unclicked_share)
    return (
        F.when(F.col(REASON).isNotNull(), F.lit(None))
        .when(~F.col(KEPT), ELSEWHERE)
        .when((F.col(ITEM_INDEX) == NO_ITEM) & F.col(UPLOAD_TIME).isNotNull(), LATER)
        .when(F.col(ITEM_INDEX) == NO_ITEM, UNKNOWN)
        .when(too_early, TOO_EARLY)
        .when((time < train_start) | (time >= test_end), OUTSIDE)
        .when((time < test_start) & ~_has_role(settings, TRAIN), NO_TRAIN_ROLE)
        .when((time >= test_start) & ~_has_role(settings, TEST), NO_TEST_ROLE)
        .when(time >= test_start, TEST)
        .when(~may_train, NEGATIVE)
        .when(unclicked, UNCLICKED)
        .otherwise(TRAIN)
    )


def uniform(stream: str) -> Column:
    """Returns a number in [0, 1) that the row's contents, the seed and the stream's name decide."""
    return F.shiftrightunsigned(F.xxhash64(F.lit(stream), HASH), 11) / F.lit(float(2**53))


def _has_role(settings: Settings, role: str) -> Column:
    return F.col(SOURCE).isin([code for code, source in enumerate(settings.sources.values()) if role in source.roles])


class Outcome(NamedTuple):
    """How many rows of a source (its number) have a reason to be unreadable, or a fate.

    positives: those with a label and a weight above 0. last: the newest one's time, Unix ms; None where none has one.
    """

    source: int
    reason: str | None
    fate: str | None
    rows: int
    positives: int
    last: int | None


def summed(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Returns the outcomes with one a source, reason and fate."""
    total: dict[tuple[int, str | None, str | None], Outcome] = {}
    for found in outcomes:
        one = total.setdefault(found[:3], found._replace(rows=0, positives=0))
        last = max((time for time in (one.last, found.last) if time is not None), default=None)
        total[found[:3]] = one._replace(
            rows=one.rows + found.rows, positives=one.positives + found.positives, last=last
        )
    return list(total.values())


def count_read(outcomes: Sequence[Outcome], logs: Sequence[EventLog], quarantine: Quarantine) -> None:
    """Counts each log's rows, and writes the unreadable ones.

    Raises: UserError where too many are unreadable, or a log has none.
    """
    for code, log in enumerate(logs):
        of_log = [outcome for outcome in outcomes if outcome.source == code]
        readable = sum(outcome.rows for outcome in of_log if outcome.reason is None)
        bad = {outcome.reason: outcome.rows for outcome in of_log if outcome.reason is not None}
        raw = log.rows.select(REASON, *map(quoted, log.own))
        quarantine.account(log.name, log.place, readable, dict(sorted(bad.items())), raw, log.missing_days)


def count_fates(outcomes: Sequence[Outcome], logs: Sequence[EventLog], quarantine: Quarantine) -> None:
    """Splits each log's readable rows, in the counts, into used and filtered.

    Raises: RuntimeError where a readable row has no fate.
    """
    for code, log in enumerate(logs):
        found = {o.fate: o.rows for o in outcomes if o.source == code and o.fate is not None}
        used = {fate: found[fate] for fate in (TRAIN, TEST) if fate in found}
        filtered = {fate: found[fate] for fate in sorted(found) if fate not in used}
        counts = quarantine.counts[log.name]
        quarantine.counts[log.name] = counts.model_copy(update={"used": used, "filtered": filtered})
        readable = sum(o.rows for o in outcomes if o.source == code and o.reason is None)
        if readable != sum(found.values()):
            raise RuntimeError(f"{log.name}: {readable} readable rows, {sum(found.values())} of them with a fate")


def with_final_fates(events: DataFrame, settings: Settings) -> DataFrame:
    """Applies the split and the sampling that need to know other rows; the frame itself where none is asked for.

    Every row stays, and only FATE changes: what is left out here still counts as something the user did.
    """
    samples = settings.samples
    steps = []
    if samples.split.kind == "leave_last_out":
        steps.append(_leave_last_out)
    if samples.popular_threshold is not None:
        steps.append(_without_popular)
    if samples.max_positives_per_user is not None:
        steps.append(_with_capped_users)
    if samples.split.drop_cold:
        steps.append(_without_cold)
    # Columns of Parquet are read again faster than Spark's cache is written; a text would be parsed each time.
    if steps and not all(source.is_columnar for source in settings.sources.values()):
        events = events.persist(StorageLevel.DISK_ONLY)
    return reduce(lambda rows, step: step(rows, settings), steps, events)


def _leave_last_out(events: DataFrame, settings: Settings) -> DataFrame:
    """Each user's last positives become test rows; what the user did from then on is left out of training."""
    rows = settings.samples.split.rows
    in_play, positive = F.col(FATE) == TRAIN, F.col(LABEL) > 0
    newest = Window.partitionBy(USER_ID, "__asked").orderBy(F.desc(EVENT_TIME), HASH)
    user = Window.partitionBy(USER_ID)
    ranked = (
        events.withColumn("__asked", F.coalesce(in_play & positive & _has_role(settings, TEST), F.lit(False)))
        .withColumn("__rank", F.when(F.col("__asked"), F.row_number().over(newest)))
        .withColumn("__earliest", F.min(F.when(in_play & positive, F.col(EVENT_TIME))).over(user))
    )
    # Later than the user's first positive, which so is left to train on: a count would not do where times are equal.
    is_test = F.col("__asked") & (F.col("__rank") <= rows) & (F.col(EVENT_TIME) > F.col("__earliest"))
    split = ranked.withColumn("__test", F.coalesce(is_test, F.lit(False)))
    split = split.withColumn("__first", F.min(F.when(F.col("__test"), F.col(EVENT_TIME))).over(user))
    late = in_play & (F.col(EVENT_TIME) >= F.col("__first"))
    fate = F.when(F.col("__test"), TEST).when(late, BEHIND_TEST).otherwise(F.col(FATE))
    return split.withColumn(FATE, fate).drop("__asked", "__rank", "__earliest", "__test", "__first")


def _is_target() -> Column:
    return (F.col(FATE) == TRAIN) & (F.col(LABEL) > 0)


def _without_popular(events: DataFrame, settings: Settings) -> DataFrame:
    """Keeps a positive of an item with share f with probability min(1, √(t/f) + t/f) (Mikolov et al., 2013)."""
    counts = events.filter(_is_target()).groupBy(ITEM_INDEX).agg(F.count("*").alias("__count"))
    total = counts.agg(F.sum("__count").alias("__total"))
    shares = counts.crossJoin(F.broadcast(total)).select(
        ITEM_INDEX, (F.lit(settings.samples.popular_threshold) * F.col("__total") / F.col("__count")).alias("__ratio")
    )
    dropped = _is_target() & (uniform("popular") >= F.sqrt("__ratio") + F.col("__ratio"))
    fate = F.when(F.coalesce(dropped, F.lit(False)), POPULAR).otherwise(F.col(FATE))
    # Rows without a known item are spread: they would all meet in one task.
    spread = F.when(F.col(ITEM_INDEX) >= 0, F.col(ITEM_INDEX)).otherwise(-1 - F.pmod(HASH, F.lit(4096)).cast("int"))
    shares = shares.withColumnRenamed(ITEM_INDEX, "__item")
    rows = events.withColumn("__item", spread).join(shares, "__item", "left")
    return rows.withColumn(FATE, fate).drop("__ratio", "__item")


def _with_capped_users(events: DataFrame, settings: Settings) -> DataFrame:
    drawn = Window.partitionBy(USER_ID, "__target").orderBy(F.xxhash64(F.lit("capped"), HASH), HASH)
    ranked = events.withColumn("__target", F.coalesce(_is_target(), F.lit(False)))
    most = F.lit(settings.samples.max_positives_per_user)
    beyond = F.col("__target") & (F.row_number().over(drawn) > most)
    fate = F.when(beyond, CAPPED).otherwise(F.col(FATE))
    return ranked.withColumn(FATE, fate).drop("__target")


def _without_cold(events: DataFrame, settings: Settings) -> DataFrame:
    given = events
    for side, column, cold_fate in (("users", USER_ID, COLD_USER), ("items", ITEM_INDEX, COLD_ITEM)):
        if side in settings.samples.split.drop_cold:
            trained = given.filter(F.col(FATE) == TRAIN).select(column).distinct().withColumn("__warm", F.lit(True))
            cold = (F.col(FATE) == TEST) & F.col("__warm").isNull()
            fate = F.when(cold, cold_fate).otherwise(F.col(FATE))
            events = events.join(trained, column, "left").withColumn(FATE, fate).drop("__warm")
    return events


def logs_end_early(settings: Settings, outcomes: Sequence[Outcome]) -> str | None:
    """Says that the logs end before the last day of the test window; None where they do not."""
    days = settings.window.test_days
    last = max((o.last for o in outcomes if o.reason is None and o.last is not None), default=None)
    if settings.samples.split.kind != "time" or last is None or last >= settings.day_start_ms(days - 1):
        return None
    ends = dt.datetime.fromtimestamp(last / 1000, ZoneInfo(settings.timezone)).date()
    return f"the test window reaches to {settings.window_days()[-1]}, the logs end {ends}"


def check_windows(settings: Settings, events: DataFrame, train_rows: int, test_rows: int) -> None:
    """Checks that there is something to train on and to test on.

    Raises: UserError with the days that the logs span.
    """
    first, split, last = -settings.window.train_days, 0, settings.window.test_days
    if settings.samples.split.kind != "time":
        last = split
    for part, rows, begin, end in (
        (TRAIN, train_rows, first, split),
        (TEST, test_rows, split if last > split else first, last),
    ):
        if rows:
            continue
        readable = events.filter(F.col(REASON).isNull())
        log = (
            readable.agg(F.min(EVENT_TIME), F.max(EVENT_TIME))
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
            "expected rows there: check --date, window, samples.split and the sources' roles and labels"
        )
