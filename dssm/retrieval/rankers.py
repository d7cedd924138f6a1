"""The model and the baselines that `evaluate` compares it with: made in the driver, run on the executors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dssm import storage
from dssm.config import Settings
from dssm.console import warn
from dssm.errors import UserError
from dssm.evaluation import BEST_REACHABLE, MODEL, POPULARITY
from dssm.manifest import ITEM_ID, ITEM_INDEX, LAST_TIME, POSITIVE, SEEN, TARGETS, USER_ID
from dssm.retrieval.arrays import mapped, mapped_matrix, parts, write_array, write_matrix
from dssm.retrieval.baselines import ease, item_cf_blocks, item_similarity
from dssm.retrieval.search import ITEMS_AT_ONCE, Scores, product_blocks

# Arrays in the rankers' folder, beside those of the rankers' names. In parts: the items' vectors, whether they have no
# training row, hashes of their ids. Whole: positives of the last days, in the tested sources and in all; tastes of the
# generated feed.
VECTORS, COLD_ITEMS, ITEM_KEYS = "vectors", "cold", "keys"
RECENT_TARGETS, RECENT_POSITIVES = "recent_targets", "recent_positives"
ORACLE_USERS, ORACLE_ITEMS = "oracle_users", "oracle_items"


@dataclass(frozen=True)
class Block:
    """Users to rank for.

    Attributes:
      ids, keys: of the users, and 64-bit hashes of the ids.
      vectors: (users, dim), of the user tower.
      clicked, seen, positive: (users, items) of 0 and 1: clicked in the window; before it seen, or acted on.
    """

    ids: pa.Array
    keys: np.ndarray
    vectors: np.ndarray
    clicked: sp.csr_matrix
    seen: sp.csr_matrix
    positive: sp.csr_matrix


@dataclass(frozen=True)
class Rankers:
    """What the executors need to rank the catalogue. Items stand in the order of their indexes.

    Attributes:
      folder: of the arrays; see `arrays`.
      items: of the catalogue.
      recent: whether there are positives of the last days before the test window: `popularity_recent` ranks by
        those of the tested sources, and `ease_recent` weighs EASE by those of all.
      item_cf: names of the similarities.
      ease: whether EASE is there.
      oracle_users: place of each user in the generated feed's tastes.
    """

    folder: str
    items: int
    recent: bool = False
    item_cf: tuple[str, ...] = ()
    ease: bool = False
    oracle_users: Mapping[str, int] | None = None

    @property
    def names(self) -> list[str]:
        return self._names(with_history=True)

    @property
    def cold_names(self) -> list[str]:
        """Those that tell users without a history apart, or need not."""
        return self._names(with_history=False)

    def _names(self, with_history: bool) -> list[str]:
        given = {
            MODEL: True,
            POPULARITY: True,
            "popularity_recent": self.recent,
            **dict.fromkeys(self.item_cf, with_history),
            "ease": self.ease and with_history,
            "ease_recent": self.ease and self.recent and with_history,
            BEST_REACHABLE: self.oracle_users is not None,
        }
        return [name for name, is_given in given.items() if is_given]

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Maps the arrays, once for each process."""
        return mapped(self.folder)

    def scores(self, block: Block, with_history: bool = True) -> Iterator[tuple[str, Iterable[Scores]]]:
        """Yields each ranker's name and its scores, in the order of `names`, or of `cold_names`.

        The scores of one are read before the next is asked for.
        """
        arrays, users = self.arrays(), len(block.ids)
        yield MODEL, product_blocks(block.vectors, parts(arrays, VECTORS))
        yield POPULARITY, _same_for_all(arrays[POPULARITY], users)
        if self.recent:
            yield "popularity_recent", _same_for_all(arrays[RECENT_TARGETS], users)
        for name in self.item_cf if with_history else ():
            histories = block.positive if name == "itemcf" else block.seen
            yield name, item_cf_blocks(histories, mapped_matrix(arrays, name, self.items))
        if self.ease and with_history:  # users · items scores at once: fewer than the items² weights, as a rule
            scores = block.seen @ arrays["ease"]
            yield "ease", [(0, scores)]
            if self.recent:
                yield "ease_recent", [(0, scores * np.sqrt(arrays[RECENT_POSITIVES]))]
        if self.oracle_users is not None:
            places = [self.oracle_users[user] for user in block.ids.to_pylist()]
            yield BEST_REACHABLE, product_blocks(arrays[ORACLE_USERS][places], [(0, arrays[ORACLE_ITEMS])])


