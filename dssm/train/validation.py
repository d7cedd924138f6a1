"""Recall over the whole catalogue on rows that were kept back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from dssm.manifest import ITEM_KEY, LABEL, WEIGHT, ColumnSpec, Manifest
from dssm.model.sharded import held_rows
from dssm.model.towers import combined_vector
from dssm.model.two_tower import TwoTowerModel
from dssm.stream.batches import Batch
from dssm.stream.reader import read_files
from dssm.stream.staging import Staging
from dssm.train.scores import tower_vectors
from dssm.train.sharding import fetch_rows, held_of

BLOCK_ITEMS = 16_384  # compared with a batch at once
KEY = ColumnSpec(dtype="int64")


class CatalogueRecall:
    """The share of positives that stand among the first K items of the whole catalogue, by their own rows' users.

    Each rank holds all items' vectors, items · width · 4 bytes, which the ranks make together: as many blocks each, as
    look-ups in tables that are spread over ranks are asked of all at once.

    Args:
      model: whose combined vectors count.
      folder: the encoded catalogue, samples/items.
      manifest: its manifest.
      columns: of the item tower.
      batch_size: items encoded at once.
      staging: how remote files come.
      alive: is called now and then while items are encoded.
    """

    def __init__(
        self,
        model: TwoTowerModel,
        folder: str,
        manifest: Manifest,
        columns: Mapping[str, ColumnSpec],
        batch_size: int,
        staging: Staging | None = None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder, self._manifest, self._columns, self._batch_size = folder, manifest, columns, batch_size
        self._staging, self._alive = staging, alive
        shares = {name: objective.share for name, objective in model.settings.all_objectives.items()}
        towers = model.towers
        self._width = sum(int(towers.item.output[name].shape[-1]) for name, share in shares.items() if share > 0)

        def encode(columns: Batch) -> tf.Tensor:
            with held_rows(held_of(fetch_rows(towers.sharded, [columns], "catalogue"))):
                return combined_vector(towers.item(columns, training=False), shares)

        def score(batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
            users, items = (combined_vector(made, shares) for made in tower_vectors(towers, batch, training=False))
            return users, tf.reduce_sum(users * items, axis=1)

        def better(
            users: tf.Tensor, own: tf.Tensor, items: tf.Tensor, keys: tf.Tensor, catalogue: tf.Tensor
        ) -> tf.Tensor:
            above = tf.matmul(users, catalogue, transpose_b=True) > own[:, None]
            others = tf.not_equal(items[:, None], keys[None, :])
            return tf.math.count_nonzero(tf.logical_and(above, others), axis=1)

        self._encode, self._score, self._better = (
            tf.function(made, autograph=False, reduce_retracing=True) for made in (encode, score, better)
        )

    def __call__(self, batches: Iterator[Batch], cutoff: int) -> float:
        """Args: batches: of this rank; every rank calls. Returns: of all ranks' positives; NaN where there are none."""
        keys, catalogue = self._catalogue()
        hits = rows = 0
        for batch in batches:
            wanted = ((batch[LABEL] > 0) & (batch[WEIGHT] > 0)).numpy()
            users, own = self._score(batch)
            better = np.zeros(len(wanted), np.int64)
            for start in range(0, len(keys), BLOCK_ITEMS):
                block = slice(start, start + BLOCK_ITEMS)
                better += self._better(users, own, batch[ITEM_KEY], keys[block], catalogue[block]).numpy()
            hits += int((better[wanted] < cutoff).sum())
            rows += int(wanted.sum())
        hits, rows = hvd.allreduce(tf.constant([hits, rows], tf.int64), op=hvd.Sum, name="recall").numpy().tolist()
        return hits / rows if rows else float("nan")

    def _catalogue(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the keys (items,) and the vectors (items, width) of all items."""
        of_ranks = [
            [file for file in self._manifest.files if file.rows][rank :: hvd.size()] for rank in range(hvd.size())
        ]
        blocks = max(sum(-(-file.rows // self._batch_size) for file in files) for files in of_ranks)
        columns = {**self._columns, ITEM_KEY: KEY}
        keys, vectors = [tf.zeros(0, tf.int64)], [tf.zeros((0, self._width))]
        for arrays in read_files(self._folder, of_ranks[hvd.rank()], columns, staging=self._staging):
            keys.append(tf.constant(arrays[ITEM_KEY]))
            for start in range(0, len(arrays[ITEM_KEY]), self._batch_size):
                rows = {name: tf.constant(arrays[name][start : start + self._batch_size]) for name in self._columns}
                vectors.append(self._encode(rows))
                self._alive()
        padding = {name: tf.zeros((1, *spec.shape), spec.dtype) for name, spec in self._columns.items()}
        for _ in range(len(vectors) - 1, blocks):
            self._encode(padding)  # for the look-ups of other ranks
        joined, made = tf.concat(keys, axis=0), tf.concat(vectors, axis=0)
        if hvd.size() == 1:
            return joined, made
        return hvd.allgather(joined, name="catalogue_keys"), hvd.allgather(made, name="catalogue_vectors")
