"""Tables spread over ranks: rows fetched for a step, gradients returned, state for checkpoints, tables made whole.

All functions here but `shard_states` and `shared_variables` are collectives: every rank calls them, at the same place
and as often, whether its batch has rows or is padding alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from dssm.config import Settings
from dssm.features import PADDING_ID, embedded
from dssm.model.optimizers.gradients import clip_gradients
from dssm.model.sharded import HeldRows, ShardedEmbedding
from dssm.model.shards import Shard
from dssm.model.towers import TwoTowers, build_towers
from dssm.model.two_tower import TwoTowerModel
from dssm.sections.optimizers import Clip
from dssm.stream.batches import Batch
from dssm.train.collectives import Gradient, marked, sum_gradients, total
from dssm.train.traffic import NUMBER_BYTES, ExchangePlan
from dssm.train.waits import note_wait

EXPORT_ROWS = 65_536  # of a table that travel to rank 0 at once


@dataclass(frozen=True)
class Fetched:
    """The rows of a table that this rank's step looks up, and how they came.

    Attributes:
      held: what the towers look up.
      asked_for: (ranks,) int32: how many of them each rank gave.
      given: (rows,) int32: this rank's own rows that others, and itself, asked for; a row may stand there once a rank.
      given_to: (ranks,) int32: how many of these each rank got.
      received_bytes: int64, that this rank received so far.
    """

    held: HeldRows
    asked_for: tf.Tensor
    given: tf.Tensor
    given_to: tf.Tensor
    received_bytes: tf.Tensor


def fetch_rows(tables: Iterable[ShardedEmbedding], parts: Sequence[Batch], name: str) -> dict[str, Fetched]:
    """Fetches what the towers look up in batches: each row of a table once, whichever features and towers share it.

    Args:
      tables: `TwoTowers.sharded`; those of one rank need no fetching.
      parts: columns of the rows; each part may have some of the tables' columns.
      name: of the collectives.
    Returns: by the tables' name.
    """
    return {table.name: _fetched(table, _ids(table, parts), name) for table in tables if table.is_spread}


def _ids(table: ShardedEmbedding, parts: Sequence[Batch]) -> tf.Tensor:
    """Returns the ids that the towers look up in a table, many times over, and padding: (ids,) int32."""
    columns = [part[column] for part in parts for column in table.columns if column in part]
    # Padding may come up in no column and yet be looked up: dropped entries become it.
    ids = [tf.constant([PADDING_ID]), *(tf.reshape(tf.cast(column, tf.int32), [-1]) for column in columns)]
    return tf.concat(ids, axis=0)


def _fetched(table: ShardedEmbedding, ids: tf.Tensor, name: str) -> Fetched:
    capacity, ranks, rank = table.shard.capacity(table.rows), table.shard.ranks, table.shard.rank
    keys = tf.sort(table.keys(tf.unique(ids)[0]))
    bounds = tf.searchsorted(keys, tf.range(ranks + 1, dtype=tf.int32) * capacity)
    asked_for = bounds[1:] - bounds[:-1]
    given, given_to = hvd.alltoall(keys % capacity, splits=asked_for, name=f"{name}_{table.name}_ids")
    rows, _ = hvd.alltoall(tf.gather(table.embeddings, given), splits=given_to, name=f"{name}_{table.name}_rows")
    rows = tf.stop_gradient(tf.ensure_shape(rows, [None, table.dim]))
    note_wait(keys, rows)
    from_others = tf.cast(tf.size(keys) - asked_for[rank], tf.int64)
    to_others = tf.cast(tf.size(given) - given_to[rank], tf.int64)
    received = NUMBER_BYTES * (to_others + from_others * table.dim)
    return Fetched(HeldRows(keys, rows), asked_for, given, given_to, received)


def held_of(fetched: Mapping[str, Fetched]) -> dict[str, HeldRows]:
    """Returns what `held_rows` takes."""
    return {name: of_table.held for name, of_table in fetched.items()}


def return_gradient(
    table: ShardedEmbedding, fetched: Fetched, gradient: tf.IndexedSlices, name: str
) -> tuple[tf.IndexedSlices, tf.Tensor]:
    """Sends the gradient of fetched rows to the ranks that hold them, and sums what comes for this rank's own.

    Args: gradient: with respect to `fetched.held.rows`; a row that stands there twice is summed.
    Returns: the gradient of `table.embeddings`, of the rows that any rank looked up, each once, and the bytes that this
      rank received, int64.
    """
    rank = table.shard.rank
    # Of the rows held some were fetched and not looked up, such as padding's: they must not move.
    sent = marked(gradient, tf.shape(fetched.held.rows)[0])
    came, _ = hvd.alltoall(sent, splits=fetched.asked_for, name=f"{name}_{table.name}_gradient")
    came = tf.ensure_shape(came, [None, table.dim + 1])
    rows, place = tf.unique(fetched.given)
    summed = tf.math.unsorted_segment_sum(came, place, tf.size(rows))
    looked_up = summed[:, -1] > 0
    own = tf.IndexedSlices(
        tf.boolean_mask(summed[:, :-1], looked_up),
        tf.boolean_mask(rows, looked_up),
        tf.constant(table.embeddings.shape.as_list()),
    )
    others = tf.cast(tf.size(fetched.given) - fetched.given_to[rank], tf.int64)
    return own, NUMBER_BYTES * (table.dim + 1) * others


@dataclass(frozen=True)
class Sources:
    """What a step's gradients are taken of: the trained variables, and in place of shards the rows fetched of them."""

    variables: Sequence[tf.Variable]
    tables: Mapping[int, ShardedEmbedding]  # by the place of their variable
    fetched: Mapping[str, Fetched]

    @classmethod
    def of(
        cls, variables: Sequence[tf.Variable], tables: Iterable[ShardedEmbedding], fetched: Mapping[str, Fetched]
    ) -> Sources:
        spread = {table.embeddings.ref(): table for table in tables if table.is_spread}
        by_place = {place: spread[v.ref()] for place, v in enumerate(variables) if v.ref() in spread}
        return cls(variables, by_place, fetched)

    @property
    def tensors(self) -> list[tf.Variable | tf.Tensor]:
        return [
            self.fetched[self.tables[place].name].held.rows if place in self.tables else variable
            for place, variable in enumerate(self.variables)
        ]

    def sum_over_ranks(
        self, gradients: Sequence[Gradient], plan: ExchangePlan | None = None, name: str = "gradients"
    ) -> tuple[list[Gradient], tf.Tensor]:
        """Sums gradients of `tensors` over ranks; those of shards are this rank's rows' alone.

        Args: plan: says which tables' gradients go dense; None: none do.
        Returns: a gradient for each variable, and the bytes that this rank received for them and the rows, int64.
        """
        dense_tables = frozenset() if plan is None else plan.dense
        dense = [p for p, v in enumerate(self.variables) if v.name.partition("/")[0] in dense_tables]
        rest = [None if place in self.tables else gradient for place, gradient in enumerate(gradients)]
        summed, received = sum_gradients(rest, dense, name)
        for place, table in self.tables.items():
            fetched = self.fetched[table.name]
            if gradients[place] is None:
                continue
            summed[place], bytes_back = return_gradient(table, fetched, gradients[place], name)
            received += fetched.received_bytes + bytes_back
        return summed, received

    def clip(self, settings: Clip, gradients: Sequence[Gradient]) -> list[Gradient]:
        """Clips as `clip_gradients` does in one process: a shard's norm is that of all ranks' rows of its table."""
        if settings.by == "value" or not self.tables:
            return clip_gradients(settings, gradients)
        places = [place for place in self.tables if gradients[place] is not None]
        of_shards = tf.unstack(total(tf.stack([_square(gradients[p]) for p in places]), "clip_shards"), len(places))
        squares = dict(zip(places, of_shards, strict=True))
        if settings.by == "global_norm":
            rest = [_square(g) for place, g in enumerate(gradients) if g is not None and place not in squares]
            norm = tf.sqrt(tf.add_n([*rest, *of_shards]))
            return list(tf.clip_by_global_norm(gradients, settings.limit, use_norm=norm)[0])
        clipped = clip_gradients(settings, [None if p in squares else g for p, g in enumerate(gradients)])
        for place, square in squares.items():
            own, factor = gradients[place], settings.limit / tf.maximum(tf.sqrt(square), settings.limit)
            clipped[place] = tf.IndexedSlices(own.values * factor, own.indices, own.dense_shape)
        return clipped


