"""evaluate: the whole catalogue ranked for each user of the test window, beside baselines on the same users."""

from __future__ import annotations

import contextlib
import json
import pickle
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dssm import storage
from dssm.config import Settings
from dssm.console import out, step, table
from dssm.errors import UserError
from dssm.manifest import (
    CLICKED,
    ITEM_ID,
    ITEM_INDEX,
    POSITIVE,
    SEEN,
    USER_ID,
    WARM,
    Manifest,
    data_files,
    read_manifest,
)
from dssm.model.manifest import ModelManifest, read_model_manifest
from dssm.packing import unpack_all
from dssm.paths import RunPaths
from dssm.retrieval.rankers import MODEL, POPULARITY, Block, Rankers, make_rankers
from dssm.retrieval.tally import TENTHS, Tally, popularity_tenths
from dssm.scoring.vectors import VECTOR, check_model_fits, load_tower, task_threads, with_vectors

SEEN_POSITIVE = "seen_positive"
KEPT, FILTERED = "seen_kept", "seen_filtered"
VIEWS = {KEPT: "seen items kept", FILTERED: "seen items filtered"}


@dataclass
class Found:
    """What the rankings add up to: the tallies of each view and ranker, and the users that were not ranked for."""

    tallies: dict[tuple[str, str], Tally]
    cold_users: int = 0

    @classmethod
    def empty(cls, names: Sequence[str], cutoffs: Sequence[int], items: int) -> Found:
        return cls({(view, name): Tally.empty(cutoffs, items) for view in VIEWS for name in names})

    def merge(self, other: Found) -> None:
        self.cold_users += other.cold_users
        for key, tally in self.tallies.items():
            tally.merge(other.tallies[key])


def evaluate(spark: SparkSession, settings: Settings) -> None:
    """Writes evaluation.json and prints its tables.

    Users are those with a positive in the test window and an event before it; each is ranked for with
    its features as of the window's start. Others are counted as cold. With seen items filtered, an item
    that the user has any event with before the window is neither ranked nor looked for; users who
    clicked nothing else are left out of that average, and of its coverage.
    """
    paths = RunPaths(settings.run_folder)
    model = read_model_manifest(paths.model)
    manifests = {part: read_manifest(paths.part(part), "build_samples") for part in ("items", "users", "interactions")}
    check_model_fits(model, manifests["items"], model.item_columns, paths.part("items"))
    check_model_fits(model, manifests["users"], model.user_columns, paths.part("users"))
    with _scratch(paths) as scratch:
        with step("item vectors") as remarks:
            items = _item_table(spark, paths, manifests["items"], model)
            remarks.append(f"{len(items[ITEM_ID]):,} items")
        with step("baselines"):
            interactions = spark.read.parquet(*data_files(paths.part("interactions"), manifests["interactions"]))
            rankers = make_rankers(interactions, settings, items, scratch)
        with step("whole-catalogue ranking") as remarks:
            found = _rankings(spark, settings, paths, manifests, model, rankers)
            users = found.tallies[KEPT, MODEL].users
            remarks.append(f"{users:,} users")
    if not users:
        raise UserError("evaluate: no user of the test window has an event before it; nothing can be measured")
    result = {
        "model_version": model.model_version,
        "samples_build": manifests["items"].build,
        "date": settings.date.isoformat(),
        "items": len(items[ITEM_ID]),
        "users": users,
        "users_filtered": found.tallies[FILTERED, MODEL].users,
        "cold_users": found.cold_users,
        **{view: {name: found.tallies[view, name].metrics() for name in rankers.names} for view in VIEWS},
        "popularity_tenths": _by_tenth(found, popularity_tenths(rankers.popularity)),
    }
    storage.write_text(paths.evaluation, json.dumps(result, indent=1) + "\n")
    from dssm.model.card import add_evaluation  # with TensorFlow, which nothing before needs in this process

    add_evaluation(settings)
    _show(result, settings.evaluate.cutoffs)
    out.print(f"  {paths.evaluation}")


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


def _item_table(
    spark: SparkSession, paths: RunPaths, manifest: Manifest, model: ModelManifest
) -> dict[str, np.ndarray]:
    """Returns the catalogue's ids and vectors in the order of the item indexes."""
    frame = with_vectors(
        spark, paths.part("items"), manifest, f"{paths.model}/item_tower", model.model_version, model.item_columns,
        [ITEM_INDEX, ITEM_ID],
    )  # fmt: skip
    rows: Any = frame.toPandas()
    rows = rows.sort_values(ITEM_INDEX)
    if not (rows[ITEM_INDEX].to_numpy() == np.arange(len(rows))).all():
        raise UserError(f"{paths.part('items')}: the item indexes are not 0…{len(rows) - 1}; run build_samples again")
    return {ITEM_ID: rows[ITEM_ID].to_numpy(), VECTOR: np.stack(rows[VECTOR].to_numpy()).astype(np.float32)}


