"""The logs, read once: how many of their rows become what, what they say of items, and their rows by user.

What the scan leaves behind is kept on disk as slices (`dssm.samples.exchange`): a row is parsed, joined with the
catalogue and judged once, however often it is counted or ordered afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dssm.config import Settings
from dssm.manifest import (
    EVENT_TIME,
    ITEM_INDEX,
    ITEM_POSITIVES,
    LABEL,
    SOURCE,
    USER_ID,
    USER_KEY,
    WEIGHT,
    target_column,
)
from dssm.samples.days import local_days
from dssm.samples.event_logs import EventLog
from dssm.samples.events import FATE, FATES, TEST, THINNED, TOO_EARLY, TRAIN, Outcome, fate_number, fate_numbers, summed
from dssm.samples.exchange import SLICE, SLICED_BYTES, Batches, as_batch, joined, rows, slices, task_keys
from dssm.samples.lookups import DAYS_COLUMN, EVENTS_COLUMN, POSITIVES_COLUMN
from dssm.samples.pass_columns import (
    CLICK_ONLY,
    EVENT,
    FATE_CODE,
    HASH,
    IN_LOG,
    KIND,
    NO_SAMPLE,
    TEST_ROW,
    TRAIN_ROW,
)
from dssm.samples.sources import ID, REASON, damage_explained
from dssm.samples.splitmix import mixed
from dssm.sections import Counter
from dssm.spark import size_in_bytes

BUCKET = "__bucket"  # of a slice: its users'. Below 0:
OUTCOMES, ITEM_SUMS = -1, -2  # what the rows became; sums by item
BUCKETED = f"`{BUCKET}` int, `{SLICE}` binary"
BUCKET_BYTES, LEAST_BUCKETS, MOST_BUCKETS = 8 * 2**20, 64, 4096  # a task has several: they are as even as users are
EVENTS, WEIGHED, CANDIDATES, LAST = "__events", "__weighed", "__candidates", "__last"
ITEM_COUNTS = (EVENTS, WEIGHED, CANDIDATES, ITEM_POSITIVES)


class Log:
    """The rows of all logs.

    Attributes:
      buckets: so many parts the users are in.
      slices: (BUCKET, SLICE) of the rows that are samples, may be known to one or say what is no negative, and of what
        was counted.
    """

    def __init__(self, events: DataFrame, settings: Settings, logs: Sequence[EventLog]) -> None:
        """Args: events: of `all_events`, with their final fates."""
        self._names, self._places = ", ".join(log.name for log in logs), ", ".join(log.place for log in logs)
        size = sum(size_in_bytes(log.rows) for log in logs)
        self.buckets = min(max(size // BUCKET_BYTES, LEAST_BUCKETS), MOST_BUCKETS)
        self._timezone, self._sources = settings.timezone, list(settings.sources)
        day = settings.day_start_ms
        scan = Scan(self.buckets, day(-settings.window.train_days), day(0), day(settings.window.test_days))
        columns = event_columns(settings.target_names)
        given = events.select(
            REASON, fate_numbers().alias(FATE), *[F.col(name).cast(kind).alias(name) for name, kind in columns.items()]
        )
        self.slices = given.mapInArrow(scan.run, BUCKETED).persist(StorageLevel.DISK_ONLY)

    def outcomes(self) -> list[Outcome]:
        """Returns the number of rows by source, reason and fate. Reads the logs.

        Raises: UserError where a file is damaged.
        """
        with damage_explained(self._names, self._places):
            found = self._of(OUTCOMES).select(SLICE).collect()
        if not found:
            return []
        tables = pa.concat_tables(pa.ipc.open_stream(row[SLICE]).read_all() for row in found)
        return summed([Outcome(**row) for row in tables.to_pylist()])

    def item_counts(self) -> DataFrame:
        """Grain: one row an item with positives or training rows, as (ITEM_INDEX, *ITEM_COUNTS). See `item_sums`."""
        names = ITEM_COUNTS
        sums = self._of(ITEM_SUMS).mapInArrow(
            added_up(ITEM_INDEX, names), f"`{ITEM_INDEX}` int, " + ", ".join(f"`{name}` long" for name in names)
        )
        return sums.groupBy(ITEM_INDEX).agg(*[F.sum(name).alias(name) for name in names])

    def item_days(self, counter: Counter) -> DataFrame:
        """Grain: one row an item and local day with events of the counter's sources."""
        days = ItemDayCounter(tuple(self._sources.index(name) for name in counter.sources), self._timezone)
        kinds = f"`{ITEM_INDEX}` int, {DAYS_COLUMN} int, {EVENTS_COLUMN} long, {POSITIVES_COLUMN} long"
        sums = self._of_users.mapInArrow(days.run, kinds).groupBy(ITEM_INDEX, DAYS_COLUMN)
        return sums.agg(*[F.sum(name).alias(name) for name in (EVENTS_COLUMN, POSITIVES_COLUMN)])

    def train_users(self, tasks: int) -> DataFrame:
        """Grain: one row a user with training rows, as (ID, EVENTS, LAST: the newest one's time)."""
        return by_task(self.slices, tasks).mapInArrow(count_users, f"`{ID}` string, `{EVENTS}` long, `{LAST}` long")

    def train_events(self) -> DataFrame:
        """Grain: one row a training row, as (ID, EVENT_TIME)."""
        return self._of_users.mapInArrow(list_train_rows, f"`{ID}` string, `{EVENT_TIME}` long")

    @property
    def _of_users(self) -> DataFrame:
        return self.slices.filter(F.col(BUCKET) >= 0)

    def _of(self, what: int) -> DataFrame:
        return self.slices.filter(F.col(BUCKET) == what)


