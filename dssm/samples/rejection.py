"""Draws by weight of what a row may have: rejection sampling, bounded. Pure NumPy.

From its range of the candidates a row draws by weight, and draws again where it may not have the item; after some
attempts the candidates are listed and one of those left is drawn. Either way an item's chance is its weight's share
of the allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dssm.manifest import NO_ITEM
from dssm.samples.candidates import Candidates
from dssm.samples.splitmix import uniforms

ATTEMPTS = 24  # draws of a negative before its candidates are listed
LISTED_AT_ONCE = 2_000_000  # candidates, about 60 bytes each
PARTS = 2.0**36  # that a listed candidate's weight is on average: those of LISTED_AT_ONCE fit 64 bits

Excluded = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(rows (m,), items (m,)) → (m,) bool: the row may not have the item."""


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
      over what is left the chances sum to 1 − m, m being the excluded items' share. That is the q which logQ
      corrections take: with the same m for all of a row's negatives, they come log(1 / (1 − m)) too high.
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
