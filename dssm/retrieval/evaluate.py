"""evaluate: the whole catalogue ranked for each user of the test window, beside baselines on the same users."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

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
    TARGETS,
    USER_ID,
    WARM,
    Manifest,
    data_files,
    read_manifest,
)
from dssm.metrics import ranking_metrics
from dssm.model.manifest import ModelManifest, read_model_manifest
from dssm.packing import unpack_all
from dssm.paths import RunPaths
from dssm.retrieval.baselines import item_cf_scores, item_similarity
from dssm.retrieval.search import top_items
from dssm.scoring.vectors import VECTOR, check_model_fits, load_tower, task_threads, with_vectors

SEEN_POSITIVE = "seen_positive"
KEPT, FILTERED = "seen_kept", "seen_filtered"


@dataclass(frozen=True)
class Block:
    """Users to rank for: ids, the user tower's `vectors`, `seen` and `positive` items as (users, items) of 0 and 1."""

    users: pa.Array
    vectors: np.ndarray
    seen: sp.csr_matrix
    positive: sp.csr_matrix


@dataclass(frozen=True)
class Rankers:
    """What the executors need to rank the catalogue. Items stand in the order of their indexes."""

    item_vectors: np.ndarray
    popularity: np.ndarray
    similarity: Mapping[str, sp.csr_matrix]
    oracle_users: Mapping[str, int] = field(default_factory=dict)
    oracle_user_tastes: np.ndarray | None = None
    oracle_items: np.ndarray | None = None

    @property
    def names(self) -> list[str]:
        return ["model", "popularity", *self.similarity, *(["best_reachable"] if self.oracle_items is not None else [])]

    def scores(self, block: Block) -> Iterator[tuple[str, np.ndarray]]:
        """Yields each ranker's name and its scores, (users, items)."""
        yield "model", block.vectors @ self.item_vectors.T
        yield "popularity", np.tile(self.popularity, (len(block.users), 1))
        for name, similarity in self.similarity.items():
            histories = block.positive if name == "itemcf" else block.seen
            yield name, item_cf_scores(histories, similarity)
        if self.oracle_items is not None and self.oracle_user_tastes is not None:
            places = [self.oracle_users[user] for user in block.users.to_pylist()]
            yield "best_reachable", self.oracle_user_tastes[places] @ self.oracle_items.T


def evaluate(spark: SparkSession, settings: Settings) -> None:
    """Writes evaluation.json and prints its table.

    Users are those with a positive in the test window and an event before it; each is ranked for with
    its features as of the window's start. Others are counted as cold. With seen items filtered, an item
    that the user has any event with before the window is neither ranked nor looked for; users who
    clicked nothing else are left out of that average.
    """
    paths = RunPaths(settings.run_folder)
    model = read_model_manifest(paths.model)
    manifests = {part: read_manifest(paths.part(part), "build_samples") for part in ("items", "users", "interactions")}
    check_model_fits(model, manifests["items"], model.item_columns, paths.part("items"))
    check_model_fits(model, manifests["users"], model.user_columns, paths.part("users"))
    with step("item vectors") as remarks:
        items = _item_table(spark, paths, manifests["items"], model)
        remarks.append(f"{len(items[ITEM_ID]):,} items")
    with step("baselines"):
        rankers = _rankers(spark, settings, paths, manifests["interactions"], items)
    with step("whole-catalogue ranking") as remarks:
        per_user = _per_user(spark, settings, paths, manifests, model, rankers)
        found = _averages(per_user, rankers.names, settings.evaluate.cutoffs)
        remarks.append(f"{found['users']:,} users")
    result = {
        "model_version": model.model_version,
        "samples_build": manifests["items"].build,
        "date": settings.date.isoformat(),
        "items": len(items[ITEM_ID]),
        **found,
    }
    storage.write_text(paths.evaluation, json.dumps(result, indent=1) + "\n")
    _show(result, settings.evaluate.cutoffs)
    out.print(f"  {paths.evaluation}")


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


