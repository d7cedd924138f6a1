"""How the rows of a table are spread over ranks: of N ranks, rank r % N holds row r as its row r // N.

Where a row lies does not depend on the number of rows, so a table that grows keeps its rows where they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shard:
    """Which part of each sharded table a process holds."""

    rank: int = 0
    ranks: int = 1

    def rows(self, table_rows: int) -> int:
        """Returns how many of a table's rows it holds: two ranks differ by at most one."""
        return len(range(self.rank, table_rows, self.ranks))

    def capacity(self, table_rows: int) -> int:
        """Returns the most rows that any rank holds of a table."""
        return -(-table_rows // self.ranks)

    def within(self, start: int, stop: int) -> tuple[slice, slice]:
        """Returns where its rows among the table's rows start…stop − 1 stand: in that range, and in the shard."""
        first = start + (self.rank - start) % self.ranks
        count = len(range(first, stop, self.ranks))
        place = first // self.ranks
        return slice(first - start, stop - start, self.ranks), slice(place, place + count)


def resliced(shards: Iterable[np.ndarray], before: int, table_rows: int, shard: Shard) -> np.ndarray:
    """Returns a shard of a table that was written in another number of shards.

    Args:
      shards: all that were written, in the order of their ranks, (rows of that rank, …) each; one is held at a time.
      before: how many they are.
      table_rows: of the whole table.
      shard: that is wanted.
    Returns: (shard.rows(table_rows), …).
    Raises: ValueError where the shards are not those of a table of so many rows.
    """
    common = math.gcd(before, shard.ranks)
    made: np.ndarray | None = None
    number = -1
    for number, held in enumerate(shards):
        expected = Shard(number, before).rows(table_rows) if number < before else 0
        if number >= before or len(held) != expected:
            raise ValueError(f"shard {number} of {before}: found {len(held)} rows, expected {expected} of {table_rows}")
        if made is None:
            made = np.empty((shard.rows(table_rows), *held.shape[1:]), held.dtype)
        if (number - shard.rank) % common:
            continue  # no row is in both
        every = shard.ranks // common
        first = next(row for row in range(number, before * every, before) if row % shard.ranks == shard.rank)
        made[first // shard.ranks :: before // common] = held[first // before :: every]
    if made is None or number + 1 != before:
        raise ValueError(f"found {number + 1} shards, expected {before}")
    return made
