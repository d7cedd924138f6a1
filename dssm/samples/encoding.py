"""Raw columns to encoded ones, by whole Arrow columns: the same code for samples, users and catalogue.

Ids are looked up in frozen vocabularies or hashed; lists and vectors are packed into binary columns of fixed
width, which Petastorm reads several times faster than Arrow lists. Histories come as item indexes, whose codes
are looked up once for the whole catalogue, so that no string is handled per row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

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
from dssm.manifest import Statistics
from dssm.packing import pack
from dssm.samples.hashing import bucket_ids, is_blank, trigram_ids

NO_ROW = -1  # of a table of vectors
MAX_ENTRIES = 4_000_000  # entries laid out at once where each stands for a list: about 100 bytes each


@dataclass(frozen=True)
class Vectors:
    """A table of pretrained vectors: `ids` (n,) distinct strings, `matrix` (n, width) float32, maybe a memmap."""

    ids: pa.StringArray
    matrix: np.ndarray


@dataclass(frozen=True)
class Tables:
    """What ids and numbers are looked up in.

    `vocabularies`: tokens in the order of their ids, by vocabulary · `buckets`: hash_buckets, by vocabulary ·
    `statistics`: by feature · `vectors`: by name · `storage`: inline or table, by name of the vectors.
    """

    vocabularies: Mapping[str, pa.StringArray] = field(default_factory=dict)
    buckets: Mapping[str, int] = field(default_factory=dict)
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    vectors: Mapping[str, Vectors] = field(default_factory=dict)
    storage: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Lists:
    """Lists laid end to end: list i holds values[offsets[i]:offsets[i + 1]].

    `offsets` (n + 1,) go from 0 to len(values); `values` are tokens (Arrow) or numbers (NumPy).
    """

    offsets: np.ndarray
    values: np.ndarray | pa.Array

    @property
    def counts(self) -> np.ndarray:
        return np.diff(self.offsets)

    def row_of_value(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.offsets) - 1), self.counts)

    def take(self, offsets: np.ndarray, places: np.ndarray) -> Lists:
        """Returns lists with these offsets of the values at these places."""
        return Lists(offsets, self.values.take(places))

    def where(self, kept: np.ndarray) -> Lists:
        """Returns the lists without the values for which `kept` (len(values),) is false."""
        if kept.all():
            return self
        return self.take(_starts(kept)[self.offsets], np.flatnonzero(kept))

    def first(self, maxlen: int) -> Lists:
        """Returns the first entries of each list, at most `maxlen`."""
        if self.counts.max(initial=0) <= maxlen:
            return self
        return self.take(*_entries_kept(self.offsets, maxlen))

    def rows(self, start: int, stop: int) -> Lists:
        bounds = self.offsets[start : stop + 1]
        return Lists(bounds - bounds[0], self.values[bounds[0] : bounds[-1]])

    def padded(self, width: int) -> np.ndarray:
        """Returns lists of at most `width` numbers as (n, width), padded at the end."""
        matrix = np.full((len(self.offsets) - 1, width), PADDING_ID, self.values.dtype)
        matrix[np.arange(width) < self.counts[:, None]] = self.values
        return matrix


@dataclass(frozen=True)
class ItemCodes:
    """What each item index of a history becomes for one feature; what `item_codes` fills depends on the feature.

    `ids` (items,) int32: vocabulary ids · `lists`: the ids of another feature, without padding and unknown ·
    `rows` (items,) int32: rows of a table of vectors, −1 for none.
    """

    ids: np.ndarray | None = None
    lists: Lists | None = None
    rows: np.ndarray | None = None


# Raw columns --------------------------------------------------------------------------------------------


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
            encoded[feature.name] = _encode_vectors(feature, Lists(tokens.offsets, rows), tables)
        else:
            numbers = encode_numbers(feature, _numbers(column), tables.statistics.get(feature.name))
            encoded[feature.name] = pa.array(numbers, pa.float32())
    return encoded


def encode_numbers(feature: DenseFeat, values: np.ndarray, statistics: Statistics | None) -> np.ndarray:
    """Transforms the numbers of a feature.

    Args:
      feature: says the transform, and what stands for null.
      values: (n,) float64, NaN for null.
      statistics: of the training window; minmax and standard need them. Where all its numbers are equal, the
        result is 0.
    Returns: (n,) float32.
    """
    if feature.transform in ("raw", "log1p"):
        values = _filled(values, 0.0 if feature.null is None else feature.null)
        if feature.transform == "log1p":
            values = np.sign(values) * np.log1p(np.abs(values))
        return values.astype(np.float32)
    assert statistics is not None  # the build takes them for every such feature
    values = _filled(values, statistics.mean if feature.null is None else feature.null)
    if feature.transform == "minmax":
        start, width = statistics.minimum, statistics.maximum - statistics.minimum
    else:
        start, width = statistics.mean, statistics.deviation
    if width == 0:
        return np.zeros(len(values), np.float32)
    scaled = (values - start) / width
    return (scaled.clip(0, 1) if feature.transform == "minmax" else scaled).astype(np.float32)


def encode_event_time(times_ms: np.ndarray, unit: Literal["hour", "weekday"], timezone: str) -> np.ndarray:
    """Returns ids of the local hour 0…23 or weekday 0 (Monday)…6, (n,) int32 from 2.

    Args:
      times_ms: (n,) int64 Unix milliseconds.
      unit: what to encode.
      timezone: its name, such as Asia/Shanghai; its summer time is kept to.
    """
    local = pa.array(times_ms, pa.timestamp("ms", timezone))
    value = pc.hour(local) if unit == "hour" else pc.day_of_week(local)
    return (value.to_numpy() + FIRST_TOKEN_ID).astype(np.int32)


def token_ids(tokens: pa.Array, vocabulary: pa.StringArray) -> np.ndarray:
    """Returns each token's id, (n,) int32: 1 for null and unknown tokens."""
    places = places_in(tokens, vocabulary)
    return np.where(places >= 0, places + FIRST_TOKEN_ID, UNKNOWN_ID).astype(np.int32)


