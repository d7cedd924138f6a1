"""Raw columns to encoded ones, by whole Arrow columns: the same code for samples, users and catalogue.

Ids are looked up in frozen vocabularies (`pyarrow.compute.index_in`), lists and vectors are packed
into binary columns of fixed width, which Petastorm reads several times faster than Arrow lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from dssm.features import FIRST_TOKEN_ID, PADDING_ID, UNKNOWN_ID, AnyFeature, DenseFeat, SparseFeat, VarLenSparseFeat
from dssm.packing import pack


@dataclass(frozen=True)
class Vectors:
    """A table of pretrained vectors: `ids` (n,) strings, `matrix` (n, width) float32."""

    ids: pa.StringArray
    matrix: np.ndarray


@dataclass(frozen=True)
class Lists:
    """Lists laid end to end: list i holds values[offsets[i]:offsets[i + 1]]."""

    offsets: np.ndarray
    values: pa.Array

    @property
    def counts(self) -> np.ndarray:
        return np.diff(self.offsets)

    def row_of_value(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def place_in_list(self) -> np.ndarray:
        return np.arange(len(self.values)) - np.repeat(self.offsets[:-1], self.counts)


def encode_features(
    columns: Mapping[str, pa.Array],
    features: Sequence[AnyFeature],
    vocabularies: Mapping[str, pa.StringArray],
    vectors: Mapping[str, Vectors],
) -> dict[str, pa.Array]:
    """Encodes the features' source columns.

    Args:
      columns: raw columns by name, each of n rows: strings, numbers, or lists of strings.
      features: what to encode.
      vocabularies: each vocabulary's tokens, in the order of their ids.
      vectors: each table of pretrained vectors.
    Returns: the columns of `manifest.encoded_columns`, each of n rows.
    """
    encoded: dict[str, pa.Array] = {}
    for feature in features:
        column = columns[feature.source_column]
        if isinstance(feature, SparseFeat):
            encoded[feature.name] = pa.array(token_ids(column, vocabularies[feature.vocabulary]), pa.int32())
        elif isinstance(feature, VarLenSparseFeat):
            encoded |= _encode_list(feature, column, vocabularies[feature.vocabulary])
        elif feature.pre_embed is not None:
            encoded[feature.name] = pack(_look_up_vectors(feature, column, vectors[feature.pre_embed]))
        else:
            encoded[feature.name] = pa.array(_numbers(feature, column), pa.float32())
    return encoded


def token_ids(tokens: pa.Array, vocabulary: pa.StringArray) -> np.ndarray:
    """Returns each token's id, (n,) int32: 1 for null and unknown tokens."""
    places = pc.index_in(tokens, value_set=vocabulary, skip_nulls=True)
    return (pc.fill_null(places, UNKNOWN_ID - FIRST_TOKEN_ID).to_numpy() + FIRST_TOKEN_ID).astype(np.int32)


def split_lists(column: pa.Array, separator: str) -> Lists:
    """Returns a column of texts or of string lists as lists of trimmed tokens; null and blank entries are left out."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        filled = column
    else:
        filled = pc.split_pattern(column.cast(pa.string()), separator)
    counts = pc.fill_null(pc.list_value_length(filled), 0).to_numpy()
    values = pc.utf8_trim_whitespace(filled.flatten().cast(pa.string()))
    real = pc.fill_null(pc.greater(pc.binary_length(values), 0), False)
    rows = np.repeat(np.arange(len(counts)), counts)[real.to_numpy(zero_copy_only=False)]
    return Lists(
        offsets=np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(counts)))]), values=values.filter(real)
    )


def _encode_list(feature: VarLenSparseFeat, column: pa.Array, vocabulary: pa.StringArray) -> dict[str, pa.Array]:
    lists = split_lists(column, feature.separator)
    shape = (len(lists.counts), feature.maxlen)
    rows, places = lists.row_of_value(), lists.place_in_list()
    kept = places < feature.maxlen
    tokens = lists.values
    encoded = {}
    if feature.weighted:
        # The entry's last colon parts id from weight: an id may hold colons itself.
        parts = pc.extract_regex(tokens, r"(?s)^(?P<token>.*):(?P<weight>[^:]*)$")
        tokens = pc.utf8_trim_whitespace(pc.struct_field(parts, "token"))
        weights = np.zeros(shape, np.float32)
        texts = pc.utf8_trim_whitespace(pc.struct_field(parts, "weight"))
        weights[rows[kept], places[kept]] = texts.cast(pa.float32()).to_numpy(zero_copy_only=False)[kept]
        encoded[feature.weight_name] = pack(weights)
    ids = np.full(shape, PADDING_ID, np.int32)
    ids[rows[kept], places[kept]] = token_ids(tokens, vocabulary)[kept]
    return {feature.name: pack(ids), **encoded}


def _look_up_vectors(feature: DenseFeat, column: pa.Array, vectors: Vectors) -> np.ndarray:
    """Returns (n, width) float32: the vector of each row's id, or the mean or sum over its list."""
    if feature.reduce_type == "none":
        lists = Lists(np.arange(len(column) + 1), column)
    else:
        lists = split_lists(column, feature.separator)
    places = pc.index_in(lists.values, value_set=vectors.ids, skip_nulls=True)
    known = places.is_valid().to_numpy(zero_copy_only=False)
    counts = np.bincount(lists.row_of_value()[known], minlength=len(lists.counts))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    ones = np.ones(offsets[-1], np.float32)
    # As a sparse product: entries × width numbers are never laid out, a gigabyte where vectors are 768 wide.
    chosen = sp.csr_matrix(
        (ones, pc.fill_null(places, 0).to_numpy()[known], offsets), shape=(len(counts), len(vectors.matrix))
    )
    total = np.asarray(chosen @ vectors.matrix, np.float32)
    if feature.reduce_type == "mean":
        total /= np.maximum(counts, 1).astype(np.float32)[:, None]
    return total


def _numbers(feature: DenseFeat, column: pa.Array) -> np.ndarray:
    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if text:
        column = pc.utf8_trim_whitespace(column)
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
    numbers = pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False)
    if feature.transform == "log1p":
        numbers = np.sign(numbers) * np.log1p(np.abs(numbers))
    return numbers.astype(np.float32)
