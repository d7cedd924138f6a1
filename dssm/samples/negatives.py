"""Negatives drawn for the positives of the training window. Pure NumPy.

A row's candidates are one contiguous range of a flat array: of the catalogue in order of group and upload,
so that what existed at the event's time is a prefix (`ItemSampler`); or of the lists of items that belong to
the rows, such as unclicked impressions and rankings (`ItemLists`). From its range a row draws by weight, and
draws again where the user clicked the item, or it was uploaded later; after some attempts the candidates
are listed and one of those left is drawn. Either way an item's chance is its weight's share of the allowed.

Nothing depends on which rows stand beside a row: the n-th draw of a row is a hash of the seed, the negatives'
name, the row's hash, n and the attempt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from dssm.manifest import NO_ITEM
from dssm.sections import (
    GroupNegatives,
    HardNegatives,
    Negatives,
    PopularityNegatives,
    SuppressedNegatives,
    UnclickedNegatives,
    UniformNegatives,
)

ATTEMPTS = 24  # draws of a negative before its candidates are listed
DRAWS_AT_ONCE = 131_072  # of one kind; what they need stays near the processor's cache
LISTED_AT_ONCE = 2_000_000  # candidates, about 60 bytes each
SCORES_AT_ONCE = 16_000_000  # of queries and items, about 20 bytes each, and thrice that where all are equal
PARTS = 2.0**36  # that a listed candidate's weight is on average: those of LISTED_AT_ONCE fit 64 bits

Excluded = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(rows (m,), items (m,)) → (m,) bool: the row may not have the item."""


# Random numbers --------------------------------------------------------------------------------------


def uniforms(seed: int, name: str, attempt: int, row_hash: np.ndarray, draw: np.ndarray | int) -> np.ndarray:
    """Returns random numbers that are a hash of the arguments.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) with a stream a row: its state is a hash of the row and of
    (seed, name, attempt), and the draw is the place in the stream.

    Args:
      row_hash: 64-bit integers, signed or not. Rows with the same hash get the same numbers.
      draw: number of the draw, from 0; broadcast against `row_hash`.
    Returns: float64 in [0, 1), multiples of 2⁻⁵³, of the broadcast shape.
    """
    text = f"{seed}/{attempt}/{name}".encode()
    key = np.frombuffer(hashlib.blake2b(text, digest_size=8).digest(), dtype="<u8")
    state = mixed(np.asarray(row_hash).astype(np.uint64) ^ key)
    state = state + (np.atleast_1d(draw).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed(state) >> np.uint64(11)) * 2.0**-53