def places_in(tokens: pa.Array, known: pa.StringArray) -> np.ndarray:
    """Returns each token's place in `known`, whose entries are distinct; (n,) int32, −1 for null and unknown."""
    if len(known) <= len(tokens):
        return pc.fill_null(pc.index_in(tokens, value_set=known, skip_nulls=True), -1).to_numpy()
    # Arrow builds a hash table of the value set at every call, so that the smaller side has to be that:
    # 10,000 tokens in a vocabulary of five million took 86 ms instead of 780.
    coded = tokens.dictionary_encode()
    found = pc.index_in(known, value_set=coded.dictionary)
    places = np.full(len(coded.dictionary) + 1, -1, np.int32)
    places[found.drop_null().to_numpy()] = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
    return places[pc.fill_null(coded.indices, -1).to_numpy()]


def split_lists(column: pa.Array, separator: str) -> Lists:
    """Returns a column of texts or of lists as lists of trimmed tokens; null and blank entries are left out."""
    tokens = _trimmed(_split(column, separator))
    return tokens.where(~is_blank(tokens.values))


def _split(column: pa.Array, separator: str) -> Lists:
    """Returns a column of texts or of lists as lists with all their entries; null is an empty list."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        column = pc.split_pattern(column.cast(pa.string()), separator)
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return Lists(_starts(counts), column.flatten())


def _trimmed(lists: Lists) -> Lists:
    return Lists(lists.offsets, pc.utf8_trim_whitespace(pc.cast(lists.values, pa.string())))


def _column_tokens(feature: DenseFeat, column: pa.Array) -> Lists:
    if feature.reduce_type == "none":
        return Lists(np.arange(len(column) + 1), column.cast(pa.string()))
    return split_lists(column, feature.separator)


def _ids(tokens: pa.Array, vocabulary: str, tables: Tables) -> np.ndarray:
    if vocabulary in tables.buckets:
        return bucket_ids(tokens, tables.buckets[vocabulary])
    return token_ids(tokens, tables.vocabularies[vocabulary])


def _sparse_ids(feature: SparseFeat, column: pa.Array, tables: Tables) -> np.ndarray:
    if not feature.is_bucketised:
        return _ids(column.cast(pa.string()), feature.vocabulary, tables)
    boundaries = feature.boundaries or tables.statistics[feature.name].boundaries
    numbers = _numbers(column)
    reached = np.searchsorted(np.array(boundaries, np.float64), numbers, side="right")
    return np.where(np.isnan(numbers), UNKNOWN_ID, reached + FIRST_TOKEN_ID).astype(np.int32)


def _encode_list(feature: VarLenSparseFeat, columns: Mapping[str, pa.Array], tables: Tables) -> dict[str, pa.Array]:
    if not feature.weighted:
        tokens = split_lists(columns[feature.source_column], feature.separator)
        tokens = tokens.take(*_entries_kept(tokens.offsets, feature.maxlen, feature.keep))
        ids = Lists(tokens.offsets, _ids(tokens.values, feature.vocabulary, tables))
        return {feature.name: pack(ids.padded(feature.maxlen))}
    tokens, weights = _weighted_entries(feature, columns)
    offsets, entries = _entries_kept(tokens.offsets, feature.maxlen, feature.keep, weights)
    ids = Lists(offsets, _ids(tokens.values.take(entries), feature.vocabulary, tables))
    return _packed(feature, ids.padded(feature.maxlen), Lists(offsets, weights[entries]).padded(feature.maxlen))


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
        weights = _numbers(pc.struct_field(parts, "weight"))
    else:
        given = _split(columns[feature.weight_column], feature.separator)
        pairs = np.minimum(tokens.counts, given.counts)
        weights = _numbers(given.values.take(_ranges(given.offsets[:-1], pairs)))
        tokens = tokens.take(_starts(pairs), _ranges(tokens.offsets[:-1], pairs))
    real = ~is_blank(tokens.values) & ~np.isnan(weights)
    return tokens.where(real), weights[real].astype(np.float32)


def _encode_text(feature: TextFeat, column: pa.Array, buckets: int) -> dict[str, pa.Array]:
    words = _words(column)
    coded = pc.dictionary_encode(words.values)
    trigrams = Lists(*trigram_ids(coded.dictionary, buckets))
    ids, weights = _empty(len(column), feature.maxlen)
    for rows, listed in _nested(Lists(words.offsets, coded.indices.to_numpy()), trigrams):
        distinct, counts = _counted(listed, buckets + FIRST_TOKEN_ID)
        offsets, entries = _entries_kept(distinct.offsets, feature.maxlen, feature.keep, counts)
        ids[rows] = distinct.take(offsets, entries).padded(feature.maxlen)
        weights[rows] = Lists(offsets, counts[entries]).padded(feature.maxlen)
    return _packed(feature, ids, weights)


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
    offsets = _starts(np.bincount(rows[places], minlength=len(lists.counts)))
    return lists.take(offsets, places), counts[order].astype(np.float32)


def _encode_vectors(feature: DenseFeat, rows: Lists, tables: Tables) -> pa.Array:
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


def _numbers(column: pa.Array) -> np.ndarray:
    """Returns a column of numbers or of their texts as (n,) float64, NaN for null and blank."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.utf8_trim_whitespace(column)
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
    numbers = column.cast(pa.float64(), safe=False)  # an integer beyond 2⁵³ is rounded
    return pc.fill_null(numbers, np.nan).to_numpy(zero_copy_only=False)


