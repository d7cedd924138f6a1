"""The model and the baselines that `evaluate` compares it with: made in the driver, run on the executors."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dssm import storage
from dssm.config import Settings
from dssm.console import out
from dssm.errors import UserError
from dssm.manifest import ITEM_ID, ITEM_INDEX, LAST_TIME, POSITIVE, SEEN, TARGETS, USER_ID
from dssm.retrieval.baselines import ease, item_cf_scores, item_similarity
from dssm.scoring.vectors import VECTOR

MODEL, POPULARITY = "model", "popularity"
EASE_FILE = "ease.npy"


@dataclass(frozen=True)
class Block:
    """Users to rank for: ids, the user tower's `vectors`, `seen` and `positive` items as (users, items) of 0 and 1."""

    users: pa.Array
    vectors: np.ndarray
    seen: sp.csr_matrix
    positive: sp.csr_matrix


@dataclass(frozen=True)
class Recent:
    """Of the last days before the test window.

    Attributes:
      targets: (items,), positives of the tested sources: what `popularity_recent` ranks by.
      positives: (items,), users whose positives `ease_recent` weighs an item by.
    """

    targets: np.ndarray
    positives: np.ndarray


@dataclass(frozen=True)
class Rankers:
    """What the executors need to rank the catalogue. Items stand in the order of their indexes.

    Attributes:
      ease_folder: holds the weights of EASE, (items, items), which are mapped: the processes of a host share
        their memory, and none of them reads a copy of its own.
    """

    item_vectors: np.ndarray
    popularity: np.ndarray
    recent: Recent | None = None
    similarity: Mapping[str, sp.csr_matrix] = field(default_factory=dict)
    ease_folder: str | None = None
    oracle_users: Mapping[str, int] = field(default_factory=dict)
    oracle_user_tastes: np.ndarray | None = None
    oracle_items: np.ndarray | None = None

    @property
    def names(self) -> list[str]:
        recent = self.recent is not None
        given = {
            MODEL: True,
            POPULARITY: True,
            "popularity_recent": recent,
            **dict.fromkeys(self.similarity, True),
            "ease": self.ease_folder is not None,
            "ease_recent": self.ease_folder is not None and recent,
            "best_reachable": self.oracle_items is not None,
        }
        return [name for name, is_given in given.items() if is_given]

    def scores(self, block: Block) -> Iterator[tuple[str, np.ndarray]]:
        """Yields each ranker's name and its scores, (users, items), in the order of `names`."""
        users = len(block.users)
        yield MODEL, block.vectors @ self.item_vectors.T
        yield POPULARITY, np.tile(self.popularity, (users, 1))
        if self.recent is not None:
            yield "popularity_recent", np.tile(self.recent.targets, (users, 1))
        for name, similarity in self.similarity.items():
            histories = block.positive if name == "itemcf" else block.seen
            yield name, item_cf_scores(histories, similarity)
        if self.ease_folder is not None:
            scores = block.seen @ mapped_weights(self.ease_folder)
            yield "ease", scores
            if self.recent is not None:
                yield "ease_recent", scores * np.sqrt(self.recent.positives)
        if self.oracle_items is not None and self.oracle_user_tastes is not None:
            places = [self.oracle_users[user] for user in block.users.to_pylist()]
            yield "best_reachable", self.oracle_user_tastes[places] @ self.oracle_items.T


def make_rankers(users: DataFrame, settings: Settings, items: Mapping[str, np.ndarray], scratch: str) -> Rankers:
    """Makes the rankers from the interactions before the test window. What is left out is said.

    Args:
      users: the dataset `interactions`, one row a user.
      items: the catalogue's ITEM_ID and VECTOR in the order of the item indexes.
      scratch: a folder that every executor sees, to write EASE's weights in.
    """
    evaluate, count = settings.evaluate, len(items[ITEM_ID])
    counts = _item_counts(users, count, settings.day_start_ms(-evaluate.recent_days))
    recent = Recent(counts["recent_targets"], counts["recent_positives"])
    if not recent.targets.any():
        days = f"{evaluate.recent_days} days before the test window (evaluate.recent_days)"
        _say(f"Recent popularity left out: no positives in the last {days}")
    total = users.agg(F.sum(F.size(SEEN)).alias("pairs")).first()
    pairs = (total and total["pairs"]) or 0
    similarity, ease_folder = {}, None
    if pairs > evaluate.itemcf_max_interactions:
        limit = f"evaluate.itemcf_max_interactions ({evaluate.itemcf_max_interactions:,})"
        _say(f"ItemCF and EASE left out: {pairs:,} interactions are above {limit}")
    else:
        seen, positive = _interaction_matrices(users, count)
        similarity["itemcf"] = item_similarity(positive, evaluate.itemcf_neighbours)
        if positive.nnz < seen.nnz:
            similarity["itemcf_impressions"] = item_similarity(seen, evaluate.itemcf_neighbours)
        if count > evaluate.ease_max_items:
            _say(f"EASE left out: {count:,} items are above evaluate.ease_max_items ({evaluate.ease_max_items:,})")
        else:
            ease_folder = f"{scratch}/ease"
            try:
                write_weights(ease(seen, evaluate.ease_l2), ease_folder)
            except ValueError as error:
                small = f"evaluate.ease_l2: {evaluate.ease_l2:g} is too small"
                raise UserError(f"{small}, the matrix is {error}; expected a larger one") from error
    return Rankers(
        item_vectors=items[VECTOR],
        popularity=counts["targets"],
        recent=recent if recent.targets.any() else None,
        similarity=similarity,
        ease_folder=ease_folder,
        **(_oracle(settings, items[ITEM_ID]) if evaluate.oracle else {}),
    )


def _say(remark: str) -> None:
    out.print(f"  [yellow]{remark}[/yellow]")


def write_weights(weights: np.ndarray, folder: str) -> None:
    """Writes a matrix as the one file of a new folder, on any file system."""
    storage.make_folder(folder)
    system, place = storage.filesystem(f"{folder}/{EASE_FILE}")
    with system.open(place, "wb") as file:
        np.save(file, weights)


@functools.lru_cache(maxsize=1)
def mapped_weights(folder: str) -> np.ndarray:
    """Maps what `write_weights` wrote, once for each Python worker process.

    A copy from a remote file system is unlinked at once: its pages live as long as the map.
    """
    with storage.local_copy(folder) as local:
        return np.asarray(np.load(f"{local}/{EASE_FILE}", mmap_mode="r"))


def _item_counts(users: DataFrame, items: int, recent_from: int) -> dict[str, np.ndarray]:
    """Returns float32 (items,) of `targets`, of those `recent_targets`, and `recent_positives`.

    A user and an item are recent where their newest event is at or after `recent_from`, Unix ms: a user's repeated
    positives of an item count as one moment, the last.
    """
    pairs = _pairs(users, TARGETS, POSITIVE, LAST_TIME)
    recent = (F.col(LAST_TIME) >= recent_from).cast("long")
    sums = {
        "targets": F.col(TARGETS),
        "recent_targets": F.col(TARGETS) * recent,
        "recent_positives": F.col(POSITIVE) * recent,
    }
    rows: Any = pairs.groupBy(ITEM_INDEX).agg(*[F.sum(value).alias(name) for name, value in sums.items()]).toPandas()
    counts = {name: np.zeros(items, np.float32) for name in sums}
    for name, values in counts.items():
        values[rows[ITEM_INDEX].to_numpy()] = rows[name].to_numpy()
    return counts


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