def event_columns(targets: Sequence[str]) -> dict[str, str]:
    """Returns the columns of the events that the user pass takes, with Spark's names of their types."""
    columns = {USER_ID: "string", USER_KEY: "bigint", ITEM_INDEX: "int", EVENT_TIME: "bigint", SOURCE: "int"}
    columns |= {LABEL: "float", WEIGHT: "float", **{target_column(name): "float" for name in targets}}
    return {**columns, IN_LOG: "boolean", HASH: "bigint"}


def by_task(bucketed: DataFrame, tasks: int) -> DataFrame:
    """Sends the slices of users to tasks: all of a bucket to one."""
    keys = F.array(*map(F.lit, task_keys(tasks)))
    return bucketed.filter(F.col(BUCKET) >= 0).repartition(tasks, keys[F.pmod(BUCKET, F.lit(tasks))])


def bucketed(run: Callable[[Batches], Batches], buckets: int) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Returns a function that runs another and yields its rows, which have a USER_KEY, as slices of users."""

    def cut(batches: Batches) -> Iterator[pa.RecordBatch]:
        for table in joined(run(batches), SLICED_BYTES):
            yield as_batch(BUCKET, slices(table, bucket_of(table[USER_KEY], buckets)))

    return cut


def bucket_of(user_keys: pa.ChunkedArray, buckets: int) -> np.ndarray:
    """Returns the bucket of each user, (n,) uint16."""
    return (mixed(user_keys.to_numpy().astype(np.uint64)) % np.uint64(buckets)).astype(np.uint16)


# In the tasks -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scan:
    """What a task does with the rows of the logs.

    Attributes:
      train_start, test_start: Unix ms, of the windows: what was clicked in the first is no negative.
      end: Unix ms, of the windows: later rows are known to no sample.
    """

    buckets: int
    train_start: int
    test_start: int
    end: int

    def run(self, batches: Batches) -> Iterator[pa.RecordBatch]:
        """Args: batches: `event_columns`, REASON and FATE, of `fate_numbers`. Yields: (BUCKET, SLICE)."""
        for table in joined(batches, SLICED_BYTES):
            wanted = self._wanted(table)
            of_users = slices(wanted, bucket_of(wanted[USER_KEY], self.buckets))
            yield as_batch(BUCKET, [(OUTCOMES, outcomes(table)), (ITEM_SUMS, item_sums(table)), *of_users])

    def _wanted(self, table: pa.Table) -> pa.Table:
        """Returns the rows that are samples, may be known to one or say what is no negative."""
        code_of = np.full(len(FATES) + 1, NO_SAMPLE, np.int32)  # the last is that of none
        for fate, code in ((TRAIN, TRAIN_ROW), (TEST, TEST_ROW), (TOO_EARLY, CLICK_ONLY)):
            code_of[fate_number(fate)] = code
        codes = code_of[pc.fill_null(table[FATE], -1).to_numpy()]
        trained = pc.and_(
            pc.greater_equal(table[EVENT_TIME], self.train_start), pc.less(table[EVENT_TIME], self.test_start)
        )
        clicked = pc.fill_null(pc.and_(pc.greater(table[LABEL], 0), trained), False).to_numpy()
        codes[(codes == CLICK_ONLY) & ~clicked] = NO_SAMPLE
        early = pc.fill_null(pc.less(table[EVENT_TIME], self.end), False)
        known = pc.and_(table[IN_LOG], early).to_numpy()
        kept = table.drop_columns([REASON, FATE])
        kept = kept.append_column(KIND, pa.array(np.full(len(codes), EVENT, np.int32)))
        return kept.append_column(FATE_CODE, pa.array(codes)).filter(pa.array(known | (codes != NO_SAMPLE)))


def outcomes(table: pa.Table) -> pa.Table:
    """Returns the rows, the positives of a weight above 0 and the newest time, by source, reason and fate: `Outcome`s.

    By one number: Arrow 14 splits groups of several keys where a text that is null comes before a number.
    """
    reasons = pc.dictionary_encode(table[REASON].combine_chunks())
    sizes = (len(reasons.dictionary) + 1, len(FATES) + 1)  # the last place is that of null
    reason, fate = (pc.fill_null(code, -1).to_numpy() for code in (reasons.indices, table[FATE]))
    key = (table[SOURCE].to_numpy().astype(np.int64) * sizes[0] + reason % sizes[0]) * sizes[1] + fate % sizes[1]
    positive = pc.fill_null(pc.and_(pc.greater(table[LABEL], 0), pc.greater(table[WEIGHT], 0)), False)
    given = pa.table({"key": key, "positives": positive.cast(pa.int64()), "last": table[EVENT_TIME]})
    counts = given.group_by("key").aggregate([([], "count_all"), ("positives", "sum"), ("last", "max")])
    of_source, of_fate = np.divmod(counts["key"].to_numpy(), sizes[1])
    source, of_reason = np.divmod(of_source, sizes[0])
    return pa.table(
        {
            "source": source,
            "reason": pa.array([*reasons.dictionary.to_pylist(), None], pa.string()).take(pa.array(of_reason)),
            "fate": pa.array([*FATES, None]).take(pa.array(of_fate)),
            "rows": counts["count_all"],
            "positives": counts["positives_sum"],
            "last": counts["last_max"],
        }
    )


def item_sums(table: pa.Table) -> pa.Table:
    """Returns a row an item with training rows, or others left out by chance: (ITEM_INDEX, *ITEM_COUNTS).

    EVENTS counts training rows; WEIGHED those of a weight above 0, CANDIDATES the positives among these: what in-batch
    candidates come from with `impression_weight` and without; ITEM_POSITIVES, the popularity, also positives that were
    left out by chance (popular_threshold and max_positives_per_user).
    """
    counted = table.filter(pc.is_in(table[FATE], value_set=pa.array(map(fate_number, [TRAIN, *THINNED]), pa.int32())))
    coded = pc.dictionary_encode(counted[ITEM_INDEX].combine_chunks())
    codes, trains = coded.indices.to_numpy(), counted[FATE].to_numpy() == fate_number(TRAIN)
    weighs = counted[WEIGHT].to_numpy() > 0
    target = (counted[LABEL].to_numpy() > 0) & weighs
    counts = dict(zip(ITEM_COUNTS, (trains, trains & weighs, trains & target, target), strict=True))
    sums = {name: np.bincount(codes[of], minlength=len(coded.dictionary)) for name, of in counts.items()}
    return pa.table({ITEM_INDEX: coded.dictionary, **sums})


def added_up(key: str, names: Sequence[str]) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Returns a function that sums slices' columns by key, as far as it holds them at once."""

    def add(batches: Batches) -> Iterator[pa.RecordBatch]:
        for table in joined(rows(batches), SLICED_BYTES):
            sums = table.group_by(key).aggregate([(name, "sum") for name in names])
            ordered = sums.select([key, *(f"{name}_sum" for name in names)])
            yield from ordered.rename_columns([key, *names]).combine_chunks().to_batches()

    return add