def _same_for_all(values: np.ndarray, users: int) -> Iterator[Scores]:
    for first in range(0, len(values), ITEMS_AT_ONCE):
        part = values[first : first + ITEMS_AT_ONCE]
        yield first, np.broadcast_to(part, (users, len(part)))


def make_rankers(
    interactions: DataFrame, pairs: int, catalogue: DataFrame, items: int, settings: Settings, folder: str
) -> Rankers:
    """Makes the rankers of the interactions before the test window, and writes their arrays. What is left out is said.

    Args:
      interactions: the dataset, one row a user.
      pairs: of a user and an item that it holds.
      catalogue: the dataset `items`.
      items: its rows.
      folder: one that every executor sees, with the items' vectors in it.
    """
    evaluate = settings.evaluate
    counts = _item_counts(interactions, items, settings.day_start_ms(-evaluate.recent_days))
    for name, values in counts.items():
        write_array(folder, name, values)
    is_recent = bool(counts[RECENT_TARGETS].any())
    if not is_recent:
        days = f"{evaluate.recent_days} days before the test window (evaluate.recent_days)"
        _say(f"Recent popularity left out: no positives in the last {days}")
    item_cf, has_ease = [], False
    if pairs > evaluate.itemcf_max_interactions:
        limit = f"evaluate.itemcf_max_interactions ({evaluate.itemcf_max_interactions:,})"
        _say(f"ItemCF and EASE left out: {pairs:,} interactions are above {limit}")
    else:
        seen, positive = _interaction_matrices(interactions, items)
        histories = {"itemcf": positive} | ({"itemcf_impressions": seen} if positive.nnz < seen.nnz else {})
        for name, matrix in histories.items():
            write_matrix(folder, name, item_similarity(matrix, evaluate.itemcf_neighbours))
            item_cf.append(name)
        has_ease = _write_ease(seen, settings, folder)
    return Rankers(
        folder=folder,
        items=items,
        recent=is_recent,
        item_cf=tuple(item_cf),
        ease=has_ease,
        oracle_users=_write_oracle(settings, catalogue, folder) if evaluate.oracle else None,
    )


def _write_ease(seen: sp.csr_matrix, settings: Settings, folder: str) -> bool:
    """Writes the weights of EASE. Returns: whether it did, as the catalogue is not too large."""
    limit, items = settings.evaluate.ease_max_items, seen.shape[1]
    if items > limit:
        _say(f"EASE left out: {items:,} items are above evaluate.ease_max_items ({limit:,})")
        return False
    try:
        write_array(folder, "ease", ease(seen, settings.evaluate.ease_l2))
    except ValueError as error:
        small = f"evaluate.ease_l2: {settings.evaluate.ease_l2:g} is too small"
        raise UserError(f"{small}, the matrix is {error}; expected a larger one") from error
    return True


def _say(remark: str) -> None:
    warn(f"  {remark}")


def _item_counts(users: DataFrame, items: int, recent_from: int) -> dict[str, np.ndarray]:
    """Returns float32 (items,) of the positives in tested sources, of those the recent, and of all the recent.

    A user and an item are recent where their newest event is at or after `recent_from`, Unix ms: a user's repeated
    positives of an item count as one moment, the last.
    """
    pairs = _pairs(users, TARGETS, POSITIVE, LAST_TIME)
    recent = (F.col(LAST_TIME) >= recent_from).cast("long")
    sums = {
        POPULARITY: F.col(TARGETS),
        RECENT_TARGETS: F.col(TARGETS) * recent,
        RECENT_POSITIVES: F.col(POSITIVE) * recent,
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


def _write_oracle(settings: Settings, catalogue: DataFrame, folder: str) -> dict[str, int]:
    """Writes a generated feed's planted tastes: ⟨client, post⟩ is the chance that a client's click goes to the post.

    Returns: the place of each user among them.
    """
    assert settings.evaluate.oracle is not None
    source = settings.expand(settings.evaluate.oracle)[0]
    tables = {}
    for name in ("clients", "posts"):
        path = f"{source}/{name}.parquet"
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
    table: Any = catalogue.select(ITEM_INDEX, ITEM_ID).toPandas()
    ids = table.sort_values(ITEM_INDEX)[ITEM_ID]
    unknown = [item for item in ids if item not in places]
    if unknown:
        raise UserError(
            f"evaluate.oracle: {source}/posts.parquet has no item '{unknown[0]}' of the catalogue; "
            "generate the feed again"
        )
    write_array(folder, ORACLE_ITEMS, posts[[places[item] for item in ids]])
    users, tastes = tables["clients"]
    write_array(folder, ORACLE_USERS, tastes)
    return users
