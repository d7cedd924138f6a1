"""The epoch plan: which rank reads which files, and how many steps all ranks take. A pure function."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class EpochPlan:
    """What each rank reads in one epoch.

    Attributes:
      files: for each rank the numbers of its files, in reading order; each file of at least one
        row is read by exactly one rank.
      rows: for each rank the rows in its files.
      file_rows: rows of each file, read or not.
      steps: steps of every rank. A rank whose rows end earlier fills its batches with rows of weight 0.
    """

    files: tuple[tuple[int, ...], ...]
    rows: tuple[int, ...]
    file_rows: tuple[int, ...]
    steps: int


@dataclass(frozen=True)
class Leg:
    """Steps of an epoch that were taken by the same ranks; a resumed epoch has several where their number changed.

    Attributes:
      ranks: their number.
      batch_size: rows of a rank's batch.
      steps: steps taken.
    """

    ranks: int
    batch_size: int
    steps: int


def plan_epoch(rows: Sequence[int], seed: int, epoch: int, ranks: int, batch_size: int, leg: int = 0) -> EpochPlan:
    """Spreads files over ranks, differently each epoch, as evenly as whole files allow.

    Every row is seen exactly once an epoch and all ranks take the same number of steps, whatever the
    number of ranks: unequal steps would leave a rank waiting in a collective for ever.

    Args:
      rows: rows of each file; in a later leg those that are left.
      seed: of the order.
      epoch: number of the epoch, from 0.
      ranks: number of ranks, at least 1.
      batch_size: rows of a rank's batch, at least 1.
      leg: number of the leg, from 0.
    """
    random = np.random.default_rng([seed, epoch, leg] if leg else [seed, epoch])
    shuffled = [int(file) for file in random.permutation(len(rows)) if rows[file] > 0]
    # Longest first onto the least loaded rank: within 4/3 of the best split (Graham, 1969).
    heap = [(0, rank) for rank in range(ranks)]
    reader: dict[int, int] = {}
    for file in sorted(shuffled, key=lambda file: -rows[file]):
        load, reader[file] = heapq.heappop(heap)
        heapq.heappush(heap, (load + rows[file], reader[file]))
    loads = {rank: load for load, rank in heap}
    # Files seldom have equal rows, so this split is the same every epoch: swap files where no step is added.
    room = math.ceil(max(loads.values()) / batch_size) * batch_size
    for file, other in zip(shuffled, random.permutation(shuffled).tolist(), strict=True):
        one, two, gain = reader[file], reader[other], rows[other] - rows[file]
        if one != two and loads[one] + gain <= room and loads[two] - gain <= room:
            reader[file], reader[other] = two, one
            loads[one], loads[two] = loads[one] + gain, loads[two] - gain
    files = tuple(tuple(file for file in shuffled if reader[file] == rank) for rank in range(ranks))
    totals = tuple(loads[rank] for rank in range(ranks))
    return EpochPlan(files, totals, tuple(rows), math.ceil(max(totals) / batch_size))


def rows_read(plan: EpochPlan, batch_size: int, steps: int) -> list[int]:
    """Returns how many rows of each file the ranks have read after so many steps of a plan."""
    read = [0] * len(plan.file_rows)
    for files in plan.files:
        left = steps * batch_size
        for file in files:
            read[file] = min(plan.file_rows[file], left)
            left -= read[file]
    return read


def rows_done(rows: Sequence[int], seed: int, epoch: int, legs: Sequence[Leg]) -> list[int]:
    """Returns how many rows of each file an epoch has seen after its legs: always the first of the file's own order.

    Args: rows: of each file; legs: in their order.
    """
    done = [0] * len(rows)
    for number, leg in enumerate(legs):
        left = [of_file - seen for of_file, seen in zip(rows, done, strict=True)]
        plan = plan_epoch(left, seed, epoch, leg.ranks, leg.batch_size, number)
        read = rows_read(plan, leg.batch_size, leg.steps)
        done = [seen + more for seen, more in zip(done, read, strict=True)]
    return done