def _square(gradient: Gradient) -> tf.Tensor:
    return tf.reduce_sum(tf.square(gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient))


@dataclass(frozen=True)
class ShardState:
    """This rank's part of a table, or of an optimizer's state of one, for a checkpoint.

    Attributes:
      name: the variable's, the same on all ranks and whatever their number.
      variable: (shard.rows(rows), …): row r of the whole is row r // ranks of rank r % ranks; see `resliced`.
      rows: of the whole table.
      shard: this rank's.
    """

    name: str
    variable: tf.Variable
    rows: int
    shard: Shard


def shard_states(model: TwoTowerModel, optimizer: tf.keras.optimizers.Optimizer) -> list[ShardState]:
    """Returns what differs between ranks: tables that `model.embedding` spreads, and the optimizer's state of them.

    With one rank as well, which then holds all rows.
    """
    states = []
    for table in model.towers.sharded:
        # Keras names a state after its variable; beside those of a number, or a row's numbers, it may have scalars.
        slots = [v for v in optimizer.variables if v.name.endswith(f"/{table.embeddings.name}") and v.shape.rank]
        states += [ShardState(v.name, v, table.rows, table.shard) for v in (table.embeddings, *slots)]
    return states


def shared_variables(model: TwoTowerModel, optimizer: tf.keras.optimizers.Optimizer) -> list[tf.Variable]:
    """Returns what is the same on all ranks: for rank 0's broadcast, and its part of a checkpoint.

    Tables of pretrained vectors are left out, as each rank has read the same file.
    """
    own = {id(state.variable) for state in shard_states(model, optimizer) if state.shard.ranks > 1}
    own |= {id(layer.table) for layer in model.towers.frozen.values()}
    return [variable for variable in (*model.variables, *optimizer.variables) if id(variable) not in own]


