"""64-bit digests of ids and of encoded rows: what an incremental run compares. Pure NumPy, no loop over rows.

A row's words w are mixed one by one and added up: Σ_j b_j · m(a_j · w_j), m(y) = y ⊕ (y >> 32), modulo 2⁶⁴, with odd
numbers a_j and b_j of each word's place. The multiplication carries each bit of a word upwards, the shift the upper
half down, and as all of it is a bijection of the word, rows that differ in one word never have the same digest. Others
have by a chance of about 2⁻⁶⁴ where their words differ in low bits too, and of more where they don't: 2⁻⁴⁸ of integers
up to 255 as float32, 2⁻³² at worst, of signs alone. A row is compared with its own earlier digest, and no other's.

An id's words are folded in one after the other, as ids have different lengths.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from dssm.samples.splitmix import mixed

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ / golden ratio, odd
HALF = np.uint64(32)
WORDS_AT_ONCE = 2**15  # they and their products stay in the processor's second cache


def row_digests(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns a digest of each row.

    Args:
      columns: encoded columns, (rows, *shape) each, of at least one column; they are taken in the order of their names.
    Returns: (rows,) int64.
    """
    rows = len(next(iter(columns.values())))
    digest = np.full(rows, len(columns), np.uint64)
    first = 0
    for name in sorted(columns):
        words = _words(columns[name])
        width = words.shape[1]
        spread, weights = _odd_numbers(2 * first, width), _odd_numbers(2 * first + 1, width)
        first += width
        at_once = max(1, WORDS_AT_ONCE // max(1, width))
        products, shifted = np.empty((2, min(rows, at_once), width), np.uint64)
        for start in range(0, rows, at_once):
            block = words[start : start + at_once]
            product = np.multiply(block, spread, out=products[: len(block)])
            product ^= np.right_shift(product, HALF, out=shifted[: len(block)])
            digest[start : start + at_once] += product @ weights
    return _final(digest)


def _odd_numbers(first: int, count: int) -> np.ndarray:
    """Returns every second number of a fixed sequence, (count,) uint64."""
    return mixed(np.arange(first + 1, first + 1 + 2 * count, 2, dtype=np.uint64) * MULTIPLIER) | np.uint64(1)


def id_keys(ids: pa.Array) -> np.ndarray:
    """Returns a key of each id, (rows,) int64: equal ids have equal keys, others by a chance of 2⁻⁶⁴ a pair."""
    ids = pa.concat_arrays([ids])  # offsets from 0
    _, offsets_buffer, data = ids.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32, len(ids) + 1).astype(np.int64)
    lengths = np.diff(offsets)
    size = int(offsets[-1])
    padded = np.zeros(size + 8, np.uint8)
    if size:
        padded[:size] = np.frombuffer(data, np.uint8, size)
    # A word begins at each byte.
    words = np.lib.stride_tricks.as_strided(padded[:8].view("<u8"), (size + 1,), (1,), writeable=False)
    keys = lengths.astype(np.uint64)
    begin, shortest = 0, int(lengths.min()) if len(ids) else 0
    while begin + 8 <= shortest:  # all ids have such a word
        _fold(keys, words[offsets[:-1] + begin])
        begin += 8
    longer = np.arange(len(ids))
    while len(longer := longer[lengths[longer] > begin]):
        left = lengths[longer] - begin
        word = words[offsets[longer] + begin]
        unused = (8 * (8 - np.minimum(left, 8))).astype(np.uint64)
        folded = keys[longer]
        _fold(folded, word << unused)
        keys[longer] = folded
        begin += 8
    return _final(keys)


def _words(values: np.ndarray) -> np.ndarray:
    """Returns a column as words of 64 bits, (rows, words); the last is filled up with zeros."""
    rows = len(values)
    width = values.itemsize * int(np.prod(values.shape[1:]))
    content = np.ascontiguousarray(values).reshape(rows, width // values.itemsize).view(np.uint8).reshape(rows, width)
    if width % 8:
        padded = np.zeros((rows, -(-width // 8) * 8), np.uint8)
        padded[:, :width] = content
        content = padded
    return content.view("<u8")


def _fold(digest: np.ndarray, word: np.ndarray) -> None:
    digest ^= word
    digest *= MULTIPLIER
    digest ^= digest >> HALF
    digest *= MULTIPLIER  # a change of the word's highest bits, such as a float's sign, reaches more than two bits


def _final(digest: np.ndarray) -> np.ndarray:
    digest ^= digest >> HALF
    digest *= MULTIPLIER
    digest ^= digest >> HALF
    return digest.view(np.int64)