def _rankers(
    spark: SparkSession, settings: Settings, paths: RunPaths, interactions: Manifest, items: Mapping[str, np.ndarray]
) -> Rankers:
    folder, count = paths.part("interactions"), len(items[ITEM_ID])
    users = spark.read.parquet(*data_files(folder, interactions))
    popularity = np.zeros(count, np.float32)
    for row in _pairs(users, TARGETS).groupBy(ITEM_INDEX).agg(F.sum(TARGETS).alias("targets")).collect():
        popularity[row[ITEM_INDEX]] = row["targets"]
    similarity = {}
    limit = settings.evaluate.itemcf_max_interactions
    total = users.agg(F.sum(F.size(SEEN)).alias("pairs")).first()
    pairs = (total and total["pairs"]) or 0
    if pairs > limit:
        out.print(
            f"  [yellow]ItemCF left out: {pairs:,} interactions are above "
            f"evaluate.itemcf_max_interactions ({limit:,})[/yellow]"
        )
    else:
        seen, positive = _interaction_matrices(users, count)
        neighbours = settings.evaluate.itemcf_neighbours
        similarity["itemcf"] = item_similarity(positive, neighbours)
        if positive.nnz < seen.nnz:
            similarity["itemcf_impressions"] = item_similarity(seen, neighbours)
    oracle = _oracle(settings, items[ITEM_ID]) if settings.evaluate.oracle else {}
    return Rankers(items[VECTOR], popularity, similarity, **oracle)


def _pairs(users: DataFrame, *beside: str) -> DataFrame:
    """Grain: one row a user and an item of SEEN, as (the user's key, ITEM_INDEX, what stands `beside` it)."""
    exploded = users.select(F.xxhash64(USER_ID).alias("key"), F.explode(F.arrays_zip(SEEN, *beside)).alias("pair"))
    return exploded.select("key", F.col("pair")[SEEN].alias(ITEM_INDEX), *[F.col("pair")[c].alias(c) for c in beside])


