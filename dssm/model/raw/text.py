"""The letter trigrams of texts in TensorFlow's own operations, equal to those of `dssm.samples.encoding`."""

from __future__ import annotations

import tensorflow as tf

from dssm.model.raw.hashing import bucket_ids
from dssm.model.raw.strings import lower_case, ragged, white_space


def trigram_ids(texts: tf.Tensor, buckets: int) -> tf.RaggedTensor:
    """Returns the hashed trigrams of each text's words, in lower case, (batch, None) int32.

    A word stands between two `#`, so that each of its letters is the middle of one trigram.

    Args:
      texts: (batch,) strings.
      buckets: ids that the trigrams are hashed into.
    """
    decoded = tf.strings.unicode_decode(texts, "UTF-8")
    rows, letters = decoded.value_rowids(), _lower(decoded.values)
    is_space = tf.reduce_any(tf.equal(letters[:, None], white_space()), axis=1)
    framed = tf.where(is_space, ord("#"), letters)
    apart = tf.not_equal(rows[1:], rows[:-1])  # neighbours that are of two texts
    before = tf.concat([[ord("#")], tf.where(apart, ord("#"), framed[:-1])], axis=0)[: tf.size(framed)]
    after = tf.concat([tf.where(apart, ord("#"), framed[1:]), [ord("#")]], axis=0)[: tf.size(framed)]
    of_words = tf.logical_not(is_space)
    trigrams = tf.boolean_mask(tf.stack([before, framed, after], axis=1), of_words)
    ids = bucket_ids(tf.strings.unicode_encode(trigrams, "UTF-8"), buckets)
    return ragged(ids, tf.boolean_mask(rows, of_words), decoded.nrows())


def _lower(letters: tf.Tensor) -> tf.Tensor:
    """Returns the lower case of code points, (n,) int32."""
    upper, lower = lower_case()
    place = tf.minimum(tf.searchsorted(upper, letters), len(upper) - 1)
    return tf.where(tf.equal(tf.gather(upper, place), letters), tf.gather(lower, place), letters)
