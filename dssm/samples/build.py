"""build_samples: logs, profiles, catalogue and vectors to encoded samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from pyspark.sql import SparkSession

from dssm import storage
from dssm.config import Settings
from dssm.console import out, step, warn
from dssm.manifest import (
    ITEM_INDEX,
    JoinCounts,
    ListKind,
    Manifest,
    NullCounts,
    SourceCounts,
    write_manifest,
    write_settings,
)
from dssm.paths import RunPaths, vectors_path
from dssm.samples.datasets import Dataset, item_columns
from dssm.samples.earlier import content_of
from dssm.samples.freezing import Frozen, freeze
from dssm.samples.inputs import InputEvents, InputTables, read_log, read_tables
from dssm.samples.items import encoded_items
from dssm.samples.lookups import DAYS_COLUMN, Lookups
from dssm.samples.null_counts import null_counts
from dssm.samples.published import PublishedVectors, copy_published, count_published_users
from dssm.samples.raw_columns import list_kinds
from dssm.samples.sample_files import SampleFiles
from dssm.samples.sources import Quarantine
from dssm.samples.vector_joins import count_vectors
from dssm.samples.vocabulary import shared_hash_buckets
from dssm.samples.writing import write_one, write_shuffled


def build_samples(spark: SparkSession, settings: Settings) -> None:
    """Writes samples/{train,test,users,items,interactions} of the run, committed by one rename.

    `users` holds the users that `samples.users` says as of the test window's start, and what each clicked in the
    window; `interactions` what each user has an event with before the window, one row a user.
    """
    paths = RunPaths(settings.run_folder)
    try:
        with storage.committed_folder(paths.samples) as folder:
            _build(spark, settings, folder)
    finally:
        spark.catalog.clearCache()  # also after a failure: a second try must read the files anew


def _build(spark: SparkSession, settings: Settings, folder: str) -> None:
    quarantine = Quarantine(f"{folder}/quarantine", settings.samples.max_quarantine_share)
    tables = read_tables(spark, settings, folder, quarantine)
    events = read_log(settings, tables, quarantine)
    counts, cores = quarantine.counts, parallelism(spark)
    rows = counts["catalogue"].used["read"]
    published = copy_published(spark, settings, tables.catalogue, rows, folder)
    tasks = _pass_tasks(settings, ordered_rows(counts.values(), published), cores)
    frozen = freeze(settings, tables, events.log, tasks, folder)
    of_users = count_published_users(settings, published.users, frozen.window.users)
    lookups = Lookups(
        vocabularies=frozen.files,
        buckets=shared_hash_buckets(settings.features),
        statistics=frozen.statistics,
        vectors={name: vectors_path(folder, name) for name in settings.vectors},
        storage={name: table.storage for name, table in settings.vectors.items()},
        negatives=settings.samples.negatives,
        published=published.items,
        mapped_mb=settings.samples.broadcast_mb,
    )
    items, lookups = _write_items(settings, folder, tables, events, frozen, lookups, rows)
    making = SampleFiles(spark, settings, folder, tables, events, lookups, published.users, cores, tasks)
    samples, of_samples = making.make()
    storage.remove(f"{folder}/.lookups")
    vectors = {name: spark.read.parquet(vectors_path(folder, name)) for name in settings.vectors}
    of_vectors = count_vectors(settings, tables, counts, vectors)
    joins = [*events.joins, *published.joins, *of_users, *of_vectors, *of_samples]
    lists = list_kinds(settings, tables.catalogue, tables.profiles, tables.providers)
    nulls = null_counts(settings, tables)
    _write_manifests(settings, folder, {"items": items, **samples}, frozen, lists, nulls, counts, joins)
    report(counts)


def parallelism(spark: SparkSession) -> int:
    """Returns how many tasks run at once."""
    return int(spark.sparkContext.defaultParallelism)


def ordered_rows(counts: Iterable[SourceCounts], published: PublishedVectors) -> int:
    """Rows that the user pass orders: those of the tables, and of a previous model's users, however many it knows."""
    return sum(table.rows_read for table in counts) + sum(vectors.rows for vectors in published.users.values())


def _pass_tasks(settings: Settings, rows: int, cores: int) -> int:
    """Tasks of the user pass: its rows are ordered in memory."""
    tasks = math.ceil(rows / settings.samples.rows_per_task)
    return max(1, math.ceil(tasks / cores)) * cores


def _write_items(
    settings: Settings,
    folder: str,
    tables: InputTables,
    events: InputEvents,
    frozen: Frozen,
    lookups: Lookups,
    rows: int,
) -> tuple[Dataset, Lookups]:
    """Writes the encoded catalogue.

    Args:
      rows: of the catalogue.
    Returns: the dataset, and the lookups with it.
    """
    with step("catalogue, encoded") as remarks:
        days = {}
        for name, counter in settings.counters.items():
            if counter.side == "item":
                days[name] = f"{folder}/.lookups/{name}/days.parquet"
                write_one(events.log.item_days(counter), days[name], [ITEM_INDEX, DAYS_COLUMN])
        lookups = lookups.with_days(days)
        columns = item_columns(settings)
        items = encoded_items(tables.catalogue, frozen.window.items, events.candidates, lookups, settings)
        size = settings.samples.rows_per_file
        files = write_shuffled(items.select(*columns), f"{folder}/items", rows, size, settings.seed)
        remarks.counted("items", rows, f"{rows:,} items")
    lookups = lookups.with_items(tuple(f"{folder}/items/{file.name}" for file in files), columns)
    return (columns, files), lookups


def _write_manifests(
    settings: Settings,
    folder: str,
    datasets: Mapping[str, Dataset],
    frozen: Frozen,
    lists: Mapping[str, ListKind],
    nulls: Mapping[str, NullCounts],
    counts: Mapping[str, SourceCounts],
    joins: Sequence[JoinCounts],
) -> None:
    files = repr({part: of_part for part, (_, of_part) in datasets.items()})
    vocabularies = repr(sorted((name, spec.digest) for name, spec in frozen.vocabularies.items()))
    # The item table's version is named after the build: another catalogue must give another build.
    items = storage.folder_digest(f"{folder}/items")
    build = storage.digest(settings.date.isoformat(), content_of(settings), files, vocabularies, items)
    common = Manifest(
        kind="samples",
        date=settings.date.isoformat(),
        build=build,
        seed=settings.seed,
        vocabularies=dict(frozen.vocabularies),
        statistics=dict(frozen.statistics),
        lists=dict(lists),
        nulls=dict(nulls),
        sources=dict(counts),
        joins=list(joins),
        vocabularies_of=frozen.vocabularies_of,
    )
    write_settings(folder, settings)
    for part, (columns, written) in datasets.items():
        own: dict[str, object] = {"kind": part, "columns": dict(columns), "files": written}
        if part == "train":
            own["negatives"] = settings.samples.negatives
        if part == "users":
            own["users"] = settings.samples.users
        manifest = common.model_copy(update=own)
        write_manifest(f"{folder}/{part}", manifest)
    write_manifest(folder, common)


def report(counts: Mapping[str, SourceCounts]) -> None:
    """Says what was left out: nothing is dropped silently."""
    for name, count in counts.items():
        for what, reasons in (("filtered", count.filtered), ("quarantined", count.quarantined)):
            for reason, rows in reasons.items():
                told = f"  {name}: {rows:,} of {count.rows_read:,} rows {what}: {reason}"
                if what == "quarantined":
                    warn(told)
                else:
                    out.print(told, style="dim", markup=False)
        if count.missing_days:
            warn(f"  {name}: no files for {', '.join(count.missing_days)}")
