"""Histories of items to encoded columns, by whole columns. Pure Arrow and NumPy.

A history comes as item indexes, whose codes are looked up once for the whole catalogue, so that no string is handled
per row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dssm.features import FIRST_TOKEN_ID, UNKNOWN_ID, AnyFeature, DenseFeat, VarLenSparseFeat
from dssm.packing import pack
from dssm.samples.encoding import NO_ROW, encode_vectors, no_entries, packed_entries
from dssm.samples.lookup_tables import Tables, ids_of, places_in
from dssm.samples.ragged import Lists, nested, offsets_of


@dataclass(frozen=True)
class ItemCodes:
    """What each item index of a history becomes for one feature; what `item_codes` fills depends on the feature.

    `ids` (items,) int32: vocabulary ids · `lists`: the ids of another feature, without padding and unknown ·
    `rows` (items,) int32: rows of a table of vectors, −1 for none.
    """

    ids: np.ndarray | None = None
    lists: Lists | None = None
    rows: np.ndarray | None = None


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
        return ItemCodes(ids=ids_of(item_ids, feature.vocabulary, tables))
    ids = encoded_items[feature.of]
    if ids.ndim == 1:
        ids = ids[:, None]
    real = ids >= FIRST_TOKEN_ID
    return ItemCodes(lists=Lists(offsets_of(real.sum(axis=1)), ids[real]))


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
        return {feature.name: encode_vectors(feature, rows, tables)}
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
    ids, weights = no_entries(len(history.counts), feature.maxlen)
    for rows, listed in nested(places, with_unknown):
        if feature.weighted:
            shared, shares = _shares(listed, size)
            ids[rows] = shared.first(feature.maxlen).padded(feature.maxlen)
            weights[rows] = Lists(shared.offsets, shares).first(feature.maxlen).padded(feature.maxlen)
        else:
            ids[rows] = listed.first(feature.maxlen).padded(feature.maxlen)
    return packed_entries(feature, ids, weights)


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
    offsets = offsets_of(np.bincount(rows, minlength=len(lists.counts)))
    shares = (counts / lists.counts[rows])[order].astype(np.float32)
    return Lists(offsets, ids[order].astype(np.int32)), shares


def _codes_of(indexes: np.ndarray, codes: np.ndarray, unknown: int) -> np.ndarray:
    """Returns the codes of item indexes, int32; `unknown` for an index that is none."""
    return np.append(codes, np.int32(unknown)).take(_or_last(indexes, len(codes)))


def _or_last(indexes: np.ndarray, last: int) -> np.ndarray:
    """Returns item indexes with `last` for those beyond; −1, an item nobody knows, is NumPy's last place anyway."""
    return np.minimum(indexes, np.int32(last))
