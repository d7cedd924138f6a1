"""Lists of ids as the samples' encoder cuts, counts and pads them: rows of ragged tensors, (batch, None)."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

from dssm.features import PADDING_ID
from dssm.model.raw.strings import ragged

_ID_BITS = 32  # of a key that holds a row and an id


def kept(
    ids: tf.RaggedTensor,
    maxlen: int,
    keep: Literal["first", "last", "heaviest"] = "first",
    weights: tf.RaggedTensor | None = None,
) -> tuple[tf.RaggedTensor, tf.RaggedTensor | None]:
    """Chooses the entries that stay of each list, at most `maxlen`; what stays keeps its order.

    Args:
      ids: (batch, None).
      keep: the first, the last, or those of the largest weights, equal ones by place.
      weights: (batch, None), of the same entries.
    """
    if keep == "heaviest":
        assert weights is not None  # the settings' checks ask for them
        heaviest = ids.with_values(_place_in_row(weights.value_rowids(), -weights.values) < maxlen)
        return tf.ragged.boolean_mask(ids, heaviest), tf.ragged.boolean_mask(weights, heaviest)
    entries = slice(None, maxlen) if keep == "first" else slice(-maxlen, None)
    return ids[:, entries], None if weights is None else weights[:, entries]


def padded(lists: tf.RaggedTensor, width: int) -> tf.Tensor:
    """Returns lists of at most `width` numbers as (batch, width), with zeros at the end."""
    return lists.to_tensor(tf.cast(PADDING_ID, lists.dtype), shape=[None, width])


def counted(ids: tf.RaggedTensor, weights: tf.RaggedTensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """Returns the distinct ids of each list, in the order of their first places, and the sums of their weights.

    Args:
      ids: (batch, None) int32.
      weights: (batch, None) float64.
    """
    rows = ids.value_rowids()
    keys, group = tf.unique(
        tf.bitwise.left_shift(rows, tf.constant(_ID_BITS, tf.int64)) + tf.cast(ids.values, tf.int64)
    )
    sums = tf.math.unsorted_segment_sum(weights.values, group, tf.size(keys))
    of_row = tf.bitwise.right_shift(keys, tf.constant(_ID_BITS, tf.int64))
    found = tf.cast(tf.math.floormod(keys, 2**_ID_BITS), tf.int32)
    batch = ids.nrows()
    return ragged(found, of_row, batch), ragged(sums, of_row, batch)


def shares(ids: tf.RaggedTensor, weights: tf.RaggedTensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """Returns the distinct ids of each list and their shares of its weight: the largest first, ties by id.

    Args:
      ids: (batch, None) int32.
      weights: (batch, None) float64, above 0.
    Returns: ids, and shares as float32.
    """
    ids, weights = counted(ids, weights)
    rows = ids.value_rowids()
    order = _order(rows, -weights.values, ids.values)
    total = tf.gather(tf.reduce_sum(weights, axis=1), rows)
    share = tf.cast(weights.values / total, tf.float32)
    return ids.with_values(tf.gather(ids.values, order)), ids.with_values(tf.gather(share, order))


def _place_in_row(rows: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Returns the place of each entry among those of its row, by key and then by place, (n,) int32."""
    order = _order(rows, key)
    place = tf.range(tf.size(order))
    first = tf.math.unsorted_segment_min(place, rows, tf.reduce_max(tf.concat([rows, [0]], 0)) + 1)
    return tf.scatter_nd(order[:, None], place - tf.gather(first, rows), tf.shape(order))


def _order(*keys: tf.Tensor) -> tf.Tensor:
    """Returns the order of entries by the first key, then the second and so on, then by place; (n,) int32."""
    order = tf.range(tf.size(keys[0]))
    for key in reversed(keys):
        order = tf.gather(order, tf.argsort(tf.gather(key, order), stable=True))
    return order
