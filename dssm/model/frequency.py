"""How often each item appears, learned from the stream of the steps' items."""

from __future__ import annotations

import hashlib

import numpy as np
import tensorflow as tf

from dssm.model.losses.parts import SMALLEST_PROBABILITY
from dssm.sections.losses import StreamingFrequency


class ItemFrequency(tf.Module):
    """The streaming estimate of an item's chance to appear in a step (Yi et al., RecSys 2019, algorithm 2).

    Each hash function has its own A, the last step at which a bucket was seen, and B, the moving average of the
    steps between: B ← (1 − α) B + α (t − A), A ← t. An item's chance is 1 / B with the largest B of its buckets:
    another item in a bucket makes its gaps shorter.

    The paper leaves open what the first gap of an item is. B begins with `initial_gap`, and an item's first
    appearance, which ends no gap, leaves it so; t − 0 would make rare whatever comes late. It is also the estimate
    for an item that was never seen. After k further appearances (1 − α)ᵏ of it is left.

    Weaknesses: the chance to appear at all is what is estimated, at most 1 for an item that stands in each batch ten
    times; and a moving average of geometric gaps has a relative deviation of about √(α / (2 − α)).

    The state depends on which items a step has, not on their order or number: N ranks that update with all ranks'
    items have that of one process with the joint batch.

    Attributes:
      step: t, updates so far.
      last_seen: A, (hashes, buckets) int64; 0: never.
      gap: B, (hashes, buckets), in steps.
      multipliers: (hashes,) odd uint64, of the hash functions; the first ones are the same for any number of them.
    """

    def __init__(self, settings: StreamingFrequency, seed: int = 0) -> None:
        super().__init__(name="item_frequency")
        self._rate = settings.rate
        self.multipliers = np.array([_odd_number(seed, number) for number in range(settings.hashes)], np.uint64)
        shape = (settings.hashes, settings.buckets)
        initial = min(settings.initial_gap, 1 / SMALLEST_PROBABILITY)
        with tf.device("CPU:0"):  # a GPU's memory is for the tables; a batch touches little of this
            self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
            self.last_seen = tf.Variable(tf.zeros(shape, tf.int64), trainable=False, name="last_seen")
            self.gap = tf.Variable(tf.fill(shape, tf.constant(initial, tf.float32)), trainable=False, name="gap")

    def update(self, items: tf.Tensor) -> None:
        """Counts a step with these items.

        Args:
          items: (n,) int64 keys of all ranks' rows that are candidates, without padding. How often one is among them
            makes no difference.
        """
        with tf.device("CPU:0"):
            places = self._places(items)
            now = self.step.assign_add(1)
            last, gap = tf.gather_nd(self.last_seen, places), tf.gather_nd(self.gap, places)
            since = tf.cast(now - last, tf.float32)
            moved = tf.where(last > 0, (1 - self._rate) * gap + self._rate * since, gap)
            # A bucket that stands here twice is written twice with the same numbers.
            self.gap.scatter_nd_update(places, moved)
            self.last_seen.scatter_nd_update(places, tf.fill(tf.shape(last), now))

    def appearances(self, items: tf.Tensor) -> tf.Tensor:
        """Returns each item's chance to appear in a step, as of the last update.

        Args: items: (n,) int64 keys.
        Returns: (n,) float32, from 1e-9 to 1.
        """
        with tf.device("CPU:0"):
            gap = tf.reduce_max(tf.gather_nd(self.gap, self._places(items)), axis=0)
            return 1.0 / tf.clip_by_value(gap, 1.0, 1 / SMALLEST_PROBABILITY)

    def _places(self, items: tf.Tensor) -> tf.Tensor:
        """Hashes keys by multiply-shift (Dietzfelbinger et al., Journal of Algorithms 1997).

        The upper half of key · multiplier is scaled from [0, 2³²) to [0, buckets). Keys are hashes already; what is
        needed is that two that share a bucket under one multiplier don't under another.

        Args: items: (n,) int64.
        Returns: (hashes, n, 2) int64: hash function and bucket.
        """
        half = tf.constant(32, tf.uint64)
        products = tf.bitcast(items, tf.uint64)[None, :] * tf.constant(self.multipliers)[:, None]
        buckets = tf.constant(self.gap.shape[1], tf.uint64)
        bucket = tf.cast(tf.bitwise.right_shift(tf.bitwise.right_shift(products, half) * buckets, half), tf.int64)
        function = tf.range(self.gap.shape[0], dtype=tf.int64)[:, None]
        return tf.stack([tf.broadcast_to(function, tf.shape(bucket)), bucket], axis=-1)


def _odd_number(seed: int, number: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") | 1