def _filled(values: np.ndarray, null: float) -> np.ndarray:
    return np.where(np.isnan(values), null, values)


# Histories ----------------------------------------------------------------------------------------------


def item_codes(
    feature: AnyFeature, item_ids: pa.StringArray, tables: Tables, encoded_items: Mapping[str, np.ndarray]
) -> ItemCodes:
    """Returns what every item index becomes for a feature of a history.

    Args:
      feature: a VarLenSparseFeat, or a DenseFeat with `pre_embed`.
      item_ids: in the order of the indexes.
      tables: what the ids are looked up in.
      encoded_items: for a feature with `of`, the ids of that feature: (items,) or (items, maxlen) int32. They
        may be fewer than `item_ids`: the items beyond have none.
    """
    if isinstance(feature, DenseFeat):
        assert feature.pre_embed is not None
        return ItemCodes(rows=places_in(item_ids, tables.vectors[feature.pre_embed].ids))
    if not isinstance(feature, VarLenSparseFeat) or feature.of is None:
        return ItemCodes(ids=_ids(item_ids, feature.vocabulary, tables))
    ids = encoded_items[feature.of]
    if ids.ndim == 1:
        ids = ids[:, None]
    real = ids >= FIRST_TOKEN_ID
    return ItemCodes(lists=Lists(_starts(real.sum(axis=1)), ids[real]))