def gathered_blocks(
    variable: tf.Variable, rows: int, shard: Shard, block_rows: int = EXPORT_ROWS
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the blocks of a table that is spread over ranks, on rank 0: other ranks send theirs and get no rows.

    Args: variable: this rank's rows; rows: of the whole table.
    Yields: the first row of the block and, on rank 0, its rows, (block_rows, …); on others, no rows.
    """
    for start in range(0, rows, block_rows):
        stop = min(start + block_rows, rows)
        _, of_shard = shard.within(start, stop)
        own = variable[of_shard]
        if shard.ranks == 1:
            yield start, own.numpy()
            continue
        to_first = [own.shape[0]] + [0] * (shard.ranks - 1)
        came, _ = hvd.alltoall(own, splits=tf.constant(to_first, tf.int32), name=f"whole_{variable.name[:-2]}")
        block = np.empty((stop - start if shard.rank == 0 else 0, *variable.shape[1:]), variable.dtype.as_numpy_dtype)
        taken = 0
        for rank in range(shard.ranks if shard.rank == 0 else 0):
            of_block, of_rank = Shard(rank, shard.ranks).within(start, stop)
            count = of_rank.stop - of_rank.start
            block[of_block] = came[taken : taken + count]
            taken += count
        yield start, block


def whole_towers(settings: Settings, towers: TwoTowers) -> TwoTowers | None:
    """Returns towers that hold all rows, to be saved by rank 0; None on other ranks.

    The tables travel block by block: beside its own shard, rank 0 needs memory for each whole table, as the SavedModel
    holds it, and others for a block.
    """
    spread = [table for table in towers.sharded if table.is_spread]
    if not spread:
        return towers if hvd.rank() == 0 else None
    whole = _copied(settings, towers) if hvd.rank() == 0 else None
    for vocabulary, table in towers.tables.items():
        if not isinstance(table, ShardedEmbedding) or not table.is_spread:
            continue
        for start, block in gathered_blocks(table.embeddings, table.rows, table.shard):
            if whole is not None:
                whole.tables[vocabulary].embeddings[start : start + len(block)].assign(block)
    return whole


def _copied(settings: Settings, towers: TwoTowers) -> TwoTowers:
    """Returns towers with the same weights and whole tables, in which those that are spread are zeros."""
    sizes = {
        name: table.rows if isinstance(table, ShardedEmbedding) else table.input_dim
        for name, table in towers.tables.items()
    }
    unused = {feature.vocabulary: 1 for feature in embedded(settings.features) if feature.vocabulary not in sizes}
    matrices = {name: layer.table[1:].numpy() for name, layer in towers.frozen.items()}
    copy = build_towers(
        settings.model, settings.features, {**sizes, **unused}, settings.vectors, matrices, table_seed=None
    )
    spread = {id(table.embeddings) for table in towers.sharded if table.is_spread}
    for new, old in zip(copy.variables, towers.variables, strict=True):
        if new.name != old.name:
            raise ValueError(f"towers built again have {new.name} where there was {old.name}")
        if id(old) not in spread:
            new.assign(old)
    return copy
