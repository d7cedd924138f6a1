"""Recall over the whole catalogue on rows that were kept back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from dssm.manifest import ITEM_KEY, LABEL, WEIGHT, ColumnSpec, Manifest
from dssm.model.towers import combined_vector
from dssm.model.two_tower import TwoTowerModel
from dssm.sections import Staging
from dssm.stream.batches import Batch
from dssm.stream.reader import read_files

BLOCK_ITEMS = 16_384  # compared with a batch at once
KEY = ColumnSpec(dtype="int64")
EQUAL = 2e-6  # scores that differ by less, a product of unit vectors each: rounding of their sums does no better


class CatalogueRecall:
    """The share of positives that stand among the first K items of the whole catalogue, by their own rows' users.

    Items of equal scores stand in any order alike: one of t that share the places r+1 … r+t is found with the chance
    that its place is one of the first K. So a tower that gives all items the same vector finds K of N, not all or none.

    Each rank holds all items' vectors, items · width · 4 bytes, which the ranks make together.

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
        users, items = model.towers.user, model.towers.item
        self._width = sum(int(items.output[name].shape[-1]) for name, share in shares.items() if share > 0)

        def vectors(tower: tf.keras.Model, columns: Batch) -> tf.Tensor:
            return combined_vector(tower({name: columns[name] for name in tower.input}, training=False), shares)

        def places(batch: Batch, keys: tf.Tensor, catalogue: tf.Tensor) -> tf.Tensor:
            of_user, of_item = vectors(users, batch), vectors(items, batch)
            own = tf.reduce_sum(of_user * of_item, axis=1, keepdims=True)
            lengths = [tf.norm(of_side, axis=1, keepdims=True) for of_side in (of_user, of_item)]
            further = tf.matmul(of_user, catalogue, transpose_b=True) - own
            equal = tf.abs(further) <= EQUAL * lengths[0] * lengths[1]
            others = tf.not_equal(batch[ITEM_KEY][:, None], keys[None, :])
            counted = [tf.logical_and(others, equal), tf.logical_and(others, tf.logical_and(further > 0, ~equal))]
            return tf.stack([tf.reduce_sum(tf.cast(found, tf.int32), axis=1) for found in counted])

        self._encode = tf.function(lambda columns: vectors(items, columns), autograph=False, reduce_retracing=True)
        self._places = tf.function(places, autograph=False, reduce_retracing=True)

    def __call__(self, batches: Iterator[Batch], cutoff: int) -> float:
        """Args: batches: of this rank; every rank calls. Returns: of all ranks' positives; NaN where there are none."""
        keys, catalogue = self._catalogue()
        hits, rows = 0.0, 0
        for batch in batches:
            wanted = ((batch[LABEL] > 0) & (batch[WEIGHT] > 0)).numpy()
            found = np.zeros((2, len(wanted)), np.int64)
            for start in range(0, len(keys), BLOCK_ITEMS):
                block = slice(start, start + BLOCK_ITEMS)
                found += self._places(batch, keys[block], catalogue[block]).numpy()
            equal, above = found[:, wanted]
            hits += float(np.clip((cutoff - above) / (equal + 1), 0, 1).sum())
            rows += int(wanted.sum())
        summed = hvd.allreduce(tf.constant([hits, rows], tf.float64), op=hvd.Sum, name="recall").numpy()
        return float(summed[0] / summed[1]) if summed[1] else float("nan")

    def _catalogue(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the keys (items,) and the vectors (items, width) of all items."""
        files = [file for file in self._manifest.files if file.rows][hvd.rank() :: hvd.size()]
        columns = {**self._columns, ITEM_KEY: KEY}
        keys, vectors = [tf.zeros(0, tf.int64)], []
        for arrays in read_files(self._folder, files, columns, staging=self._staging):
            keys.append(tf.constant(arrays[ITEM_KEY]))
            for start in range(0, len(arrays[ITEM_KEY]), self._batch_size):
                rows = {name: tf.constant(arrays[name][start : start + self._batch_size]) for name in self._columns}
                vectors.append(self._encode(rows))
                self._alive()
        made = tf.concat([tf.zeros((0, self._width)), *vectors], axis=0)
        joined = tf.concat(keys, axis=0)
        if hvd.size() == 1:
            return joined, made
        return hvd.allgather(joined, name="catalogue_keys"), hvd.allgather(made, name="catalogue_vectors")