def encode_history(feature: AnyFeature, history: Lists, codes: ItemCodes, tables: Tables) -> dict[str, pa.Array]:
    """Encodes histories of items.

    A list of ids keeps the newest `maxlen` items, or with `of` the first ids of the newest items' lists; with
    `of` and weights the ids with the largest shares of all ids in the row's history, ties by id. Vectors are
    those of the newest items that have one.

    Args:
      feature: a VarLenSparseFeat, or a DenseFeat with `pre_embed` and a reduce_type.
      history: each row's int32 item indexes, newest first; −1, or one beyond the codes, is an unknown item.
      codes: of the feature, from `item_codes`.
      tables: holds the vectors of a DenseFeat.
    Returns: the columns of `manifest.encoded_columns`.
    """
    if isinstance(feature, DenseFeat):
        assert codes.rows is not None
        rows = Lists(history.offsets, _codes_of(history.values, codes.rows, NO_ROW))
        return {feature.name: _encode_vectors(feature, rows, tables)}
    assert isinstance(feature, VarLenSparseFeat)
    if codes.lists is not None:
        return _encode_lists_of_items(feature, history, codes.lists)
    assert codes.ids is not None
    newest = history.first(feature.maxlen)
    ids = Lists(newest.offsets, _codes_of(newest.values, codes.ids, UNKNOWN_ID))
    return {feature.name: pack(ids.padded(feature.maxlen))}


def _encode_lists_of_items(feature: VarLenSparseFeat, history: Lists, lists: Lists) -> dict[str, pa.Array]:
    with_unknown = Lists(np.append(lists.offsets, lists.offsets[-1]), lists.values)  # an empty list, the last
    places = Lists(history.offsets, _or_last(history.values, len(lists.counts)))
    size = int(lists.values.max(initial=UNKNOWN_ID)) + 1
    ids, weights = _empty(len(history.counts), feature.maxlen)
    for rows, listed in _nested(places, with_unknown):
        if feature.weighted:
            shared, shares = _shares(listed, size)
            ids[rows] = shared.first(feature.maxlen).padded(feature.maxlen)
            weights[rows] = Lists(shared.offsets, shares).first(feature.maxlen).padded(feature.maxlen)
        else:
            ids[rows] = listed.first(feature.maxlen).padded(feature.maxlen)
    return _packed(feature, ids, weights)


