"""Samples, users and interactions: from the rows of logs and profiles to the files of four datasets."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from pyspark.errors.exceptions.captured import CapturedException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm import storage
from dssm.config import Settings
from dssm.console import step
from dssm.errors import UserError
from dssm.manifest import ITEM_INDEX, ColumnSpec, FileSpec, JoinCounts, changing_item_features
from dssm.paths import DATASETS
from dssm.samples.datasets import NUMBER, Dataset, feature_columns, sample_columns
from dssm.samples.events import TEST, TRAIN
from dssm.samples.exchange import SLICE, filled, gathered, scattered, task_keys
from dssm.samples.files import WRITTEN, FileMaker, arrow_schema, counter_column, write_file
from dssm.samples.inputs import InputEvents, InputTables
from dssm.samples.items import event_encoder
from dssm.samples.log import by_task
from dssm.samples.lookups import Lookups
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
from dssm.samples.published import ModelVectors
from dssm.samples.raw_columns import USER, provided_features
from dssm.samples.timeline import TOO_MANY_USERS
from dssm.samples.user_pass import user_pass
from dssm.samples.words import Words
from dssm.samples.writing import remove_unfinished, stable_files

PARTS = tuple(name for name in DATASETS if name != "items")  # which are written before
ROWS_PER_FILE_TASK = 131_072  # of the last shuffle: a task's rows are in memory at once, a few hundred bytes each


@dataclass(frozen=True)
class SampleFiles:
    """The making of the four datasets.

    Attributes:
      published_users: by name of the hard negatives.
      parallelism: tasks that run at once.
      pass_tasks: tasks of the user pass.
    """

    spark: SparkSession
    settings: Settings
    folder: str
    tables: InputTables
    events: InputEvents
    lookups: Lookups
    published_users: Mapping[str, ModelVectors]
    parallelism: int
    pass_tasks: int

    def make(self) -> tuple[dict[str, Dataset], list[JoinCounts]]:
        """Writes the files. Returns: the datasets, and how many samples found a row of each profile."""
        settings, events = self.settings, self.events
        columns = sample_columns(settings)
        counts = {
            "train": events.train_rows,
            "test": events.test_rows,
            "users": events.test_rows // 4,  # about: known when they are written
            "interactions": events.log_rows // 8,
        }
        if settings.samples.users == "all":
            counts["users"] += counts["interactions"]
        size = settings.samples.rows_per_file
        files = {part: max(1, math.ceil(counts[part] / size)) for part in PARTS}
        files["users"] = stable_files(counts["users"], size)
        names = tuple((part, f"part-{number:05d}.parquet") for part in PARTS for number in range(files[part]))
        with step("samples, users and interactions") as remarks:
            tasks = min(len(names), max(self.parallelism, math.ceil(sum(counts.values()) / ROWS_PER_FILE_TASK)))
            keys = task_keys(tasks)
            router = Router(files, tuple(keys[number % tasks] for number in range(len(names))))
            widths = {name: vectors.width for name, vectors in self.published_users.items()}
            plan = pass_plan(settings, self.tables.providers, self.lookups, widths, router)
            maker = file_maker(settings, self.folder, self.lookups, plan, names, columns)
            made = self._by_file(plan, maker.with_items, columns["train"])
            for part in PARTS:
                storage.make_folder(f"{self.folder}/{part}")
            filed = made.repartition(tasks, TASK).mapInArrow(gathered(maker.run), _spark_schema(list(WRITTEN)))
            with overflow_explained():
                written = filed.collect()
            datasets = self._datasets(names, columns, written)
            rows = {part: sum(file.rows for file in of_part) for part, (_, of_part) in datasets.items()}
            for part, expected in ((TRAIN, events.train_rows), (TEST, events.test_rows)):
                if rows[part] != expected:
                    raise RuntimeError(f"{part}: {rows[part]} rows written, {expected} counted")
            for part in PARTS:
                remarks.counted(part, rows[part])
        return datasets, self._joins(written)

    def _by_file(self, plan: PassPlan, with_items: bool, columns: Mapping[str, ColumnSpec]) -> DataFrame:
        """Returns (TASK, SLICE): the rows that wait to be encoded, those of a file under the key of its task.

        Args:
          with_items: whether the rows get the item's columns.
          columns: of the samples.
        """
        run = partial(user_pass, plan)
        rows = by_task(self._slices(plan), self.pass_tasks)
        slices = _spark_schema([(TASK, pa.int32()), (SLICE, pa.binary())])
        if not with_items:
            return rows.mapInArrow(gathered(scattered(run, TASK)), slices)
        fields = output_fields(plan.targets, plan.histories)
        made = rows.mapInArrow(gathered(filled(run, fields)), _spark_schema(fields))
        own = set(columns) - {ITEM_INDEX, *made.columns}
        items = self.spark.read.parquet(*self.lookups.item_files)
        items = items.select(ITEM_INDEX, *[name for name in items.columns if name in own])
        # Users and interactions have no item: they are spread, or would all meet in one task.
        spread = F.coalesce(ITEM_INDEX, -1 - F.pmod(ORDER, F.lit(4096)).cast("int"))
        items = items.withColumnRenamed(ITEM_INDEX, "__item")
        made = made.withColumn("__item", spread).join(items, "__item", "left").drop("__item")
        return made.mapInArrow(scattered(iter, TASK), slices)

    def _slices(self, plan: PassPlan) -> DataFrame:
        """Slices of a row an event that is a sample or may be known to one, and of a row a profile's row."""
        slices, buckets = self.events.log.slices, self.events.log.buckets
        for number, encoder in enumerate(plan.profiles):
            if isinstance(encoder, UserVocabulary):
                tokens = self.spark.read.parquet(self.lookups.vocabularies[encoder.vocabulary])
                more = user_vocabulary_rows(tokens, number, encoder, buckets)
            elif isinstance(encoder, PublishedUsers):
                vectors = self.published_users[encoder.negatives].frame
                more = published_user_rows(vectors, number, encoder, buckets)
            else:
                more = encoded_profile(self.tables.profiles[encoder.name], number, encoder, buckets)
            slices = slices.unionByName(more)
        return slices

    def _datasets(
        self, names: Sequence[tuple[str, str]], columns: Mapping[str, Mapping[str, ColumnSpec]], written: list[Row]
    ) -> dict[str, Dataset]:
        """Returns the datasets of the files written; a file that got no rows is written here."""
        of_number = {row["file"]: row for row in written}
        for part in PARTS:
            remove_unfinished(f"{self.folder}/{part}")
        specs: dict[str, list[FileSpec]] = {part: [] for part in PARTS}
        for number, (part, name) in enumerate(names):
            if number in of_number:
                rows, sha256 = of_number[number]["rows"], of_number[number]["sha256"]
            else:
                empty = arrow_schema(columns[part]).empty_table()
                rows, sha256 = 0, write_file(f"{self.folder}/{part}/{name}", empty, columns[part])
            specs[part].append(FileSpec(name=name, rows=rows, sha256=sha256))
        return {part: (columns[part], specs[part]) for part in PARTS}

    def _joins(self, written: list[Row]) -> list[JoinCounts]:
        total = self.events.train_rows + self.events.test_rows
        return [
            JoinCounts(
                name=f"samples ⋈ profiles.{profile}",
                rows=total,
                matched=sum(row["matched"][place] for row in written if len(row["matched"]) > place),
            )
            for place, profile in enumerate(self.settings.profiles)
        ]


