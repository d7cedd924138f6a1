"""Raw columns to encoded ones, by whole Arrow columns: the same code for samples, users and catalogue.

Ids are looked up in frozen vocabularies or hashed; lists and vectors are packed into binary columns of fixed
width, which Petastorm reads several times faster than Arrow lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from dssm.features import (
    FIRST_TOKEN_ID,
    PADDING_ID,
    UNKNOWN_ID,
    AnyFeature,
    DenseFeat,
    SparseFeat,
    TextFeat,
    VarLenSparseFeat,
)
from dssm.packing import pack
from dssm.samples.hashing import is_blank, trigram_ids
from dssm.samples.lookup_tables import Tables, ids_of, places_in
from dssm.samples.number_encoding import encode_numbers, numbers_of
from dssm.samples.ragged import Lists, entries_kept, nested, offsets_of, ranges

NO_ROW = -1  # of a table of vectors


def encode_features(
    columns: Mapping[str, pa.Array], features: Sequence[AnyFeature], tables: Tables
) -> dict[str, pa.Array]:
    """Encodes the features' source columns.

    Args:
      columns: raw columns by name, each of n rows: strings, numbers, or lists of strings or numbers.
      features: what to encode; none is of a history or of the event's time.
      tables: what the values are looked up in.
    Returns: the columns of `manifest.encoded_columns`, each of n rows.
    """
    encoded: dict[str, pa.Array] = {}
    for feature in features:
        column = columns[feature.source_column]
        if isinstance(feature, SparseFeat):
            encoded[feature.name] = pa.array(_sparse_ids(feature, column, tables), pa.int32())
        elif isinstance(feature, TextFeat):
            encoded |= _encode_text(feature, column, tables.buckets[feature.vocabulary])
        elif isinstance(feature, VarLenSparseFeat):
            encoded |= _encode_list(feature, columns, tables)
        elif feature.pre_embed is not None:
            tokens = _column_tokens(feature, column)
            rows = places_in(tokens.values, tables.vectors[feature.pre_embed].ids)
            encoded[feature.name] = encode_vectors(feature, Lists(tokens.offsets, rows), tables)
        else:
            numbers = encode_numbers(feature, numbers_of(column), tables.statistics.get(feature.name))
            encoded[feature.name] = pa.array(numbers, pa.float32())
    return encoded


def split_lists(column: pa.Array, separator: str) -> Lists:
    """Returns a column of texts or of lists as lists of trimmed tokens; null and blank entries are left out."""
    tokens = _trimmed(_split(column, separator))
    return tokens.where(~is_blank(tokens.values))


def _split(column: pa.Array, separator: str) -> Lists:
    """Returns a column of texts or of lists as lists with all their entries; null is an empty list."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        column = pc.split_pattern(column.cast(pa.string()), separator)
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return Lists(offsets_of(counts), column.flatten())


def _trimmed(lists: Lists) -> Lists:
    return Lists(lists.offsets, pc.utf8_trim_whitespace(pc.cast(lists.values, pa.string())))


def _column_tokens(feature: DenseFeat, column: pa.Array) -> Lists:
    if feature.reduce_type == "none":
        return Lists(np.arange(len(column) + 1), column.cast(pa.string()))
    return split_lists(column, feature.separator)


def _sparse_ids(feature: SparseFeat, column: pa.Array, tables: Tables) -> np.ndarray:
    if not feature.is_bucketised:
        return ids_of(column.cast(pa.string()), feature.vocabulary, tables)
    boundaries = feature.boundaries or tables.statistics[feature.name].boundaries
    numbers = numbers_of(column)
    reached = np.searchsorted(np.array(boundaries, np.float64), numbers, side="right")
    return np.where(np.isnan(numbers), UNKNOWN_ID, reached + FIRST_TOKEN_ID).astype(np.int32)


def _encode_list(feature: VarLenSparseFeat, columns: Mapping[str, pa.Array], tables: Tables) -> dict[str, pa.Array]:
    if not feature.weighted:
        tokens = split_lists(columns[feature.source_column], feature.separator)
        tokens = tokens.take(*entries_kept(tokens.offsets, feature.maxlen, feature.keep))
        ids = Lists(tokens.offsets, ids_of(tokens.values, feature.vocabulary, tables))
        return {feature.name: pack(ids.padded(feature.maxlen))}
    tokens, weights = _weighted_entries(feature, columns)
    offsets, entries = entries_kept(tokens.offsets, feature.maxlen, feature.keep, weights)
    ids = Lists(offsets, ids_of(tokens.values.take(entries), feature.vocabulary, tables))
    return packed_entries(feature, ids.padded(feature.maxlen), Lists(offsets, weights[entries]).padded(feature.maxlen))


