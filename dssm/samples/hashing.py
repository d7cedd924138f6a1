"""Hashed ids: of tokens, and of the letter trigrams of words. Pure Arrow and NumPy.

The hash is that of `pandas.util.hash_array`, SipHash-2-4 of a token's UTF-8 text under a fixed key, then mixed
as in SplitMix64: the same on every machine, so that a model trained on one build can be served on another.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pandas.util import hash_array

from dssm.features import FIRST_TOKEN_ID, UNKNOWN_ID

HASH_KEY = "dssm.hash_bucket"  # 16 bytes; another key gives other ids
LETTER_BITS = 21  # a code point is below 2²¹, three of them fit 64 bits


def bucket_ids(tokens: pa.StringArray, buckets: int) -> np.ndarray:
    """Returns each token's id, (n,) int32: 2 + hash mod buckets; 1 for null and blank tokens."""
    coded = tokens.dictionary_encode()
    unique = coded.dictionary
    hashes = hash_array(unique.to_numpy(zero_copy_only=False), hash_key=HASH_KEY, categorize=False)
    ids = np.full(len(unique) + 1, UNKNOWN_ID, np.int32)
    ids[:-1] = hashes % np.uint64(buckets) + np.uint64(FIRST_TOKEN_ID)
    ids[:-1][is_blank(unique)] = UNKNOWN_ID
    return ids[pc.fill_null(coded.indices, len(unique)).to_numpy()]


def is_blank(texts: pa.StringArray) -> np.ndarray:
    """Returns whether each text is null, empty or white space alone, (n,) bool."""
    blank = pc.equal(pc.utf8_trim_whitespace(texts), "")
    return pc.fill_null(blank, True).to_numpy(zero_copy_only=False)


def trigram_ids(words: pa.StringArray, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the hashed letter trigrams of each word between two `#`: a word of n letters has n.

    Args:
      words: none is null or empty.
    Returns: offsets (words + 1,) and ids (trigrams,) int32; word i has ids[offsets[i]:offsets[i + 1]].
    """
    counts = pc.utf8_length(words).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    framed = pc.binary_join_element_wise("#", words, "#", "")
    text = pc.binary_join(pa.ListArray.from_arrays([0, len(framed)], framed), "")[0].as_py()
    letters = np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.uint64)
    # Two of a framed word's letters begin no trigram: its last and the closing #.
    starts = np.arange(offsets[-1]) + 2 * np.repeat(np.arange(len(counts)), counts)
    codes = (letters[starts] << 2 * LETTER_BITS) | (letters[starts + 1] << LETTER_BITS) | letters[starts + 2]
    _, first, place = np.unique(codes, return_index=True, return_inverse=True)
    distinct = pa.array([text[start : start + 3] for start in starts[first].tolist()], pa.string())
    # A trigram is never blank: words hold no white space.
    return offsets, bucket_ids(distinct, buckets)[place]