@contextlib.contextmanager
def overflow_explained() -> Iterator[None]:
    """Turns a task's refusal of users over times that one number does not hold into a UserError."""
    try:
        yield
    except CapturedException as error:
        found = re.search(rf"OverflowError: (.*{TOO_MANY_USERS}.*)", str(error))
        if found is None:
            raise
        raise UserError(f"samples.rows_per_task: {found.group(1)}; set it lower") from error


def pass_plan(
    settings: Settings,
    providers: Mapping[str, str],
    lookups: Lookups,
    published_users: Mapping[str, int],
    router: Router,
) -> PassPlan:
    """Returns what a task of the user pass needs to know.

    Args:
      providers: of `user_columns`.
      published_users: width of the users' vectors, by name of the hard negatives that have them.
    """
    vocabularies = user_vocabularies(settings, providers, lookups)
    looked_up = {name for vocabulary in vocabularies for name in vocabulary.features}
    of_id = [f for f in provided_features(settings, providers, USER) if f.name not in looked_up]
    tables = [profile_encoder(settings, providers, name, lookups) for name in settings.profiles]
    return PassPlan(
        sources=tuple(settings.sources),
        targets=tuple(settings.target_names),
        histories=settings.histories,
        counters={name: c for name, c in settings.counters.items() if c.side == "user"},
        profiles=(*tables, *vocabularies, *(PublishedUsers(n, w) for n, w in published_users.items())),
        user_id_features=tuple(of_id),
        user_id_words=Words(feature_columns(settings, of_id)),
        negatives=settings.samples.negatives,
        tested=tuple(name for name, source in settings.sources.items() if TEST in source.roles),
        train_start=settings.day_start_ms(-settings.window.train_days),
        test_start=settings.day_start_ms(0),
        all_users=settings.samples.users == "all",
        by_user=settings.samples.split.kind == "leave_last_out",
        unclicked_weight=settings.samples.unclicked_weight,
        seed=settings.seed,
        router=router,
        lookups=lookups,
    )


def file_maker(
    settings: Settings,
    folder: str,
    lookups: Lookups,
    plan: PassPlan,
    names: tuple[tuple[str, str], ...],
    columns: Mapping[str, Mapping[str, ColumnSpec]],
) -> FileMaker:
    """Returns what writes the plan's rows; `names` are (dataset, file name) of each file's number."""
    words: dict[str, ColumnSpec] = {}
    for profile in plan.profiles:
        words |= profile.words.columns
    words |= plan.user_id_words.columns
    words |= {counter_column(name): NUMBER for name in plan.counters}
    size = storage.folder_size(f"{folder}/items")
    return FileMaker(
        folder=folder,
        names=names,
        columns=columns,
        encoder=event_encoder(settings, lookups),
        words=Words(words),
        targets=tuple(settings.target_names),
        profiles=tuple(settings.profiles),
        sources=tuple(settings.sources),
        changing=tuple(changing_item_features(settings.features, settings.counters)),
        with_items=size > settings.samples.broadcast_mb * 2**20,
    )


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
