"""evaluate: the whole catalogue ranked for each user of the test window, beside baselines on the same users."""

from __future__ import annotations

import contextlib
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from dssm import storage
from dssm.config import Settings
from dssm.console import out, step
from dssm.errors import UserError
from dssm.evaluation import HEADLINE, KEPT, MODEL, TEST_ROWS, headline
from dssm.manifest import CLICKED, POSITIVE, SEEN, USER_ID, WARM, data_files, read_manifest
from dssm.model.card import add_evaluation
from dssm.model.kept import version_in
from dssm.model.manifest import ModelManifest, read_model_manifest
from dssm.packing import unpack_all
from dssm.paths import RunPaths
from dssm.retrieval.catalogue import write_catalogue
from dssm.retrieval.examples import write_examples
from dssm.retrieval.rankers import Block, Rankers, make_rankers
from dssm.retrieval.ranking import Activity, Asked, Found, Ranking
from dssm.retrieval.results import show, write_results
from dssm.scoring.vectors import check_model_fits, check_not_replaced, load_tower, task_threads
from dssm.spark import most_tasks

SEEN_POSITIVE, KEY = "seen_positive", "key"
FOUND = "found binary"  # one row a task
TASKS_PER_CORE = 2  # so that none waits long for the last
MERGED_AT_ONCE = 32  # findings of tasks, tens of MB each with a million items

Parts = Mapping[str, DataFrame]


def evaluate(spark: SparkSession, settings: Settings) -> None:
    """Writes evaluation.json, evaluation_replicates.npz and examples.json, and prints tables.

    Users are those with a positive in the test window and an event before it; each is ranked for with
    its features as of the window's start. Those without an event before it are a group of their own. With seen
    items filtered, an item that the user has any event with before the window is neither ranked nor looked for;
    users who clicked nothing else are left out of that average, and of its coverage. Beside these metrics stand those
    of the test rows, as train measured them with the weights that were kept, where the samples are still the same.
    """
    paths = RunPaths(settings.run_folder)
    model = read_model_manifest(paths.model)
    manifests = {part: read_manifest(paths.part(part), "build_samples") for part in ("items", "users", "interactions")}
    check_model_fits(model, manifests["items"], model.item_columns, paths.part("items"))
    check_model_fits(model, manifests["users"], model.user_columns, paths.part("users"))
    parts = {part: spark.read.parquet(*data_files(paths.part(part), manifest)) for part, manifest in manifests.items()}
    parts["users"] = parts["users"].where(F.size(CLICKED) > 0)  # of samples.users: all, the others are not tested
    with _of_one_model(paths, model), _scratch(paths) as scratch:
        with step("item vectors") as remarks:
            catalogue = write_catalogue(spark, paths, manifests["items"], model, scratch)
            remarks.counted("items", catalogue.items, f"{catalogue.items:,} items")
        with step("baselines"):
            pairs, activity = _counts(parts)
            rankers = make_rankers(parts["interactions"], pairs, parts["items"], catalogue.items, settings, scratch)
        with step("whole-catalogue ranking") as remarks:
            asked = Asked(settings.evaluate.cutoffs, settings.evaluate.bootstrap, settings.evaluate.examples, activity)
            task = _task(spark, settings, paths, model, rankers, asked)
            tasks = _tasks(spark, manifests["users"].rows, settings.evaluate.users_per_block)
            rows = _users(parts, model.user_columns).repartition(tasks, USER_ID)
            found = _merged(rows.mapInArrow(task, FOUND), tasks, rankers, asked)
            users = found.tallies[KEPT, MODEL].users
            remarks.counted("users", users, f"{users:,} users")
    if not users:
        raise UserError("evaluate: no user of the test window has an event before it; nothing can be measured")
    header = {"model_version": model.model_version, "samples_build": manifests["items"].build}
    shown = headline(settings.item_table.gate.metric, [f"recall@{k}" for k in settings.evaluate.cutoffs])
    of_result: dict[str, Any] = {**header, "date": settings.date.isoformat(), HEADLINE: shown}
    of_result[TEST_ROWS] = model.test_metrics(manifests["items"].build)
    result = write_results(paths, of_result, found, catalogue, asked)
    write_examples(paths, header, found, parts, manifests["items"])
    add_evaluation(settings)
    show(result, settings.evaluate.cutoffs)
    out.print(f"  {paths.evaluation}")


@contextlib.contextmanager
def _of_one_model(paths: RunPaths, model: ModelManifest) -> Iterator[None]:
    """Raises: ReplacedError where the run's model is another one at the end: tasks read it when they need it."""
    try:
        yield
    finally:
        check_not_replaced(paths.model, version_in(paths.model), model.model_version, "train")