def _interaction_matrices(users: DataFrame, items: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Returns all interactions and the positive ones, each (users, items) of 0 and 1."""
    rows: Any = _pairs(users, POSITIVE).toPandas()
    numbers = np.unique(rows["key"].to_numpy(), return_inverse=True)[1]
    shape = (int(numbers.max(initial=-1)) + 1, items)
    places, liked = rows[ITEM_INDEX].to_numpy(), rows[POSITIVE].to_numpy() > 0
    seen = sp.csr_matrix((np.ones(len(rows), np.float32), (numbers, places)), shape=shape)
    positive = sp.csr_matrix((np.ones(liked.sum(), np.float32), (numbers[liked], places[liked])), shape=shape)
    return seen, positive


def _oracle(settings: Settings, item_ids: np.ndarray) -> dict[str, Any]:
    """A generated feed's planted tastes: ⟨client, post⟩ is the chance that a client's click goes to the post."""
    assert settings.evaluate.oracle is not None
    folder = settings.expand(settings.evaluate.oracle)[0]
    tables = {}
    for name in ("clients", "posts"):
        path = f"{folder}/{name}.parquet"
        if not storage.exists(path):
            raise UserError(
                f"evaluate.oracle: {path} not found; expected the folder that dssm.demo writes, or no oracle"
            )
        system, place = storage.filesystem(path)
        with system.open(place, "rb") as file:
            rows = pq.read_table(file)
        values = np.asarray(rows["values"].combine_chunks().flatten(), np.float32).reshape(rows.num_rows, -1)
        tables[name] = ({key: number for number, key in enumerate(rows["id"].to_pylist())}, values)
    places, posts = tables["posts"]
    unknown = [item for item in item_ids if item not in places]
    if unknown:
        raise UserError(
            f"evaluate.oracle: {folder}/posts.parquet has no item '{unknown[0]}' of the catalogue; "
            "generate the feed again"
        )
    users, tastes = tables["clients"]
    return {
        "oracle_users": users,
        "oracle_user_tastes": tastes,
        "oracle_items": posts[[places[item] for item in item_ids]],
    }


def _per_user(
    spark: SparkSession,
    settings: Settings,
    paths: RunPaths,
    manifests: Mapping[str, Manifest],
    model: ModelManifest,
    rankers: Rankers,
) -> DataFrame:
    """Grain: one row a user of the test window, as (USER_ID, WARM, unseen: clicked items not seen, metrics).

    `metrics` holds, for warm users, the ranking metrics of each ranker with seen items kept and filtered,
    laid end to end.
    """
    users = spark.read.parquet(*data_files(paths.part("users"), manifests["users"]))
    interactions = spark.read.parquet(*data_files(paths.part("interactions"), manifests["interactions"]))
    positive = F.filter(F.arrays_zip(SEEN, POSITIVE), lambda pair: pair[POSITIVE] > 0)
    lists = interactions.select(USER_ID, SEEN, F.transform(positive, lambda pair: pair[SEEN]).alias(SEEN_POSITIVE))
    rows = users.select(USER_ID, WARM, CLICKED, *model.user_columns).join(lists, USER_ID, "left")
    shared, threads = spark.sparkContext.broadcast(rankers), task_threads(spark)
    tower, version, columns = f"{paths.model}/user_tower", model.model_version, model.user_columns
    cutoffs, block_size = settings.evaluate.cutoffs, settings.evaluate.users_per_block

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for start in range(0, batch.num_rows, block_size):
                block = batch.slice(start, block_size)
                block = block.filter(pa.compute.equal(block.column(WARM), 1))
                if block.num_rows:
                    vectors = load_tower(tower, version, threads).vectors(unpack_all(block, columns))
                    yield _rank_block(block, vectors, shared.value, cutoffs)

    fields = [T.StructField(USER_ID, T.StringType()), T.StructField("unseen", T.IntegerType())]
    fields.append(T.StructField("metrics", T.ArrayType(T.DoubleType())))
    ranked = rows.mapInArrow(run, T.StructType(fields))
    return users.select(USER_ID, WARM).join(ranked, USER_ID, "left")


def _rank_block(block: pa.RecordBatch, vectors: np.ndarray, rankers: Rankers, cutoffs: Sequence[int]) -> pa.RecordBatch:
    items = len(rankers.item_vectors)
    clicked, seen, positive = (_matrix(block.column(name), items) for name in (CLICKED, SEEN, SEEN_POSITIVE))
    clicked_dense, seen_dense = clicked.toarray() > 0, seen.toarray() > 0
    relevant = {KEPT: clicked_dense, FILTERED: clicked_dense & ~seen_dense}
    values = []
    for _, scores in rankers.scores(Block(block.column(USER_ID), vectors, seen, positive)):
        for view, wanted in relevant.items():
            ranked = np.where(seen_dense, -np.inf, scores) if view == FILTERED else scores
            best = top_items(ranked, max(cutoffs))
            hits = np.take_along_axis(wanted, best, axis=1)
            metrics = ranking_metrics(hits, np.maximum(wanted.sum(axis=1), 1), cutoffs)
            values += [metrics[name] for name in sorted(metrics)]
    matrix = np.stack(values, axis=1)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1]).cast(pa.list_(pa.float64()))
    unseen = pa.array(relevant[FILTERED].sum(axis=1), pa.int32())
    return pa.RecordBatch.from_arrays([block.column(USER_ID), unseen, lists], names=[USER_ID, "unseen", "metrics"])


def _matrix(lists: pa.ListArray, items: int) -> sp.csr_matrix:
    """Returns lists of item indexes as a matrix (lists, items) of 0 and 1; null is an empty list."""
    counts = pa.compute.fill_null(pa.compute.list_value_length(lists), 0).to_numpy()
    values = lists.flatten().to_numpy()
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return sp.csr_matrix((np.ones(len(values), np.float32), values, offsets), shape=(len(lists), items))


def _averages(per_user: DataFrame, names: Sequence[str], cutoffs: Sequence[int]) -> dict[str, Any]:
    metrics = sorted(ranking_metrics(np.zeros((1, max(cutoffs))), np.ones(1), cutoffs))
    layout = [(view, name, metric) for name in names for view in (KEPT, FILTERED) for metric in metrics]
    columns = []
    for place, (view, _, _) in enumerate(layout):
        value = F.col("metrics")[place]
        columns.append(F.avg(value if view == KEPT else F.when(F.col("unseen") > 0, value)).alias(str(place)))
    counts = [F.count("metrics").alias("users"), F.sum((F.col(WARM) == 0).cast("int")).alias("cold")]
    counts.append(F.sum((F.col("unseen") > 0).cast("int")).alias("users_filtered"))
    row = per_user.agg(*counts, *columns).first()
    assert row is not None
    if not row["users"]:
        raise UserError("evaluate: no user of the test window has an event before it; nothing can be measured")
    averages: dict[str, dict[str, dict[str, float | None]]] = {KEPT: {}, FILTERED: {}}
    for place, (view, name, metric) in enumerate(layout):
        averages[view].setdefault(name, {})[metric] = row[str(place)]
    return {
        "users": row["users"], "users_filtered": row["users_filtered"] or 0, "cold_users": row["cold"] or 0, **averages
    }  # fmt: skip


def _show(result: Mapping[str, Any], cutoffs: Sequence[int]) -> None:
    for view, title in ((KEPT, "seen items kept"), (FILTERED, "seen items filtered")):
        rows: Mapping[str, Mapping[str, float | None]] = result[view]
        columns = [f"recall@{k}" for k in cutoffs] + [f"{m}@{cutoffs[-1]}" for m in ("precision", "hitrate", "ndcg")]
        users = result["users"] if view == KEPT else result["users_filtered"]
        table(
            f"{title}: {users:,} users, {result['items']:,} items, {result['cold_users']:,} cold users left out",
            ["", *columns],
            [
                [name, *("–" if values[c] is None else f"{values[c]:.4f}" for c in columns)]
                for name, values in rows.items()
            ],
        )
