"""What a build reads: tables side by side, then the rows of the logs and what becomes of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dssm.config import Settings
from dssm.console import step, warn
from dssm.features import of_side
from dssm.manifest import ITEM_INDEX, NO_ITEM, JoinCounts
from dssm.paths import vectors_path
from dssm.samples.event_logs import EventLog
from dssm.samples.events import (
    LATER,
    TEST,
    TRAIN,
    UNKNOWN,
    all_events,
    check_windows,
    count_fates,
    count_read,
    logs_end_early,
    read_logs,
    with_final_fates,
)
from dssm.samples.items import with_item_index
from dssm.samples.log import Log
from dssm.samples.raw_columns import check_item_columns, raw_item_features, user_columns
from dssm.samples.sources import Quarantine
from dssm.samples.tables import LATER_ITEM, read_catalogue, read_profile
from dssm.samples.vectors import read_vectors, write_vectors

READERS = 4  # tables that are read at the same time


@dataclass(frozen=True)
class InputTables:
    """The tables of a build.

    Attributes:
      profiles: by name.
      all_items: the catalogue with the items that were uploaded after the windows, whose ITEM_INDEX is NO_ITEM.
      catalogue: without them.
      providers: column of the user features and histories → where it comes from.
      logs: of the event sources, not read yet.
    """

    profiles: Mapping[str, DataFrame]
    all_items: DataFrame
    catalogue: DataFrame
    providers: Mapping[str, str]
    logs: Sequence[EventLog]


@dataclass(frozen=True)
class InputEvents:
    """The rows of the logs.

    Attributes:
      train_rows, test_rows: those that are samples.
      candidates: the positives of the training window.
      log_rows: about how many count as something a user did.
      joins: of each log with the catalogue.
    """

    log: Log
    train_rows: int
    test_rows: int
    candidates: int
    log_rows: int
    joins: Sequence[JoinCounts]


def read_tables(spark: SparkSession, settings: Settings, folder: str, quarantine: Quarantine) -> InputTables:
    """Reads profiles and catalogue, and copies the pretrained vectors into the build's folder."""
    with step("profiles, catalogue and vectors") as remarks:
        users, items = of_side(settings.features, "user"), raw_item_features(settings)
        # Side by side: most of the time of a small table is Spark's planning, which one core does.
        with ThreadPoolExecutor(READERS) as pool:
            profiles = {
                name: pool.submit(read_profile, spark, settings, name, users, quarantine) for name in settings.profiles
            }
            catalogue = pool.submit(read_catalogue, spark, settings, items, quarantine)
            vectors = [
                pool.submit(_copy_vectors, spark, settings, name, folder, quarantine) for name in settings.vectors
            ]
            logs = pool.submit(read_logs, spark, settings)
        found = {name: profile.result() for name, profile in profiles.items()}
        check_item_columns(settings, catalogue.result())
        for copied in vectors:
            copied.result()
        read = logs.result()
        all_items = with_item_index(catalogue.result(), settings.day_start_ms(settings.window.test_days))
        numbered = all_items.filter(F.col(ITEM_INDEX) != NO_ITEM)
        providers = user_columns(settings, found)
        names = [f"profiles.{name}" for name in settings.profiles] + ["catalogue"]
        names += [f"vectors.{name}" for name in settings.vectors]
        counts = quarantine.counts = {name: quarantine.counts[name] for name in names}
        for name, of_table in counts.items():
            remarks.counted(name, of_table.used["read"])
    return InputTables(found, all_items, numbered, providers, read)


def _copy_vectors(spark: SparkSession, settings: Settings, name: str, folder: str, quarantine: Quarantine) -> None:
    vectors = read_vectors(spark, settings, name, settings.vectors[name], quarantine)
    write_vectors(vectors, vectors_path(folder, name), settings.vectors[name].width)


def read_log(settings: Settings, tables: InputTables, quarantine: Quarantine) -> InputEvents:
    """Reads the logs and counts what becomes of their rows."""
    counts, logs = quarantine.counts, tables.logs
    with step("event logs") as remarks:
        items = counts["catalogue"].used["read"] + counts["catalogue"].filtered.get(LATER_ITEM, 0)
        id_bytes = 100 * items  # about, as a row of a broadcast table
        broadcast = id_bytes <= settings.samples.broadcast_mb * 2**20
        events = with_final_fates(all_events(settings, logs, tables.all_items, broadcast), settings)
        log = Log(events, settings, logs)
        outcomes = log.outcomes()
        count_read(outcomes, logs, quarantine)
        count_fates(outcomes, logs, quarantine)
        used = [counts[source.name].used for source in logs]
        train_rows, test_rows = (sum(u.get(fate, 0) for u in used) for fate in (TRAIN, TEST))
        candidates = sum(outcome.positives for outcome in outcomes if outcome.fate == TRAIN)
        check_windows(settings, events, train_rows, test_rows)
        if early := logs_end_early(settings, outcomes):
            warn(f"  {early}")
        log_rows, joins = 0, []
        for source in logs:
            filtered = counts[source.name].filtered
            rows = sum(counts[source.name].used.values()) + sum(filtered.values())
            rows -= filtered.get("left out by where", 0)
            missing = filtered.get(UNKNOWN, 0) + filtered.get(LATER, 0)
            log_rows += rows - missing
            joins.append(JoinCounts(name=f"{source.name} ⋈ catalogue", rows=rows, matched=rows - missing))
        remarks.counted(TRAIN, train_rows)
        remarks.counted(TEST, test_rows)
    return InputEvents(log, train_rows, test_rows, candidates, log_rows, joins)