def _rankings(
    spark: SparkSession,
    settings: Settings,
    paths: RunPaths,
    manifests: Mapping[str, Manifest],
    model: ModelManifest,
    rankers: Rankers,
) -> Found:
    """Ranks for every user of the test window on the executors, a block of users at once; a task yields one row."""
    users = spark.read.parquet(*data_files(paths.part("users"), manifests["users"]))
    interactions = spark.read.parquet(*data_files(paths.part("interactions"), manifests["interactions"]))
    positive = F.filter(F.arrays_zip(SEEN, POSITIVE), lambda pair: pair[POSITIVE] > 0)
    lists = interactions.select(USER_ID, SEEN, F.transform(positive, lambda pair: pair[SEEN]).alias(SEEN_POSITIVE))
    rows = users.select(USER_ID, WARM, CLICKED, *model.user_columns).join(lists, USER_ID, "left")
    shared, threads = spark.sparkContext.broadcast(rankers), task_threads(spark)
    tower, version, columns = f"{paths.model}/user_tower", model.model_version, model.user_columns
    cutoffs, block_size = settings.evaluate.cutoffs, settings.evaluate.users_per_block

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rankers = shared.value
        found = Found.empty(rankers.names, cutoffs, len(rankers.item_vectors))
        tenths = popularity_tenths(rankers.popularity)
        for batch in batches:
            warm = batch.filter(pa.compute.equal(batch.column(WARM), 1))
            found.cold_users += batch.num_rows - warm.num_rows
            for start in range(0, warm.num_rows, block_size):
                block = warm.slice(start, block_size)
                vectors = load_tower(tower, version, threads).vectors(unpack_all(block, columns))
                _rank_block(block, vectors, rankers, tenths, found)
        yield pa.RecordBatch.from_arrays([pa.array([_packed(found)], pa.binary())], names=["found"])

    total = Found.empty(rankers.names, cutoffs, len(rankers.item_vectors))
    for row in rows.mapInArrow(run, "found binary").collect():
        total.merge(_unpacked(row["found"]))
    return total


def _packed(found: Found) -> bytes:
    return zlib.compress(pickle.dumps(found), level=1)  # nearly all of it is what is covered, a byte an item


def _unpacked(data: bytes) -> Found:
    found: Found = pickle.loads(zlib.decompress(data))
    return found


def _rank_block(block: pa.RecordBatch, vectors: np.ndarray, rankers: Rankers, tenths: np.ndarray, found: Found) -> None:
    items = len(rankers.item_vectors)
    clicked, seen, positive = (_matrix(block.column(name), items) for name in (CLICKED, SEEN, SEEN_POSITIVE))
    clicked_dense, seen_dense = clicked.toarray() > 0, seen.toarray() > 0
    wanted = {KEPT: clicked_dense, FILTERED: clicked_dense & ~seen_dense}
    for name, scores in rankers.scores(Block(block.column(USER_ID), vectors, seen, positive)):
        found.tallies[KEPT, name].add(scores, wanted[KEPT], tenths)
        found.tallies[FILTERED, name].add(np.where(seen_dense, -np.inf, scores), wanted[FILTERED], tenths)


def _matrix(lists: pa.ListArray, items: int) -> sp.csr_matrix:
    """Returns lists of item indexes as a matrix (lists, items) of 0 and 1; null is an empty list."""
    counts = pa.compute.fill_null(pa.compute.list_value_length(lists), 0).to_numpy()
    values = lists.flatten().to_numpy()
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return sp.csr_matrix((np.ones(len(values), np.float32), values, offsets), shape=(len(lists), items))


def _by_tenth(found: Found, tenths: np.ndarray) -> dict[str, Any]:
    """Returns the recall of each popularity tenth of the catalogue, the most popular first.

    It is that of all users together: the share of their clicks on items of the tenth that are in the top K.
    """
    by_tenth: dict[str, Any] = {"items": np.bincount(tenths, minlength=TENTHS).tolist()}
    for view in VIEWS:
        recall = {name: found.tallies[view, name].recall_by_tenth() for name in (MODEL, POPULARITY)}
        by_tenth[view] = {"clicks": found.tallies[view, MODEL].relevant.tolist(), **recall}
    return by_tenth


def _show(result: Mapping[str, Any], cutoffs: Sequence[int]) -> None:
    last = cutoffs[-1]
    for view, title in VIEWS.items():
        columns = [f"recall@{k}" for k in cutoffs] + [f"{m}@{last}" for m in ("hitrate", "ndcg", "mrr", "coverage")]
        users = result["users"] if view == KEPT else result["users_filtered"]
        table(
            f"{title}: {users:,} users, {result['items']:,} items, {result['cold_users']:,} cold users left out",
            ["", *columns],
            [[name, *(_number(values[c], 4) for c in columns)] for name, values in result[view].items()],
        )
    tenths = result["popularity_tenths"][KEPT]
    table(
        f"recall@{last} by tenth of the catalogue, 1 the most popular; {VIEWS[KEPT]}",
        ["", *(str(place + 1) for place in range(TENTHS))],
        [
            ["clicks", *(f"{clicks:,}" for clicks in tenths["clicks"])],
            *([name, *(_number(v, 3) for v in tenths[name][f"recall@{last}"])] for name in (MODEL, POPULARITY)),
        ],
    )


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
