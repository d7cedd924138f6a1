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
    order = np.random.default_rng([seed, epoch]).permutation(len(rows))
    shuffled = [int(file) for file in order if rows[file] > 0]
    # Longest first onto the least loaded rank: within 4/3 of the best split (Graham, 1969).
    loads = [(0, rank) for rank in range(ranks)]
    files: list[list[int]] = [[] for _ in range(ranks)]
    for file in sorted(shuffled, key=lambda file: -rows[file]):
        load, rank = heapq.heappop(loads)
        files[rank].append(file)
        heapq.heappush(loads, (load + rows[file], rank))
    place = {file: number for number, file in enumerate(shuffled)}
    read = tuple(tuple(sorted(chosen, key=place.__getitem__)) for chosen in files)
    totals = tuple(sum(rows[file] for file in chosen) for chosen in read)
    return EpochPlan(files=read, rows=totals, steps=math.ceil(max(totals, default=0) / batch_size))
