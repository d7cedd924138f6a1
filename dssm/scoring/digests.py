"""64-bit digests of ids and of encoded rows: what an incremental run compares. Pure NumPy, a column at a time.

A row's words are folded in one after the other: multiplications carry each bit of h ⊕ word upwards, and the shift
between them carries the upper half down. Each fold is a bijection of h and of the word, so that rows that differ in
one word never have the same digest; other rows have by a chance of 2⁻⁶⁴, as if digests were drawn.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ / golden ratio, odd
HALF = np.uint64(32)
ROWS_AT_ONCE = 4096  # their digests stay in the processor's first cache


def row_digests(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns a digest of each row.

    Args:
      columns: encoded columns, (rows, *shape) each, of at least one column; they are taken in the order of their names.
    Returns: (rows,) int64.
    """
    digest = np.full(len(next(iter(columns.values()))), len(columns), np.uint64)
    for start in range(0, len(digest), ROWS_AT_ONCE):
        block = slice(start, start + ROWS_AT_ONCE)
        for name in sorted(columns):
            for word in _words(columns[name][block]).T:
                _fold(digest[block], word)
    return _final(digest)


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
    longer, begin = np.arange(len(ids)), 0
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
    content = np.ascontiguousarray(values).reshape(rows, -1).view(np.uint8).reshape(rows, width)
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
