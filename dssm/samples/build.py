"""build_samples: logs, profiles, catalogue and vectors to encoded samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm import storage
from dssm.config import Settings
from dssm.console import out, step, warn
from dssm.errors import UserError
from dssm.features import embedded, of_side
from dssm.manifest import (
    ITEM_INDEX,
    NO_ITEM,
    ColumnSpec,
    FileSpec,
    JoinCounts,
    Manifest,
    SourceCounts,
    Statistics,
    changing_item_features,
    read_manifest,
    write_manifest,
    write_settings,
)
from dssm.paths import RunPaths
from dssm.samples.datasets import NUMBER, feature_columns, item_columns, sample_columns
from dssm.samples.earlier import content_of, frozen_run, frozen_statistics
from dssm.samples.events import (
    LATER,
    TEST,
    TRAIN,
    UNKNOWN,
    all_events,
    check_windows,
    count_fates,
    count_read,
    read_logs,
    with_final_fates,
)
from dssm.samples.exchange import SLICE, filled, gathered, scattered, task_keys
from dssm.samples.files import (
    WRITTEN,
    FileMaker,
    arrow_schema,
    counter_column,
    write_file,
)
from dssm.samples.items import encoded_items, event_encoder, with_item_index
from dssm.samples.log import Log, by_task
from dssm.samples.lookups import DAYS_COLUMN, Lookups
from dssm.samples.pass_columns import ORDER, TASK, output_fields
from dssm.samples.pass_plan import PassPlan, Router
from dssm.samples.profile_rows import (
    encoded_profile,
    profile_encoder,
    published_user_rows,
    user_vocabularies,
    user_vocabulary_rows,
)
from dssm.samples.profiles import PublishedUsers, UserVocabulary
from dssm.samples.published import read_published
from dssm.samples.raw_columns import USER, check_item_columns, provided_features, raw_item_features, user_columns
from dssm.samples.sources import ID, Quarantine
from dssm.samples.tables import LATER_ITEM, read_catalogue, read_profile
from dssm.samples.training_window import TrainingWindow
from dssm.samples.user_pass import user_pass
from dssm.samples.vectors import read_vectors
from dssm.samples.vocabulary import (
    fixed_vocabularies,
    frozen_files,
    shared_hash_buckets,
    token_owners,
    write_vocabularies,
)
from dssm.samples.words import Words
from dssm.samples.writing import ROW_GROUP_BYTES, remove_unfinished, write_one, write_shuffled
from dssm.sections import HardNegatives

PARTS = ("train", "test", "users", "interactions")  # those that the user pass makes
READERS = 4  # tables that are read at the same time
ROWS_PER_FILE_TASK = 131_072  # of the last shuffle: a task's rows are in memory at once, a few hundred bytes each


def build_samples(spark: SparkSession, settings: Settings) -> None:
    """Writes samples/{train,test,users,items,interactions} of the run, committed by one rename.

    `users` holds each user with a positive in the test window as of its start, and what it clicked in the
    window; `interactions` what each user has an event with before the window, one row a user.
    """
    paths = RunPaths(settings.run_folder)
    try:
        with storage.committed_folder(paths.samples) as folder:
            _Build(spark, settings, folder).run()
    finally:
        spark.catalog.clearCache()  # also after a failure: a second try must read the files anew


class _Build:
    """One run of build_samples, step by step."""

    def __init__(self, spark: SparkSession, settings: Settings, folder: str) -> None:
        self.spark, self.settings, self.folder = spark, settings, folder
        self.quarantine = Quarantine(f"{folder}/quarantine", settings.samples.max_quarantine_share)
        self.joins: list[JoinCounts] = []
        self.published_users: dict[str, tuple[DataFrame, int]] = {}  # by name of the hard negatives: vectors, width
        self.datasets: dict[str, tuple[Mapping[str, ColumnSpec], list[FileSpec]]] = {}

    def run(self) -> None:
        self._read_tables()
        self._read_events()
        self._freeze()
        self._encode_items()
        self._make_samples()
        self._write_manifests()
        report(self.quarantine.counts)

    # Reading -------------------------------------------------------------------------------------------

    def _read_tables(self) -> None:
        settings, spark = self.settings, self.spark
        with step("profiles, catalogue and vectors") as remarks:
            users, items = of_side(settings.features, "user"), raw_item_features(settings)
            # Side by side: most of the time of a small table is Spark's planning, which one core does.
            with ThreadPoolExecutor(READERS) as pool:
                profiles = {
                    name: pool.submit(read_profile, spark, settings, name, users, self.quarantine)
                    for name in settings.profiles
                }
                catalogue = pool.submit(read_catalogue, spark, settings, items, self.quarantine)
                vectors = [pool.submit(self._write_vectors, name) for name in settings.vectors]
                logs = pool.submit(read_logs, spark, settings)
            self.profiles = {name: profile.result() for name, profile in profiles.items()}
            check_item_columns(settings, catalogue.result())
            for written in vectors:
                written.result()
            self.logs = logs.result()
            self.all_items = with_item_index(catalogue.result(), settings.day_start_ms(settings.window.test_days))
            self.catalogue = self.all_items.filter(F.col(ITEM_INDEX) != NO_ITEM)
            self.providers = user_columns(settings, self.profiles)
            names = [f"profiles.{name}" for name in settings.profiles] + ["catalogue"]
            names += [f"vectors.{name}" for name in settings.vectors]
            counts = self.quarantine.counts = {name: self.quarantine.counts[name] for name in names}
            for name, of_table in counts.items():
                remarks.counted(name, of_table.used["read"])

    def _write_vectors(self, name: str) -> None:
        vectors = read_vectors(self.spark, self.settings, name, self.settings.vectors[name], self.quarantine)
        self._write_table(vectors, self._vectors_folder(name), self.settings.vectors[name].width)

    def _write_table(self, vectors: DataFrame, folder: str, width: int) -> None:
        """Writes (id, values) as one file, `vectors.parquet`, by id."""
        rows = max(1, ROW_GROUP_BYTES // (4 * width))
        write_one(vectors, f"{folder}/vectors.parquet", ["id"], rows)

    def _vectors_folder(self, name: str) -> str:
        return f"{self.folder}/vectors/{name}"

    def _read_events(self) -> None:
        settings, counts = self.settings, self.quarantine.counts
        with step("event logs") as remarks:
            logs = self.logs
            items = counts["catalogue"].used["read"] + counts["catalogue"].filtered.get(LATER_ITEM, 0)
            id_bytes = 100 * items  # about, as a row of a broadcast table
            broadcast = id_bytes <= settings.samples.broadcast_mb * 2**20
            events = with_final_fates(all_events(settings, logs, self.all_items, broadcast), settings)
            self.log = Log(events, settings, logs)
            outcomes = self.log.outcomes()
            count_read(outcomes, logs, self.quarantine)
            count_fates(outcomes, logs, self.quarantine)
            used = [counts[log.name].used for log in logs]
            self.train_rows, self.test_rows = (sum(u.get(fate, 0) for u in used) for fate in (TRAIN, TEST))
            self.candidates = sum(outcome.positives for outcome in outcomes if outcome.fate == TRAIN)
            check_windows(settings, events, self.train_rows, self.test_rows)
            self.log_rows = 0  # about: those that count as something a user did
            for log in logs:
                filtered = counts[log.name].filtered
                rows = sum(counts[log.name].used.values()) + sum(filtered.values())
                rows -= filtered.get("left out by where", 0)
                missing = filtered.get(UNKNOWN, 0) + filtered.get(LATER, 0)
                self.log_rows += rows - missing
                self.joins.append(JoinCounts(name=f"{log.name} ⋈ catalogue", rows=rows, matched=rows - missing))
            remarks.counted(TRAIN, self.train_rows)
            remarks.counted(TEST, self.test_rows)

    # Freezing ------------------------------------------------------------------------------------------

    def _freeze(self) -> None:
        """Writes what the training window says of tokens and numbers, or takes an earlier run's."""
        settings = self.settings
        with step("vocabularies") as remarks:
            window = self.window = TrainingWindow(
                settings, self.log, self._pass_tasks(), self.catalogue, self.profiles, self.providers
            )
            owners = token_owners(settings.features)
            frozen: dict[str, str] = {}
            self.statistics: dict[str, Statistics] = {}
            self.vocabularies_of: str | None = None
            if settings.samples.vocabularies.run is not None:
                earlier = frozen_run(settings)
                manifest = read_manifest(earlier, "build_samples")
                frozen = frozen_files(manifest, earlier, owners)
                self.statistics = frozen_statistics(settings, manifest, earlier)
                self.vocabularies_of = manifest.build
            if missing := [n for n in window.statistics_needed() if n not in self.statistics]:
                found = window.statistics()
                self.statistics |= {name: found[name] for name in missing}
            counted = {}
            if owners:
                grow = settings.samples.vocabularies.grow
                counts = window.token_counts()
                counted = write_vocabularies(counts, owners, f"{self.folder}/vocabularies", frozen, grow)
            fixed = fixed_vocabularies(settings.features, self.statistics)
            both = {**counted, **fixed}
            self.vocabularies = {f.name: both[f.name] for f in embedded(settings.features) if f.name in both}
            for name, spec in self.vocabularies.items():
                remarks.counted(name, spec.size)
            for name, spec in counted.items():
                if spec.size == 2:
                    warn(f"features.{name}: no token in the training window; every id is unknown")
        self.lookups = Lookups(
            vocabularies={name: f"{self.folder}/vocabularies/{name}.parquet" for name in counted},
            buckets=shared_hash_buckets(settings.features),
            statistics=self.statistics,
            vectors={name: f"{self._vectors_folder(name)}/vectors.parquet" for name in settings.vectors},
            storage={name: table.storage for name, table in settings.vectors.items()},
            negatives=settings.samples.negatives,
            published=self._read_published(),
            mapped_mb=settings.samples.broadcast_mb,
        )

    def _read_published(self) -> dict[str, str]:
        """Copies the published item vectors of hard negatives, which lie anywhere; returns the files by their name."""
        copies: dict[str, str] = {}
        for name, kind in self.settings.samples.negatives.items():
            if not isinstance(kind, HardNegatives):
                continue
            where = f"samples.negatives.{name}"
            items, width = read_published(self.spark, self.settings, f"{where}.items", kind.items, kind.id, kind.values)
            self._count_published(name, items.select(F.col("id").alias(ID)))
            folder = f"{self.folder}/.lookups/published_{name}"
            self._write_table(items, folder, width)
            copies[name] = f"{folder}/vectors.parquet"
            if kind.users is not None:
                users, _ = read_published(
                    self.spark, self.settings, f"{where}.users", kind.users, kind.user_id, kind.values, width
                )
                self.published_users[name] = (users, width)
        return copies

    def _count_published(self, name: str, ids: DataFrame) -> None:
        matched = self.catalogue.select(ID).join(ids, ID, "left_semi").count()
        rows = self.quarantine.counts["catalogue"].used["read"]
        if matched == 0:
            kind = self.settings.samples.negatives[name]
            assert isinstance(kind, HardNegatives)
            raise UserError(
                f"samples.negatives.{name}.items: none of the ids in '{kind.id}' of {kind.items} is one of the "
                f"catalogue's {rows:,}; expected the ids of catalogue.key: check samples.negatives.{name}.id"
            )
        self.joins.append(JoinCounts(name=f"catalogue ⋈ samples.negatives.{name}", rows=rows, matched=matched))

    # Items ---------------------------------------------------------------------------------------------

    def _encode_items(self) -> None:
        settings = self.settings
        with step("catalogue, encoded") as remarks:
            days = {}
            for name, counter in settings.counters.items():
                if counter.side == "item":
                    days[name] = f"{self.folder}/.lookups/{name}/days.parquet"
                    write_one(self.log.item_days(counter), days[name], [ITEM_INDEX, DAYS_COLUMN])
            lookups = self.lookups.with_days(days)
            columns = item_columns(settings)
            items = encoded_items(self.catalogue, self.window.items, self.candidates, lookups, settings)
            items = items.select(*columns)
            rows = self.quarantine.counts["catalogue"].used["read"]
            size = settings.samples.rows_per_file
            files = write_shuffled(items, f"{self.folder}/items", rows, size, settings.seed)
            self.datasets["items"] = (columns, files)
            self.lookups = lookups.with_items(tuple(f"{self.folder}/items/{file.name}" for file in files), columns)
            for name in settings.vectors:
                known = self.spark.read.parquet(self._vectors_folder(name)).select(F.col("id").alias(ID))
                matched = self.catalogue.select(ID).join(known, ID, "left_semi").count()
                self.joins.append(JoinCounts(name=f"catalogue ⋈ vectors.{name}", rows=rows, matched=matched))
            remarks.counted("items", rows, f"{rows:,} items")

    # Samples -------------------------------------------------------------------------------------------

    def _make_samples(self) -> None:
        settings = self.settings
        columns = sample_columns(settings)
        counts = {
            "train": self.train_rows,
            "test": self.test_rows,
            "users": self.test_rows // 4,  # about: known when they are written
            "interactions": self.log_rows // 8,
        }
        size = settings.samples.rows_per_file
        files = {part: max(1, math.ceil(counts[part] / size)) for part in PARTS}
        names = tuple((part, f"part-{number:05d}.parquet") for part in PARTS for number in range(files[part]))
        with step("samples, users and interactions") as remarks:
            tasks = min(len(names), max(self._parallelism, math.ceil(sum(counts.values()) / ROWS_PER_FILE_TASK)))
            keys = task_keys(tasks)
            router = Router(files, tuple(keys[number % tasks] for number in range(len(names))))
            plan = self._user_pass(router)
            run = partial(user_pass, plan)
            maker = self._file_maker(plan, names, columns)
            rows = by_task(self._pass_slices(plan), self._pass_tasks())
            slices = _spark_schema([(TASK, pa.int32()), (SLICE, pa.binary())])
            if maker.with_items:
                fields = output_fields(plan.targets, plan.histories)
                made = rows.mapInArrow(gathered(filled(run, fields)), _spark_schema(fields))
                own = set(columns["train"]) - {ITEM_INDEX, *made.columns}
                items = self.spark.read.parquet(*self.lookups.item_files)
                items = items.select(ITEM_INDEX, *[name for name in items.columns if name in own])
                # Users and interactions have no item: they are spread, or would all meet in one task.
                spread = F.coalesce(ITEM_INDEX, -1 - F.pmod(ORDER, F.lit(4096)).cast("int"))
                items = items.withColumnRenamed(ITEM_INDEX, "__item")
                made = made.withColumn("__item", spread).join(items, "__item", "left").drop("__item")
                made = made.mapInArrow(scattered(iter, TASK), slices)
            else:
                made = rows.mapInArrow(gathered(scattered(run, TASK)), slices)
            for part in PARTS:
                storage.make_folder(f"{self.folder}/{part}")
            written = (
                made.repartition(tasks, TASK).mapInArrow(gathered(maker.run), _spark_schema(list(WRITTEN))).collect()
            )
            rows_of = {row["file"]: row["rows"] for row in written}
            sums = {row["file"]: row["sha256"] for row in written}
            for part in PARTS:
                remove_unfinished(f"{self.folder}/{part}")
            for number, (part, name) in enumerate(names):
                if number not in rows_of:
                    empty = arrow_schema(columns[part]).empty_table()
                    sums[number] = write_file(f"{self.folder}/{part}/{name}", empty, columns[part])
            for part in PARTS:
                first = router.first(part)
                specs = [
                    FileSpec(name=names[number][1], rows=rows_of.get(number, 0), sha256=sums[number])
                    for number in range(first, first + files[part])
                ]
                self.datasets[part] = (columns[part], specs)
            for part, expected in ((TRAIN, self.train_rows), (TEST, self.test_rows)):
                if (found := self._rows(part)) != expected:
                    raise RuntimeError(f"{part}: {found} rows written, {expected} counted")
            for place, profile in enumerate(settings.profiles):
                matched = sum(row["matched"][place] for row in written if len(row["matched"]) > place)
                total = self.train_rows + self.test_rows
                self.joins.append(JoinCounts(name=f"samples ⋈ profiles.{profile}", rows=total, matched=matched))
            for part in PARTS:
                remarks.counted(part, self._rows(part))
        storage.remove(f"{self.folder}/.lookups")

    def _rows(self, part: str) -> int:
        return sum(file.rows for file in self.datasets[part][1])

    @property
    def _parallelism(self) -> int:
        return int(self.spark.sparkContext.defaultParallelism)

    def _pass_tasks(self) -> int:
        """Tasks of the user pass: its rows are ordered in memory."""
        rows = sum(counts.rows_read for counts in self.quarantine.counts.values())
        tasks = math.ceil(rows / self.settings.samples.rows_per_task)
        return max(1, math.ceil(tasks / self._parallelism)) * self._parallelism

    def _user_pass(self, router: Router) -> PassPlan:
        settings = self.settings
        vocabularies = user_vocabularies(settings, self.providers, self.lookups)
        looked_up = {name for vocabulary in vocabularies for name in vocabulary.features}
        of_id = [f for f in provided_features(settings, self.providers, USER) if f.name not in looked_up]
        tables = [profile_encoder(settings, self.providers, name, self.lookups) for name in settings.profiles]
        return PassPlan(
            sources=tuple(settings.sources),
            targets=tuple(settings.target_names),
            histories=settings.histories,
            counters={name: c for name, c in settings.counters.items() if c.side == "user"},
            profiles=(*tables, *vocabularies, *(PublishedUsers(n, w) for n, (_, w) in self.published_users.items())),
            user_id_features=tuple(of_id),
            user_id_words=Words(feature_columns(settings, of_id)),
            negatives=settings.samples.negatives,
            tested=tuple(name for name, source in settings.sources.items() if TEST in source.roles),
            train_start=settings.day_start_ms(-settings.window.train_days),
            test_start=settings.day_start_ms(0),
            by_user=settings.samples.split.kind == "leave_last_out",
            unclicked_weight=settings.samples.unclicked_weight,
            seed=settings.seed,
            router=router,
            lookups=self.lookups,
        )

    def _file_maker(
        self, plan: PassPlan, names: tuple[tuple[str, str], ...], columns: Mapping[str, Mapping[str, ColumnSpec]]
    ) -> FileMaker:
        settings = self.settings
        words: dict[str, ColumnSpec] = {}
        for profile in plan.profiles:
            words |= profile.words.columns
        words |= plan.user_id_words.columns
        words |= {counter_column(name): NUMBER for name in plan.counters}
        size = storage.folder_size(f"{self.folder}/items")
        return FileMaker(
            folder=self.folder,
            names=names,
            columns=columns,
            encoder=event_encoder(settings, self.lookups),
            words=Words(words),
            targets=tuple(settings.target_names),
            profiles=tuple(settings.profiles),
            sources=tuple(settings.sources),
            changing=tuple(changing_item_features(settings.features, settings.counters)),
            with_items=size > settings.samples.broadcast_mb * 2**20,
        )

    def _pass_slices(self, plan: PassPlan) -> DataFrame:
        """Slices of a row an event that is a sample or may be known to one, and of a row a profile's row."""
        slices, buckets = self.log.slices, self.log.buckets
        for number, encoder in enumerate(plan.profiles):
            if isinstance(encoder, UserVocabulary):
                tokens = self.spark.read.parquet(self.lookups.vocabularies[encoder.vocabulary])
                more = user_vocabulary_rows(tokens, number, encoder, buckets)
            elif isinstance(encoder, PublishedUsers):
                vectors, _ = self.published_users[encoder.negatives]
                more = published_user_rows(vectors, number, encoder, buckets)
            else:
                more = encoded_profile(self.profiles[encoder.name], number, encoder, buckets)
            slices = slices.unionByName(more)
        return slices

    # Manifests -----------------------------------------------------------------------------------------

    def _write_manifests(self) -> None:
        settings = self.settings
        files = repr({part: files for part, (_, files) in self.datasets.items()})
        vocabularies = repr(sorted((name, spec.digest) for name, spec in self.vocabularies.items()))
        # The item table's version is named after the build: another catalogue must give another build.
        items = storage.folder_digest(f"{self.folder}/items")
        build = storage.digest(settings.date.isoformat(), content_of(settings), files, vocabularies, items)
        common = Manifest(
            kind="samples",
            date=settings.date.isoformat(),
            build=build,
            seed=settings.seed,
            vocabularies=self.vocabularies,
            statistics=self.statistics,
            sources=dict(self.quarantine.counts),
            joins=self.joins,
            vocabularies_of=self.vocabularies_of,
        )
        write_settings(self.folder, settings)
        for part, (columns, written) in self.datasets.items():
            own: dict[str, object] = {"kind": part, "columns": dict(columns), "files": written}
            if part == "train":
                own["negatives"] = settings.samples.negatives
            manifest = common.model_copy(update=own)
            write_manifest(f"{self.folder}/{part}", manifest)
        write_manifest(self.folder, common)


def _spark_schema(fields: Sequence[tuple[str, pa.DataType]]) -> T.StructType:
    kinds = {
        pa.int32(): T.IntegerType(),
        pa.int64(): T.LongType(),
        pa.float32(): T.FloatType(),
        pa.string(): T.StringType(),
        pa.binary(): T.BinaryType(),
        pa.list_(pa.int64()): T.ArrayType(T.LongType()),
    }
    return T.StructType([T.StructField(name, kinds[kind]) for name, kind in fields])


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
