"""Hashed ids in TensorFlow's own operations, equal to those of `dssm.samples.hashing`."""

from __future__ import annotations

import tensorflow as tf

from dssm.features import FIRST_TOKEN_ID, UNKNOWN_ID
from dssm.model.raw.strings import is_blank
from dssm.samples.hashing import HASH_KEY

_KEY = [int.from_bytes(HASH_KEY.encode()[start : start + 8], "little") for start in (0, 8)]
_LOW_BITS = 62
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))  # shifts and factors of SplitMix64
_LAST_SHIFT = 31


def bucket_ids(tokens: tf.Tensor, buckets: int) -> tf.Tensor:
    """Returns each token's id, int32 of the same shape: 2 + hash mod buckets; 1 for blank tokens."""
    places = tf.cast(tf.math.floormod(hashes(tokens), tf.constant(buckets, tf.uint64)), tf.int32)
    return tf.where(is_blank(tokens), UNKNOWN_ID, places + FIRST_TOKEN_ID)


def hashes(tokens: tf.Tensor) -> tf.Tensor:
    """Returns the 64-bit hashes of the tokens' UTF-8 text, uint64 of the same shape."""
    mixed = _siphash(tokens)
    for shift, factor in _MIX:
        mixed = _xor_shifted(mixed, shift) * tf.constant(factor, tf.uint64)
    return _xor_shifted(mixed, _LAST_SHIFT)


def _siphash(tokens: tf.Tensor) -> tf.Tensor:
    """Returns SipHash-2-4 of the tokens, uint64.

    TensorFlow has the hash only modulo a number below 2⁶³. With the remainders r of 2⁶² and s of 5, the two highest
    bits q are those for which q · 2⁶² + r ≡ s mod 5; 2⁶² ≡ 4 and 4 · 4 ≡ 1, so that q ≡ 4 (s − r).
    """
    low = tf.strings.to_hash_bucket_strong(tokens, 2**_LOW_BITS, _KEY)
    of_five = tf.strings.to_hash_bucket_strong(tokens, 5, _KEY)
    high = tf.math.floormod(4 * (of_five - tf.math.floormod(low, 5)), 5)
    shift = tf.constant(_LOW_BITS, tf.uint64)
    return tf.bitwise.bitwise_or(tf.bitwise.left_shift(tf.bitcast(high, tf.uint64), shift), tf.bitcast(low, tf.uint64))


def _xor_shifted(numbers: tf.Tensor, shift: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(numbers, tf.bitwise.right_shift(numbers, tf.constant(shift, tf.uint64)))
