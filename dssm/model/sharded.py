"""Tables larger than one worker: each rank holds a part of the rows, and a step those that its batch looks up."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import tensorflow as tf

from dssm.model.shards import Shard

BLOCK_ROWS = 16_384  # whose initial values are drawn at once; another number draws other values


@dataclass(frozen=True)
class HeldRows:
    """Rows of a table that this process has at hand, its own and others'.

    Attributes:
      keys: (held,) int32, ascending: `ShardedEmbedding.keys` of their ids.
      rows: (held, dim).
    """

    keys: tf.Tensor
    rows: tf.Tensor


_HELD: ContextVar[Mapping[str, HeldRows] | Literal["shapes"] | None] = ContextVar("held_rows", default=None)


@contextmanager
def held_rows(held: Mapping[str, HeldRows]) -> Iterator[None]:
    """Says which rows the towers that are called, or traced, inside take their embeddings from.

    Args: held: by the name of the table's layer, of each that is spread over several ranks: with every id that the
      towers look up, padding's included.
    """
    token = _HELD.set(held)
    try:
        yield
    finally:
        _HELD.reset(token)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Inside, sharded tables give zeros: a tower is built by calling each of its layers once, without any rows."""
    token = _HELD.set("shapes")
    try:
        yield
    finally:
        _HELD.reset(token)


@tf.keras.utils.register_keras_serializable("dssm")
class ShardedEmbedding(tf.keras.layers.Layer):
    """An embedding of which this process holds the rows of one shard, as the variable `embeddings`.

    A process that holds all rows looks them up there; one of several, in `held_rows`.

    An initial row is normal, and depends on the seed, the layer's name and the row alone: a table is the same
    whatever the number of ranks, and its first rows stay the same where it has more of them.

    Args:
      rows: of the whole table.
      dim: width of a row.
      columns: the encoded columns whose ids the towers look up in it.
      deviation: of the initial rows.
      shard: whose rows it holds.
      seed: of the initial rows; None: they are zeros, for whoever fills them.
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        columns: tuple[str, ...],
        deviation: float,
        shard: Shard | None = None,
        seed: int | None = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.rows, self.dim, self.columns, self.deviation, self.seed = rows, dim, tuple(columns), deviation, seed
        self.shard = Shard() if shard is None else shard

    @property
    def is_spread(self) -> bool:
        """Whether other ranks hold rows, too."""
        return self.shard.ranks > 1

    def build(self, shape: tf.TensorShape) -> None:
        held = (self.shard.rows(self.rows), self.dim)
        self.embeddings = self.add_weight("embeddings", held, tf.float32, "zeros", experimental_autocast=False)
        if self.seed is not None:
            self._draw(self.seed)
        super().build(shape)

    def _draw(self, seed: int) -> None:
        """Draws the rows block by block: the whole table is never in memory."""
        of_table = tf.random.experimental.stateless_fold_in(
            tf.constant([seed, zlib.crc32(self.name.encode())], tf.int64), 0
        )
        for start in range(0, self.rows, BLOCK_ROWS):
            of_block, of_shard = self.shard.within(start, min(start + BLOCK_ROWS, self.rows))
            if of_shard.start == of_shard.stop:
                continue
            with tf.device("CPU:0"):
                number = tf.random.experimental.stateless_fold_in(of_table, start // BLOCK_ROWS)
                block = tf.random.stateless_normal((BLOCK_ROWS, self.dim), number, stddev=self.deviation, alg="philox")
                self.embeddings[of_shard].assign(block[of_block])

    def keys(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns numbers that are ascending by the rank that holds an id's row, then by its row there.

        Args: ids (…) int32. Returns: (…) int32: rank · capacity + row.
        """
        ranks = self.shard.ranks
        return ids % ranks * self.shard.capacity(self.rows) + ids // ranks

    def look_up(self, ids: tf.Tensor) -> tf.Tensor:
        """Args: ids (…) int32. Returns: (…, dim). Raises: RuntimeError where the rows are not at hand."""
        if not self.is_spread:
            return tf.gather(self.embeddings, ids)
        held = _HELD.get()
        if held == "shapes":
            return tf.zeros(tf.concat([tf.shape(ids), [self.dim]], axis=0))
        if held is None or self.name not in held:
            raise RuntimeError(f"{self.name}: its rows lie on {self.shard.ranks} ranks and were not fetched")
        keys, rows = held[self.name].keys, held[self.name].rows
        places = tf.searchsorted(keys, tf.reshape(self.keys(ids), [-1]))
        return tf.reshape(tf.gather(rows, places), tf.concat([tf.shape(ids), [self.dim]], axis=0))

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """Args: ids (batch, …) int32. Returns: (batch, …, dim)."""
        found = self.look_up(ids)
        return tf.ensure_shape(found, [*ids.shape, self.dim])

    def get_config(self) -> dict[str, Any]:
        own = {"rows": self.rows, "dim": self.dim, "columns": self.columns, "deviation": self.deviation}
        return {**super().get_config(), **own, "seed": self.seed}


Table: TypeAlias = "tf.keras.layers.Embedding | ShardedEmbedding"


def look_up(table: Table, ids: tf.Tensor) -> tf.Tensor:
    """Returns a table's rows, as calling it does but for a name of its own in the graph.

    Args: ids (…) int32. Returns: (…, dim).
    """
    return table.look_up(ids) if isinstance(table, ShardedEmbedding) else tf.gather(table.embeddings, ids)