def _shares(lists: Lists, size: int) -> tuple[Lists, np.ndarray]:
    """Returns the distinct ids, below `size`, of each list, and their shares of it: the largest first, ties by id."""
    pairs = lists.row_of_value() * size + lists.values
    if len(lists.counts) * size <= 4 * len(pairs):  # a count a pair is cheaper than to sort them
        counted = np.bincount(pairs, minlength=len(lists.counts) * size)
        distinct = np.flatnonzero(counted)
        counts = counted[distinct]
    else:
        distinct, counts = np.unique(pairs, return_counts=True)
    rows, ids = np.divmod(distinct, size)
    most = counts.max(initial=0)
    order = np.argsort(rows * (most + 1) + most - counts, kind="stable")  # the pairs' order is by id
    offsets = _starts(np.bincount(rows, minlength=len(lists.counts)))
    shares = (counts / lists.counts[rows])[order].astype(np.float32)
    return Lists(offsets, ids[order].astype(np.int32)), shares


def _codes_of(indexes: np.ndarray, codes: np.ndarray, unknown: int) -> np.ndarray:
    """Returns the codes of item indexes, int32; `unknown` for an index that is none."""
    return np.append(codes, np.int32(unknown)).take(_or_last(indexes, len(codes)))


def _or_last(indexes: np.ndarray, last: int) -> np.ndarray:
    """Returns item indexes with `last` for those beyond; −1, an item nobody knows, is NumPy's last place anyway."""
    return np.minimum(indexes, np.int32(last))


# Lists --------------------------------------------------------------------------------------------------


def _starts(counts: np.ndarray) -> np.ndarray:
    """Returns where ranges of these lengths start when laid end to end, and where the last one ends, (n + 1,)."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns start, start + 1, … of each range, `counts` numbers each, end to end."""
    laid = _starts(counts)
    return np.repeat(starts - laid[:-1], counts) + np.arange(laid[-1])


def _entries_kept(
    offsets: np.ndarray,
    maxlen: int,
    keep: Literal["first", "last", "heaviest"] = "first",
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses the entries that stay of each list.

    Args:
      offsets: of the lists.
      maxlen: entries that stay at most.
      keep: the first, the last, or those of the largest weights, equal ones by place. What stays keeps its order.
      weights: of each entry, for heaviest.
    Returns: the new offsets, and the places of the entries that stay.
    """
    counts = np.minimum(np.diff(offsets), maxlen)
    if keep == "heaviest":
        assert weights is not None
        rows = np.repeat(np.arange(len(counts)), np.diff(offsets))
        heaviest_first = np.lexsort((-weights, rows))
        return _starts(counts), np.sort(heaviest_first[_ranges(offsets[:-1], counts)])
    starts = offsets[:-1] if keep == "first" else offsets[1:] - counts
    return _starts(counts), _ranges(starts, counts)


def _nested(outer: Lists, inner: Lists) -> Iterator[tuple[slice, Lists]]:
    """Puts the inner lists, end to end, in the place of their indexes.

    Yields: blocks of consecutive rows of `outer` and their lists. A block has at most MAX_ENTRIES entries, or one row.
    """
    reached = _starts(inner.counts.take(outer.values))[outer.offsets]
    start, rows = 0, len(outer.counts)
    while start < rows:
        fitting = int(np.searchsorted(reached, reached[start] + MAX_ENTRIES, side="right")) - 1
        stop = max(fitting, start + 1)
        block = outer.rows(start, stop)
        entries = _ranges(inner.offsets[:-1].take(block.values), inner.counts.take(block.values))
        yield slice(start, stop), inner.take(reached[start : stop + 1] - reached[start], entries)
        start = stop


def _empty(rows: int, maxlen: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids and weights, (rows, maxlen) each, without an entry."""
    return np.full((rows, maxlen), PADDING_ID, np.int32), np.zeros((rows, maxlen), np.float32)


def _packed(feature: VarLenSparseFeat, ids: np.ndarray, weights: np.ndarray) -> dict[str, pa.Array]:
    columns = {feature.name: pack(ids)}
    if feature.weighted:
        columns[feature.weight_name] = pack(weights)
    return columns