@dataclass(frozen=True)
class ItemDayCounter:
    """Counts events by item and local day."""

    sources: tuple[int, ...]
    timezone: str

    def run(self, batches: Batches) -> Iterator[pa.RecordBatch]:
        for table in joined(rows(batches), SLICED_BYTES):
            asked = pc.and_(table[IN_LOG], pc.is_in(table[SOURCE], value_set=pa.array(self.sources, pa.int32())))
            events = table.filter(asked)
            days = local_days(events[EVENT_TIME].to_numpy(), self.timezone)
            keys, place = np.unique((events[ITEM_INDEX].to_numpy().astype(np.int64) << 32) + days, return_inverse=True)
            positives = np.bincount(place[events[LABEL].to_numpy() > 0], minlength=len(keys))
            columns = [(keys >> 32).astype(np.int32), (keys & 0xFFFFFFFF).astype(np.int32)]
            columns += [np.bincount(place, minlength=len(keys)), positives]
            names = [ITEM_INDEX, DAYS_COLUMN, EVENTS_COLUMN, POSITIVES_COLUMN]
            yield pa.RecordBatch.from_arrays([pa.array(column) for column in columns], names=names)


def count_users(batches: Batches) -> Iterator[pa.RecordBatch]:
    """Args: batches: all slices of some users. Yields: (ID, EVENTS, LAST) of those with training rows."""
    trained = list(list_train_rows(batches))
    if trained:
        table = pa.Table.from_batches(trained)
        coded = pc.dictionary_encode(table[ID].combine_chunks())
        users, times = coded.indices.to_numpy(), table[EVENT_TIME].to_numpy()
        last = np.full(len(coded.dictionary), np.iinfo(np.int64).min)
        np.maximum.at(last, users, times)
        columns = [coded.dictionary, pa.array(np.bincount(users)), pa.array(last)]
        yield pa.RecordBatch.from_arrays(columns, names=[ID, EVENTS, LAST])


def list_train_rows(batches: Batches) -> Iterator[pa.RecordBatch]:
    """Yields the training rows of slices as (ID, EVENT_TIME)."""
    for batch in rows(batches):
        trains = batch.select([USER_ID, EVENT_TIME]).filter(pc.equal(batch[FATE_CODE], TRAIN_ROW))
        yield pa.RecordBatch.from_arrays([trains[USER_ID], trains[EVENT_TIME]], names=[ID, EVENT_TIME])
