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
      steps: steps of every rank. A rank whose rows end earlier fills its batches with rows of weight 0.
    """

    files: tuple[tuple[int, ...], ...]
    rows: tuple[int, ...]
    steps: int


def plan_epoch(rows: Sequence[int], seed: int, epoch: int, ranks: int, batch_size: int) -> EpochPlan:
    """Spreads files over ranks, differently each epoch, as evenly as whole files allow.

    Every row is seen exactly once an epoch and all ranks take the same number of steps, whatever the
    number of ranks: unequal steps would leave a rank waiting in a collective for ever.

    Args:
      rows: rows of each file.
      seed: of the order.
      epoch: number of the epoch, from 0.
      ranks: number of ranks, at least 1.
      batch_size: rows of a rank's batch, at least 1.
    """
    random = np.random.default_rng([seed, epoch])
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
    return EpochPlan(files=files, rows=totals, steps=math.ceil(max(totals) / batch_size))