def _weighted_entries(feature: VarLenSparseFeat, columns: Mapping[str, pa.Array]) -> tuple[Lists, np.ndarray]:
    """Returns the tokens and their weights, (tokens,) float32.

    An entry without a token or without a weight is left out; the two lists of a row are paired by place, blank
    entries included, up to the end of the shorter.
    """
    tokens = _trimmed(_split(columns[feature.source_column], feature.separator))
    if feature.weight_column is None:
        # The entry's last colon parts id from weight: an id may hold colons itself.
        parts = pc.extract_regex(tokens.values, r"(?s)^(?P<token>.*):(?P<weight>[^:]*)$")
        tokens = _trimmed(Lists(tokens.offsets, pc.struct_field(parts, "token")))
        weights = numbers_of(pc.struct_field(parts, "weight"))
    else:
        given = _split(columns[feature.weight_column], feature.separator)
        pairs = np.minimum(tokens.counts, given.counts)
        weights = numbers_of(given.values.take(ranges(given.offsets[:-1], pairs)))
        tokens = tokens.take(offsets_of(pairs), ranges(tokens.offsets[:-1], pairs))
    real = ~is_blank(tokens.values) & ~np.isnan(weights)
    return tokens.where(real), weights[real].astype(np.float32)


def _encode_text(feature: TextFeat, column: pa.Array, buckets: int) -> dict[str, pa.Array]:
    words = _words(column)
    coded = pc.dictionary_encode(words.values)
    trigrams = Lists(*trigram_ids(coded.dictionary, buckets))
    ids, weights = no_entries(len(column), feature.maxlen)
    for rows, listed in nested(Lists(words.offsets, coded.indices.to_numpy()), trigrams):
        distinct, counts = _counted(listed, buckets + FIRST_TOKEN_ID)
        offsets, entries = entries_kept(distinct.offsets, feature.maxlen, feature.keep, counts)
        ids[rows] = distinct.take(offsets, entries).padded(feature.maxlen)
        weights[rows] = Lists(offsets, counts[entries]).padded(feature.maxlen)
    return packed_entries(feature, ids, weights)


def _words(column: pa.Array) -> Lists:
    """Returns the words of a column of texts, in lower case."""
    lower = pc.utf8_lower(pc.fill_null(column.cast(pa.string()), ""))
    # Arrow 14 looks one letter further after white space, even behind a text's end. Behind the last text lies
    # memory nobody wrote, and where that is no letter, the white space stays at the word. So no text ends in any.
    words = _split(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(lower)), "")
    return words.where(~is_blank(words.values))  # a blank text is one empty word


def _counted(lists: Lists, size: int) -> tuple[Lists, np.ndarray]:
    """Returns the distinct ids, below `size`, of each list in the order of their first places, and their counts."""
    rows = lists.row_of_value()
    _, first, counts = np.unique(rows * size + lists.values, return_index=True, return_counts=True)
    order = np.argsort(first)
    places = first[order]
    offsets = offsets_of(np.bincount(rows[places], minlength=len(lists.counts)))
    return lists.take(offsets, places), counts[order].astype(np.float32)


def encode_vectors(feature: DenseFeat, rows: Lists, tables: Tables) -> pa.Array:
    """Encodes rows of a table of vectors, −1 for none: as the vectors, pooled for a list, or as row numbers from 1."""
    assert feature.pre_embed is not None
    as_table = tables.storage.get(feature.pre_embed, "inline") == "table"
    if as_table and feature.reduce_type == "none":
        return pa.array(rows.values + 1, pa.int32())
    known = rows.where(rows.values != NO_ROW)
    if feature.maxlen is not None:
        known = known.first(feature.maxlen)
    if as_table:
        assert feature.maxlen is not None  # the settings' checks ask for it
        return pack(Lists(known.offsets, known.values + np.int32(1)).padded(feature.maxlen))
    return pack(_pooled(feature, known, tables.vectors[feature.pre_embed].matrix))


def _pooled(feature: DenseFeat, rows: Lists, matrix: np.ndarray) -> np.ndarray:
    """Returns (n, width) float32: the sum, or the mean, of the matrix' rows in each list."""
    ones = np.ones(len(rows.values), np.float32)
    # As a sparse product: entries × width numbers are never laid out, a gigabyte where vectors are 768 wide.
    chosen = sp.csr_matrix((ones, rows.values, rows.offsets), shape=(len(rows.counts), len(matrix)))
    total = np.asarray(chosen @ matrix, np.float32)
    if feature.reduce_type == "mean":
        total /= np.maximum(rows.counts, 1).astype(np.float32)[:, None]
    return total


def no_entries(rows: int, maxlen: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids and weights, (rows, maxlen) each, without an entry."""
    return np.full((rows, maxlen), PADDING_ID, np.int32), np.zeros((rows, maxlen), np.float32)


def packed_entries(feature: VarLenSparseFeat, ids: np.ndarray, weights: np.ndarray) -> dict[str, pa.Array]:
    columns = {feature.name: pack(ids)}
    if feature.weighted:
        columns[feature.weight_name] = pack(weights)
    return columns
