"""Texts as the samples' encoder reads them, in TensorFlow's own operations: the graph needs nothing else."""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

_SURROGATES = (0xD800, 0xE000)  # from and to: code points that are no letters and stand in no UTF-8 text
_POINTS = 0x110000
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"  # what build_samples takes for one
_PARTS = r"^([-+]?)(\d*)\.?(\d*)(?:[eE]([-+]?)(\d+))?$"  # sign, whole, fraction, the exponent's sign and digits
_LONGEST = 31  # letters of a number that `tf.strings.to_number` reads: TensorFlow's parser refuses 32, valid or not
_DIGITS = 19  # more than a float64 tells apart
_EXPONENT_DIGITS = 9  # an exponent of so many outweighs all digits that a text has
_WEIGHTED = r"(?s)(.*):([^:]*)"  # the last colon parts id from weight: an id may hold colons itself


@functools.cache
def _letters() -> tuple[np.ndarray, pa.StringArray]:
    """Returns every code point, (n,) int32, and its text."""
    points = np.concatenate([np.arange(_SURROGATES[0]), np.arange(_SURROGATES[1], _POINTS)]).astype("<i4")
    text = points.tobytes().decode("utf-32-le").encode()
    lengths = 1 + (points[:, None] >= [0x80, 0x800, 0x10000]).sum(axis=1)  # in UTF-8
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return points, pa.StringArray.from_buffers(len(points), pa.py_buffer(offsets), pa.py_buffer(text))


@functools.cache
def white_space() -> np.ndarray:
    """Returns the code points that Arrow trims and splits at, ascending, (n,) int32: TensorFlow knows fewer."""
    points, letters = _letters()
    return points[pc.equal(pc.utf8_trim_whitespace(letters), "").to_numpy(zero_copy_only=False)]


@functools.cache
def lower_case() -> tuple[np.ndarray, np.ndarray]:
    """Returns the code points that have a lower case, ascending, and these, both (n,) int32.

    Arrow maps letter by letter; `tf.strings.lower` looks at the neighbours too: a Σ that ends a word becomes another
    letter.
    """
    points, letters = _letters()
    _, _, text = pc.utf8_lower(letters).buffers()  # validity, offsets, and all the letters on end
    lower = np.frombuffer(text.to_pybytes().decode().encode("utf-32-le"), "<i4")
    changed = lower != points
    return points[changed], lower[changed]


@functools.cache
def _space() -> str:
    """Returns a class of RE2 that matches white space."""
    return "[" + "".join(rf"\x{{{point:x}}}" for point in white_space().tolist()) + "]"


def trimmed(texts: tf.Tensor) -> tf.Tensor:
    """Returns the texts without white space at their ends, of the same shape."""
    return tf.strings.regex_replace(texts, f"^{_space()}+|{_space()}+$", "")


def is_blank(texts: tf.Tensor) -> tf.Tensor:
    """Returns whether each text is empty or white space alone, of the same shape."""
    return tf.strings.regex_full_match(texts, f"{_space()}*")


def split_lists(lists: tf.Tensor, separator: str | None) -> tf.RaggedTensor:
    """Returns the trimmed tokens of each row; blank ones are left out.

    Args:
      lists: (batch, entries) strings, padded with empty ones.
      separator: each entry is parted at it; None: an entry is a token.
    Returns: (batch, None).
    """
    batch, entries = tf.unstack(tf.shape(lists, tf.int64))
    flat = tf.reshape(lists, [-1])
    rows = tf.repeat(tf.range(batch), entries)
    if separator is not None:
        parts = tf.strings.split(flat, separator)
        flat, rows = parts.values, tf.gather(rows, parts.value_rowids())
    tokens = trimmed(flat)
    real = tf.not_equal(tokens, "")
    return ragged(tf.boolean_mask(tokens, real), tf.boolean_mask(rows, real), batch)


def ragged(values: tf.Tensor, rows: tf.Tensor, batch: tf.Tensor) -> tf.RaggedTensor:
    """Returns values (n,) as lists, (batch, None); `rows` (n,) int64 says where each belongs, ascending."""
    return tf.RaggedTensor.from_value_rowids(values, rows, nrows=batch, validate=False)


def split_weights(entries: tf.RaggedTensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """Parts entries `id:weight`.

    Args:
      entries: (batch, None) trimmed strings.
    Returns: tokens and weights, (batch, None) each, the weights float64. An entry without a token or without a finite
      weight is left out.
    """
    flat = entries.values
    weighted = tf.strings.regex_full_match(flat, _WEIGHTED)
    tokens = tf.where(weighted, trimmed(tf.strings.regex_replace(flat, f"^{_WEIGHTED}$", r"\1")), "")
    weights = parsed(tf.strings.regex_replace(flat, f"^{_WEIGHTED}$", r"\2"))
    return real_entries(entries.with_values(tokens), entries.with_values(weights))


def real_entries(tokens: tf.RaggedTensor, weights: tf.RaggedTensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """Returns the entries that have a token and a weight that is finite as a float32, too; (batch, None) each."""
    finite = tf.math.is_finite(tf.cast(weights.values, tf.float32))
    real = tokens.with_values(tf.not_equal(tokens.values, "") & finite)
    return tf.ragged.boolean_mask(tokens, real), tf.ragged.boolean_mask(weights, real)


def parsed(texts: tf.Tensor) -> tf.Tensor:
    """Returns texts as numbers, float64 of the same shape; NaN for one that is none."""
    texts = trimmed(texts)
    texts = tf.where(tf.strings.regex_full_match(texts, _NUMBER), texts, "nan")
    long = tf.strings.length(texts) > _LONGEST
    texts = tf.cond(
        tf.reduce_any(long), lambda: tf.where(long, _shortened(tf.where(long, texts, "0")), texts), lambda: texts
    )
    return tf.strings.to_number(texts, tf.float64)


def _shortened(numbers: tf.Tensor) -> tf.Tensor:
    """Returns texts of numbers, of any length, as texts of at most `_LONGEST` letters: ±0.DIGITSe±EXPONENT."""
    sign, whole, fraction, exponent_sign, exponent = (
        tf.strings.regex_replace(numbers, _PARTS, rf"\{place}") for place in range(1, 6)
    )
    whole = tf.strings.regex_replace(whole, "^0+", "")
    digits = whole + fraction
    significant = tf.strings.regex_replace(digits, "^0+", "")
    given = tf.strings.substr(tf.strings.regex_replace(exponent, "^0+", ""), 0, _EXPONENT_DIGITS)
    power = tf.strings.to_number("0" + given, tf.int64)
    power = tf.where(tf.equal(exponent_sign, "-"), -power, power)
    power += tf.cast(tf.strings.length(whole) - tf.strings.length(digits) + tf.strings.length(significant), tf.int64)
    power = tf.clip_by_value(power, -9999, 9999)  # far beyond a float64 on both sides
    return sign + "0." + tf.strings.substr(significant, 0, _DIGITS) + "0e" + tf.strings.as_string(power)
