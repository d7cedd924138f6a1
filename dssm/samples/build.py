"""build_samples: logs, profiles, catalogue and vectors to encoded samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dssm import storage
from dssm.config import Settings
from dssm.console import out, step
from dssm.features import AnyFeature, embedded, of_side
from dssm.manifest import (
    CLICKED,
    EVENT_TIME,
    ITEM_ID,
    ITEM_INDEX,
    ITEM_KEY,
    ITEM_PROBABILITY,
    LABEL,
    LAST_TIME,
    POSITIVE,
    SOURCE,
    TARGETS,
    USER_ID,
    USER_KEY,
    WARM,
    WEIGHT,
    ColumnSpec,
    FileSpec,
    Manifest,
    SourceCounts,
    VocabularySpec,
    write_manifest,
)
from dssm.paths import RunPaths
from dssm.samples.events import (
    FATE,
    TEST,
    TRAIN,
    all_events,
    check_windows,
    clicked_in_test,
    count_fates,
    interactions_before_test,
)
from dssm.samples.lookups import Lookups
from dssm.samples.rows import (
    QUERY,
    Profile,
    check_item_columns,
    encoded_items,
    feature_columns,
    feature_token_counts,
    user_columns,
    with_item_index,
    with_user_features,
)
from dssm.samples.sources import Quarantine, read_keyed, read_vectors
from dssm.samples.vocabulary import write_vocabularies
from dssm.samples.writing import write_parts, write_shuffled

NUMBER, TEXT = ColumnSpec(dtype="float32"), ColumnSpec(dtype="string", encoding="text")
KEY = ColumnSpec(dtype="int64")
INDEX_LIST = ColumnSpec(dtype="int32", encoding="list")
SAMPLE_COLUMNS = {
    USER_ID: TEXT,
    ITEM_ID: TEXT,
    EVENT_TIME: KEY,
    SOURCE: TEXT,
    USER_KEY: KEY,
    ITEM_KEY: KEY,
    LABEL: NUMBER,
    WEIGHT: NUMBER,
    ITEM_PROBABILITY: NUMBER,
}
ITEM_COLUMNS = {ITEM_ID: TEXT, ITEM_INDEX: ColumnSpec(dtype="int32"), ITEM_KEY: KEY, ITEM_PROBABILITY: NUMBER}
USER_COLUMNS = {USER_ID: TEXT, WARM: ColumnSpec(dtype="int32"), CLICKED: INDEX_LIST}
INTERACTION_COLUMNS = {
    USER_ID: TEXT,
    ITEM_INDEX: ColumnSpec(dtype="int32"),
    POSITIVE: ColumnSpec(dtype="int32"),
    TARGETS: ColumnSpec(dtype="int32"),
    LAST_TIME: KEY,
}


def build_samples(spark: SparkSession, settings: Settings) -> None:
    """Writes samples/{train,test,users,items,interactions} of the run, committed by one rename.

    `users` holds each user with a positive in the test window as of the window's start, and what it
    clicked in the window; `interactions` the distinct (user, item) pairs before the window.
    """
    paths = RunPaths(settings.run_folder)
    try:
        with storage.committed_folder(paths.samples) as folder:
            _build(spark, settings, folder)
    finally:
        spark.catalog.clearCache()  # also after a failure: a second try must read the files anew


def _build(spark: SparkSession, settings: Settings, folder: str) -> None:
    quarantine = Quarantine(f"{folder}/quarantine", settings.samples.max_quarantine_share)
    features = list(settings.features.values())

    with step("profiles, catalogue and vectors") as remarks:
        user_features, item_features = of_side(settings.features, "user"), of_side(settings.features, "item")
        profiles = {
            name: Profile(
                read_keyed(spark, settings, f"profiles.{name}", table, table.key, user_features, quarantine),
                table.key,
                0
                if table.available_from is None
                else settings.day_start_ms((table.available_from - settings.date).days),
            )
            for name, table in settings.profiles.items()
        }
        catalogue = read_keyed(
            spark, settings, "catalogue", settings.catalogue, settings.catalogue.key, item_features, quarantine
        )
        check_item_columns(catalogue, item_features)
        catalogue = with_item_index(catalogue)
        providers = user_columns(settings, profiles)
        for name, table in settings.vectors.items():
            vectors = read_vectors(spark, settings, name, table, quarantine)
            drawn = vectors.withColumn("__table", F.lit(name)).withColumn("__order", F.col("id"))
            write_parts(drawn, f"{folder}/vectors/{name}", "__table", ["__order"], {name: "vectors.parquet"})
        remarks += [f"{name} {counts.rows_read:,}" for name, counts in quarantine.counts.items()]

    with step("event logs") as remarks:
        events = all_events(spark, settings, catalogue, quarantine)
        count_fates(events, quarantine)
        train_rows, test_rows = (
            sum(c.used.get(fate, 0) for n, c in quarantine.counts.items() if n.startswith("sources."))
            for fate in (TRAIN, TEST)
        )
        check_windows(settings, events, train_rows, test_rows)
        remarks += [f"train {train_rows:,}", f"test {test_rows:,}"]

    train_events = events.filter(F.col(FATE) == TRAIN)
    with step("vocabularies") as remarks:
        counts = feature_token_counts(settings, train_events, profiles, catalogue, providers)
        owners = [f for f in embedded(settings.features) if f.share_embedding is None]
        vocabularies = write_vocabularies(counts, owners, f"{folder}/vocabularies") if owners else {}
        remarks += [f"{name} {spec.size:,}" for name, spec in vocabularies.items()]
        for name, spec in vocabularies.items():
            if spec.size == 2:
                out.print(f"[yellow]features.{name}: no token in the training window; every id is unknown[/yellow]")
    lookups = Lookups(
        {name: f"{folder}/vocabularies/{name}.parquet" for name in vocabularies},
        {name: f"{folder}/vectors/{name}/vectors.parquet" for name in settings.vectors},
    )

    writer = DatasetWriter(settings, folder, vocabularies, quarantine.counts)
    with step("catalogue, encoded") as remarks:
        items = encoded_items(catalogue, train_events, item_features, lookups, settings)
        rows = quarantine.counts["catalogue"].used["read"]
        files = writer.write("items", items, rows, ITEM_COLUMNS, item_features)
        items = spark.read.parquet(*[f"{folder}/items/{file.name}" for file in files])
        remarks.append(f"{rows:,} items")

    with step("histories and users, encoded"):
        rows_of_users = with_user_features(settings, events, profiles, providers, user_features, lookups).persist(
            StorageLevel.DISK_ONLY
        )
        rows_of_users.count()
    for part, rows in ((TRAIN, train_rows), (TEST, test_rows)):
        with step(f"{part} samples") as remarks:
            samples = rows_of_users.filter(F.col(FATE) == part).join(items.drop(ITEM_INDEX), ITEM_ID)
            written = writer.write(part, samples, rows, SAMPLE_COLUMNS, features)
            remarks.append(f"{sum(f.rows for f in written):,} rows in {len(written)} files")
            if sum(f.rows for f in written) != rows:
                raise RuntimeError(f"{part}: {sum(f.rows for f in written)} rows written, {rows} counted")
    with step("users and interactions") as remarks:
        queries = rows_of_users.filter(F.col(FATE) == QUERY).join(clicked_in_test(events, settings), USER_ID)
        users = writer.write("users", queries, test_rows // 4, USER_COLUMNS, user_features)
        pairs = interactions_before_test(events, settings)
        seen = writer.write("interactions", pairs, train_rows, INTERACTION_COLUMNS, [])
        remarks += [f"{sum(f.rows for f in users):,} users", f"{sum(f.rows for f in seen):,} pairs"]
    writer.finish()
    _report(quarantine.counts)


class DatasetWriter:
    """Writes the run's datasets, then all their manifests, which share one build digest."""

    def __init__(
        self,
        settings: Settings,
        folder: str,
        vocabularies: Mapping[str, VocabularySpec],
        counts: Mapping[str, SourceCounts],
    ) -> None:
        self._settings, self._folder, self._vocabularies, self._counts = settings, folder, vocabularies, counts
        self._parts: dict[str, tuple[dict[str, ColumnSpec], list[FileSpec]]] = {}

    def write(
        self, part: str, rows: DataFrame, count: int, columns: Mapping[str, ColumnSpec], features: Sequence[AnyFeature]
    ) -> list[FileSpec]:
        """Writes one dataset of about `count` rows; the manifest comes with `finish`."""
        specs = {**columns, **feature_columns(self._settings, features)}
        seed, size = self._settings.seed, self._settings.samples.rows_per_file
        files = write_shuffled(rows.select(*specs), f"{self._folder}/{part}", count, size, seed)
        self._parts[part] = (specs, files)
        return files

    def finish(self) -> None:
        settings = self._settings
        whole = dict.fromkeys(("seed", "window", "sources", "features", "histories", "vectors"), True)
        content = settings.model_dump_json(include={**whole, "samples": {"train_rows", "rows_per_file"}})
        files = repr({part: files for part, (_, files) in self._parts.items()})
        vocabularies = repr(sorted((name, spec.digest) for name, spec in self._vocabularies.items()))
        # The item table's version is named after the build: another catalogue must give another build.
        items = storage.folder_digest(f"{self._folder}/items")
        build = storage.digest(settings.date.isoformat(), content, files, vocabularies, items)
        common = Manifest(
            kind="samples",
            date=settings.date.isoformat(),
            build=build,
            seed=settings.seed,
            vocabularies=dict(self._vocabularies),
            sources=dict(self._counts),
        )
        for part, (columns, written) in self._parts.items():
            write_manifest(
                f"{self._folder}/{part}", common.model_copy(update={"kind": part, "columns": columns, "files": written})
            )
        write_manifest(self._folder, common)


def _report(counts: Mapping[str, SourceCounts]) -> None:
    """Says what was left out: nothing is dropped silently."""
    for name, count in counts.items():
        for what, reasons in (("filtered", count.filtered), ("quarantined", count.quarantined)):
            for reason, rows in reasons.items():
                colour = "yellow" if what == "quarantined" else "dim"
                out.print(f"  [{colour}]{name}: {rows:,} of {count.rows_read:,} rows {what}: {reason}[/{colour}]")
        if count.missing_days:
            out.print(f"  [yellow]{name}: no files for {', '.join(count.missing_days)}[/yellow]")