def mixed(state: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, in place: a bijection of 64 bits in which each input bit moves all output bits."""
    state ^= state >> np.uint64(30)
    state *= np.uint64(0xBF58476D1CE4E5B9)
    state ^= state >> np.uint64(27)
    state *= np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return state


# Weights ---------------------------------------------------------------------------------------------


def word2vec_keep(share: np.ndarray, threshold: float) -> np.ndarray:
    """Returns the chance of an item to be kept: min(1, √(t/f) + t/f), as in word2vec's published code.

    Args:
      share: f, any shape, each item's share of the positives; at 0 the chance is 1.
      threshold: t, above 0.
    """
    share = np.asarray(share, dtype=np.float64)
    ratio = threshold / np.maximum(share, threshold)  # at most 1, where the formula is above 1 anyway
    return np.minimum(1.0, np.sqrt(ratio) + ratio)


def item_weights(kind: Negatives, popularity: np.ndarray) -> np.ndarray:
    """Returns how likely each item is to be drawn, up to a factor.

    Args:
      kind: negatives drawn from the catalogue.
      popularity: (items,), positives of each item in the training window.
    Returns: (items,) float64.
    """
    counts = np.asarray(popularity, dtype=np.float64)
    if isinstance(kind, (UniformNegatives, GroupNegatives)):
        return np.ones(len(counts))
    if isinstance(kind, PopularityNegatives):
        return np.power(counts, kind.exponent, out=np.zeros(len(counts)), where=counts > 0)
    if isinstance(kind, SuppressedNegatives):
        share = counts / max(counts.sum(), 1.0)
        return share * word2vec_keep(share, kind.threshold)
    raise ValueError(f"{kind.kind}: these negatives are drawn from lists of the rows, not from the catalogue")


# Candidates ------------------------------------------------------------------------------------------


class Candidates(Protocol):
    """A flat array of items, of which each row has the range [begin, end)."""

    @property
    def items(self) -> np.ndarray:
        """Returns the flat array, int32."""

    def places(self, begin: np.ndarray, end: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Returns a place of each range, drawn by weight. All (m,); no range is empty."""

    def weights(self, places: np.ndarray) -> np.ndarray:
        """Returns the weights at the places, float64 above 0."""

    def probability(self, begin: np.ndarray, end: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Returns the chance of the item at each place to be drawn from its range, float64 in (0, 1]."""


class ItemSampler:
    """Draws from what the catalogue held at a time, or from one group of it.

    The items lie in order of group, upload and index. Their running sum of weights inverts to a place in
    any range of them; a table that divides the sum into equal buckets finds the place in about two steps
    (the indexed search of Chen and Asau, AIIE Transactions 1974), where bisection needs log₂(items).

    Groups share the running sum, so that weights of grouped items should differ by less than about 10¹⁰.

    Args:
      weights: (items,), at least 0; an item of weight 0 is never drawn.
      upload_ms: (items,) int64, Unix milliseconds from which the item exists; very small: always.
      groups: (items,), each item's group from 0, −1 where it has none; without them all items are one group.
    """

    def __init__(self, weights: np.ndarray, upload_ms: np.ndarray, groups: np.ndarray | None = None) -> None:
        weights = np.asarray(weights, dtype=np.float64)
        if not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError("weights: expected finite numbers, at least 0")
        group = np.zeros(len(weights), np.int64) if groups is None else groups.astype(np.int64)
        drawn = np.flatnonzero((weights > 0) & (group >= 0))
        order = drawn[np.lexsort((upload_ms[drawn], group[drawn]))]
        self.items = order.astype(np.int32)
        self._weights = weights[order]
        self._sums = np.concatenate([[0.0], np.cumsum(self._weights), [np.inf]])
        # An item is in a row's range where its group is the row's and its upload's rank is below the number of
        # different uploads up to the row's time: one ascending key for both.
        self._uploads = np.unique(upload_ms[order])
        self._keys = group[order] * (len(self._uploads) + 1) + np.searchsorted(self._uploads, upload_ms[order])
        buckets = 2 * len(order)
        self._buckets_per_weight = buckets / self._sums[-2] if len(order) else 0.0
        self._first_place = np.searchsorted(self._bucket(self._sums[1:-1]), np.arange(buckets + 1)).astype(np.int32)

    def _bucket(self, sums: np.ndarray) -> np.ndarray:
        # Rounding may put a sum into the bucket beside its own, but never out of order, so that a place found
        # from its bucket's first place upwards is exact.
        return (sums * self._buckets_per_weight).astype(np.intp)

    def ranges(self, times_ms: np.ndarray, groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns the begin and end of what can be drawn at each time.

        Args:
          times_ms: (n,) int64, Unix milliseconds; an item is there from its upload on, that time included.
          groups: (n,), each row's group; −1 has no items.
        Returns: (n,), (n,).
        """
        uploads = np.searchsorted(self._uploads, times_ms, side="right")
        group = np.int64(0) if groups is None else groups.astype(np.int64)
        first = np.broadcast_to(group * (len(self._uploads) + 1), uploads.shape)
        return np.searchsorted(self._keys, first), np.searchsorted(self._keys, first + uploads)

    def places(self, begin: np.ndarray, end: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        low = self._sums[begin]
        wanted = low + uniform * (self._sums[end] - low)
        place = self._first_place[self._bucket(wanted)]
        upper = self._sums[1:]
        behind = np.flatnonzero(upper[place] <= wanted)
        for _ in range(2):
            place[behind] += 1
            behind = behind[upper[place[behind]] <= wanted[behind]]
        # Many steps behind only where a bucket holds many items of little weight.
        place[behind] = np.searchsorted(upper, wanted[behind], side="right")
        return np.minimum(place, end - 1)  # `wanted` may have been rounded up to the range's end

    def weights(self, places: np.ndarray) -> np.ndarray:
        return self._weights[places]

    def probability(self, begin: np.ndarray, end: np.ndarray, places: np.ndarray) -> np.ndarray:
        return self._weights[places] / (self._sums[end] - self._sums[begin])


@dataclass(frozen=True)
class ItemLists:
    """Lists of items that belong to the rows; each entry is equally likely.

    items: (entries,) int32. Lists may overlap: newest impressions are windows of the users' impressions.
    begin, end: (n,) int64, each row's list.
    """

    items: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    sorted_entries: np.ndarray | None = None

    @classmethod
    def windows(cls, items: np.ndarray, begin: np.ndarray, end: np.ndarray) -> ItemLists:
        """Lists in which an item may stand several times, and is then so many times as likely."""
        return cls(items, begin, end, np.sort(items.astype(np.int64) * (len(items) + 1) + np.arange(len(items))))

    @classmethod
    def rankings(cls, ranked: np.ndarray, row: np.ndarray) -> ItemLists:
        """Lists from rankings.

        Args:
          ranked: (queries, ranks), different items in each line; behind the last only −1.
          row: (n,), the line of each row; −1: it has none.
        """
        lengths = np.append((ranked >= 0).sum(axis=1), 0)
        begin = np.maximum(row, 0).astype(np.int64) * ranked.shape[1]
        return cls(ranked.reshape(-1), begin, begin + lengths[row])

    def rows(self, begin: int, end: int) -> ItemLists:
        return replace(self, begin=self.begin[begin:end], end=self.end[begin:end])

    def places(self, begin: np.ndarray, end: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        # Below `end` for every uniform below 1: with 53 bits the product cannot be rounded up to the size.
        return begin + (uniform * (end - begin)).astype(np.int64)

    def weights(self, places: np.ndarray) -> np.ndarray:
        return np.ones(len(places))

    def probability(self, begin: np.ndarray, end: np.ndarray, places: np.ndarray) -> np.ndarray:
        if self.sorted_entries is None:
            return 1.0 / (end - begin)
        item = self.items[places].astype(np.int64) * (len(self.items) + 1)
        times = np.searchsorted(self.sorted_entries, item + end) - np.searchsorted(self.sorted_entries, item + begin)
        return times / (end - begin)


# Exclusions ------------------------------------------------------------------------------------------


class Clicked:
    """The items that each user clicked in the training window.

    Args:
      users: (clicks,) integers from 0, below 2⁶³ / catalogue_size.
      items: (clicks,) item indexes; −1, an item out of the catalogue, is left out.
      catalogue_size: number of items.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, catalogue_size: int) -> None:
        self._size = max(catalogue_size, 1)
        if len(users) and not 0 <= users.min() <= users.max() < np.iinfo(np.int64).max // self._size:
            raise ValueError("users: expected codes from 0, not hashes")
        known = items >= 0
        keys = np.unique(users[known].astype(np.int64) * self._size + items[known])
        self._keys = np.append(keys, np.iinfo(np.int64).max)

    def contains(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Returns whether each user clicked each item, of the broadcast shape; −1 is never clicked."""
        keys = users.astype(np.int64) * self._size + items
        return (self._keys[np.searchsorted(self._keys, keys)] == keys) & (items >= 0)


# Drawing ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """Where a set of negatives takes its random numbers from.

    row_hash: (n,) 64-bit integers.
    """

    seed: int
    name: str
    row_hash: np.ndarray

    def uniforms(self, attempt: int, rows: np.ndarray, draw: np.ndarray) -> np.ndarray:
        return uniforms(self.seed, self.name, attempt, self.row_hash[rows], draw)


def draw_allowed(
    candidates: Candidates, begin: np.ndarray, end: np.ndarray, excluded: Excluded, stream: Stream, draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws items that a row may have, by weight, independently and with replacement.

    Args:
      begin, end: (n,), each row's range of the candidates.
      excluded: which items a row may not have.
      draws: how many a row.
    Returns: items (n, draws) int32, −1 where the row may have none of its candidates; and (n, draws) float64,
      each item's chance to be drawn from the whole range, 0 where there is none. The excluded count in it:
      over what is left the chances sum to a little less than 1. That is the q which logQ corrections take.
    """
    sizes = end - begin
    row, draw = np.repeat(np.arange(len(sizes)), draws), np.tile(np.arange(draws), len(sizes))
    place = np.full(len(row), -1, dtype=np.int64)
    # A range of k items gets at most k attempts: to list it costs no more.
    attempts = np.minimum(sizes, ATTEMPTS)
    waiting = np.flatnonzero(sizes[row] > 0)
    unlucky = [waiting[:0]]
    for attempt in range(ATTEMPTS):
        if len(waiting) == 0:
            break
        rows = row[waiting]
        drawn = candidates.places(begin[rows], end[rows], stream.uniforms(attempt, rows, draw[waiting]))
        place[waiting] = drawn
        rejected = excluded(rows, candidates.items[drawn])
        waiting, rows = waiting[rejected], rows[rejected]
        done = attempts[rows] == attempt + 1
        unlucky.append(waiting[done])
        waiting = waiting[~done]
    listed = np.sort(np.concatenate(unlucky))
    place[listed] = _drawn_from_lists(
        candidates, begin, end, excluded, row[listed], stream.uniforms(ATTEMPTS, row[listed], draw[listed])
    )
    items = np.full(len(row), NO_ITEM, dtype=np.int32)
    probability = np.zeros(len(row))
    found = np.flatnonzero(place >= 0)
    items[found] = candidates.items[place[found]]
    probability[found] = candidates.probability(begin[row[found]], end[row[found]], place[found])
    return items.reshape(-1, draws), probability.reshape(-1, draws)


def _drawn_from_lists(
    candidates: Candidates,
    begin: np.ndarray,
    end: np.ndarray,
    excluded: Excluded,
    row: np.ndarray,
    uniform: np.ndarray,
) -> np.ndarray:
    """Draws from the candidates that are left when the excluded ones are taken out.

    Args:
      begin, end: (n,), each row's range.
      row: (m,), row of each draw, ascending.
      uniform: (m,), its random number.
    Returns: (m,) int64 places, −1 where none is left.
    """
    places = np.full(len(row), -1, dtype=np.int64)
    for rows in _blocks(np.unique(row), end - begin):
        sizes = (end - begin)[rows]
        ends = np.cumsum(sizes)
        owner = np.repeat(np.arange(len(rows)), sizes)
        listed = np.arange(ends[-1]) + np.repeat(begin[rows] - (ends - sizes), sizes)
        weights = candidates.weights(listed)
        weights[excluded(rows[owner], candidates.items[listed])] = 0
        # In whole numbers, so that a running sum over several rows is each row's own, to the last bit.
        totals = np.bincount(owner, weights, len(rows))
        per_weight = np.minimum(sizes, 2**16) * PARTS / np.where(totals > 0, totals, 1.0)  # a row's sum is below 2⁵³
        parts = np.rint(weights * per_weight[owner]).astype(np.int64)
        sums = np.concatenate([[0], np.cumsum(parts)])
        mine = slice(np.searchsorted(row, rows[0]), np.searchsorted(row, rows[-1], side="right"))
        at = np.searchsorted(rows, row[mine])
        low, high = sums[(ends - sizes)[at]], sums[ends[at]]
        drawn = low + (uniform[mine] * (high - low)).astype(np.int64)
        found = np.minimum(np.searchsorted(sums, drawn, side="right") - 1, len(listed) - 1)
        places[mine] = np.where(high > low, listed[found], -1)
    return places


def _blocks(rows: np.ndarray, sizes: np.ndarray) -> Iterator[np.ndarray]:
    """Yields consecutive rows whose ranges hold about LISTED_AT_ONCE candidates together, or one row's."""
    if len(rows):
        block = np.cumsum(sizes[rows]) // LISTED_AT_ONCE
        yield from np.split(rows, np.flatnonzero(np.diff(block)) + 1)


def top_ranks(
    queries: np.ndarray, vectors: np.ndarray, ranks: tuple[int, int], with_vector: np.ndarray | None = None
) -> np.ndarray:
    """Returns the items from rank a to rank b of each query, by inner product; ties by item index.

    The vectors are rounded to as many bits as make every inner product exact in float64 (23 of the largest
    entry's at 64 to 128 numbers, about what float32 has), because a ranking must not depend on the order in
    which a matrix product adds, which changes with the number of queries beside it.

    Args:
      queries: (q, d) float32, finite.
      vectors: (items, d) float32, finite.
      ranks: a and b, from 1, both included.
      with_vector: (items,) bool, the items that are ranked; default: all.
    Returns: (q, b − a + 1) int32 in order of rank, with −1 behind the last item.
    """
    first, last = ranks[0] - 1, ranks[1]
    index = np.arange(len(vectors)) if with_vector is None else np.flatnonzero(with_vector)
    ranked = np.full((len(queries), last - first), NO_ITEM, dtype=np.int32)
    last = min(last, len(index))
    if last <= first:
        return ranked
    items = _whole_numbers(vectors[index], axis=None).T
    for begin in range(0, len(queries), rows := max(1, SCORES_AT_ONCE // len(index))):
        scores = _whole_numbers(queries[begin : begin + rows], axis=1) @ items
        least = np.partition(scores, len(index) - last, axis=1)[:, [len(index) - last]]
        row, item = np.nonzero(scores >= least)  # the first `last` of each row, and what ties with the last of them
        order = np.lexsort((item, -scores[row, item], row))
        row_begin = np.searchsorted(row, np.arange(len(scores)))
        wanted = row_begin[:, None] + np.arange(first, last)
        ranked[begin : begin + rows, : last - first] = index[item[order[wanted]]]
    return ranked


def _whole_numbers(vectors: np.ndarray, axis: int | None) -> np.ndarray:
    """Scales vectors by a power of two, one in all or one a vector, and rounds them to float64 whole numbers.

    Sums of d products of two such numbers stay below 2⁵³.
    """
    if not np.isfinite(vectors).all():
        raise ValueError("vectors: expected finite numbers")
    bits = (53 - int(np.ceil(np.log2(max(vectors.shape[1], 1))))) // 2
    largest = np.abs(vectors).max(axis=axis, keepdims=True, initial=0.0)
    return np.rint(np.ldexp(vectors.astype(np.float64), bits - np.frexp(largest)[1]))


# All kinds of a partition ----------------------------------------------------------------------------


@dataclass(frozen=True)
class PositiveRows:
    """The positives that negatives are drawn for.

    users: (n,) int64, the code that `Clicked` knows the user by.
    items: (n,) int32, index of the positive; −1: it is out of the catalogue.
    times_ms: (n,) int64, Unix milliseconds of the event.
    row_hash: (n,) 64-bit integers, a hash of what identifies the row.
    lists: by name of the negatives: the unclicked impressions (`ItemLists.windows`) of each UnclickedNegatives,
      without those of items that the user clicked; the rankings (`ItemLists.rankings`) of each HardNegatives.
    """

    users: np.ndarray
    items: np.ndarray
    times_ms: np.ndarray
    row_hash: np.ndarray
    lists: Mapping[str, ItemLists]

    def __len__(self) -> int:
        return len(self.users)

    def part(self, begin: int, end: int) -> PositiveRows:
        return PositiveRows(
            self.users[begin:end],
            self.items[begin:end],
            self.times_ms[begin:end],
            self.row_hash[begin:end],
            {name: lists.rows(begin, end) for name, lists in self.lists.items()},
        )


@dataclass(frozen=True)
class CatalogueForSampling:
    """What negatives are drawn from; built once, and the same for all partitions.

    upload_ms: (items,) int64, Unix milliseconds from which the item exists; very small: always.
    groups: (items,) by name of GroupNegatives, from 0; −1: none.
    samplers: by name of the negatives that are drawn from the catalogue.
    """

    upload_ms: np.ndarray
    groups: Mapping[str, np.ndarray]
    samplers: Mapping[str, ItemSampler]

    @classmethod
    def build(
        cls,
        kinds: Mapping[str, Negatives],
        popularity: np.ndarray,
        upload_ms: np.ndarray,
        groups: Mapping[str, np.ndarray],
    ) -> CatalogueForSampling:
        """Builds the samplers.

        Args:
          popularity: (items,), positives of each item in the training window.
        """
        samplers = {
            name: ItemSampler(
                item_weights(kind, popularity), upload_ms, groups[name] if isinstance(kind, GroupNegatives) else None
            )
            for name, kind in kinds.items()
            if not isinstance(kind, (UnclickedNegatives, HardNegatives))
        }
        return cls(upload_ms, groups, samplers)


def sample_negatives(
    kinds: Mapping[str, Negatives], rows: PositiveRows, catalogue: CatalogueForSampling, clicked: Clicked, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the negatives of every kind for a partition's positives; linear in the rows.

    No negative is an item that the user clicked, or one uploaded after the event. A row gets the same
    negatives in every partition and order.

    Args:
      kinds: the settings' negatives by name; `count` of each are drawn.
      clicked: every positive of these rows' users in the training window.
    Returns: items (n, K) int32, kind after kind, −1 where nothing is allowed; and (n, K) float32, the chance of
      each to be drawn, as in `draw_allowed`.
    """
    counts = [kind.count for kind in kinds.values()]
    items = np.empty((len(rows), sum(counts)), dtype=np.int32)
    probability = np.empty((len(rows), sum(counts)), dtype=np.float32)
    rows_at_once = max(1, DRAWS_AT_ONCE // max(counts, default=1))
    for begin in range(0, len(rows), rows_at_once):
        chunk = slice(begin, begin + rows_at_once)
        part = rows.part(chunk.start, chunk.stop)
        column = 0
        for name, kind in kinds.items():
            columns = slice(column, column := column + kind.count)
            items[chunk, columns], probability[chunk, columns] = _negatives_of(
                name, kind, part, catalogue, clicked, seed
            )
    return items, probability


def _negatives_of(
    name: str, kind: Negatives, rows: PositiveRows, catalogue: CatalogueForSampling, clicked: Clicked, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    def excluded(row: np.ndarray, items: np.ndarray) -> np.ndarray:
        later = catalogue.upload_ms[items] > rows.times_ms[row]
        return later | (items < 0) | clicked.contains(rows.users[row], items)

    stream = Stream(seed, name, rows.row_hash)
    if isinstance(kind, (UnclickedNegatives, HardNegatives)):
        lists = rows.lists[name]
        return draw_allowed(lists, lists.begin, lists.end, excluded, stream, kind.count)
    sampler, groups = catalogue.samplers[name], None
    if isinstance(kind, GroupNegatives):
        groups = np.where(rows.items >= 0, catalogue.groups[name][rows.items], -1)
    begin, end = sampler.ranges(rows.times_ms, groups)
    return draw_allowed(sampler, begin, end, excluded, stream, kind.count)