@contextlib.contextmanager
def _scratch(paths: RunPaths) -> Iterator[str]:
    """Yields a folder below the run's for what the executors read, and removes it; also one that a killed run left.

    Its name is new each time: Python workers, which outlive a job, remember what they read by its path.
    """
    parent = f"{paths.folder}/.evaluate.tmp"
    storage.remove(parent)
    try:
        yield f"{parent}/{uuid.uuid4().hex}"
    finally:
        storage.remove(parent)


def _counts(parts: Parts) -> tuple[int, Activity]:
    """Returns how many pairs of a user and an item the interactions hold, and the activity of the warm users."""
    warm = parts["users"].where(F.col(WARM) == 1).select(USER_ID, F.lit(1).alias(WARM))
    seen = parts["interactions"].select(USER_ID, F.size(SEEN).alias("items"))
    counted = (
        seen.join(warm, USER_ID, "left").groupBy("items").agg(F.count("*").alias("rows"), F.count(WARM).alias(WARM))
    )
    rows: Any = counted.toPandas()
    rows = rows.sort_values("items")
    return int((rows["items"] * rows["rows"]).sum()), Activity(rows["items"].to_numpy(), rows[WARM].to_numpy())


def _tasks(spark: SparkSession, users: int, block_size: int) -> int:
    return max(1, min(most_tasks(spark, TASKS_PER_CORE), math.ceil(users / block_size)))


def _task(
    spark: SparkSession, settings: Settings, paths: RunPaths, model: ModelManifest, rankers: Rankers, asked: Asked
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Returns what ranks for a task's users, a block of them at once, and yields one row: what it found."""
    tower, version, columns = f"{paths.model}/user_tower", model.model_version, model.user_columns
    block_size, threads = settings.evaluate.users_per_block, task_threads(spark)
    shared = spark.sparkContext.broadcast((rankers, asked))

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        ranking = Ranking(*shared.value)
        for batch in batches:
            is_warm = pc.equal(batch.column(batch.schema.get_field_index(WARM)), 1)
            groups = ((batch.filter(is_warm), ranking.add), (batch.filter(pc.invert(is_warm)), ranking.add_cold))
            for rows, add in groups:
                for start in range(0, rows.num_rows, block_size):
                    block = rows.slice(start, block_size)
                    vectors = load_tower(tower, version, threads).vectors(unpack_all(block, columns))
                    add(_block(block, vectors, ranking.items))
        yield _row(ranking.found)

    return run


def _row(found: Found) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([found.packed()], pa.binary())], names=["found"])


def _merged(partial: DataFrame, rows: int, rankers: Rankers, asked: Asked) -> Found:
    """Returns the sum of all findings; of many, groups are added up by the executors first.

    Args:
      partial: findings, one row each.
      rows: how many.
    """

    def merge(packed: Iterable[bytes]) -> Found:
        total = Found.empty(rankers, asked)
        for data in packed:
            total.merge(Found.unpacked(data))
        return total

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield _row(merge(value.as_py() for batch in batches for value in batch.column(0)))

    if rows > MERGED_AT_ONCE:
        partial = partial.repartition(math.isqrt(rows)).mapInArrow(run, FOUND)
    return merge(bytes(row["found"]) for row in partial.collect())


def _users(parts: Parts, columns: Iterable[str]) -> DataFrame:
    """Grain: one row a user of the test window, with its features, what it clicked and what it had seen."""
    positive = F.filter(F.arrays_zip(SEEN, POSITIVE), lambda pair: pair[POSITIVE] > 0)
    lists = parts["interactions"].select(USER_ID, SEEN, F.transform(positive, _seen).alias(SEEN_POSITIVE))
    users = parts["users"].select(USER_ID, F.xxhash64(USER_ID).alias(KEY), WARM, CLICKED, *columns)
    return users.join(lists, USER_ID, "left")


def _seen(pair: Column) -> Column:
    return pair[SEEN]


def _block(rows: pa.RecordBatch, vectors: np.ndarray, items: int) -> Block:
    columns = {name: rows.column(place) for place, name in enumerate(rows.schema.names)}
    clicked, seen, positive = (_matrix(columns[name], items) for name in (CLICKED, SEEN, SEEN_POSITIVE))
    return Block(columns[USER_ID], columns[KEY].to_numpy(), vectors, clicked, seen, positive)


def _matrix(lists: pa.ListArray, items: int) -> sp.csr_matrix:
    """Returns lists of item indexes as a matrix (lists, items) of 0 and 1; null is an empty list."""
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    values = lists.flatten().to_numpy()
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return sp.csr_matrix((np.ones(len(values), np.float32), values, offsets), shape=(len(lists), items))
