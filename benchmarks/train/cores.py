"""How much more two cores compute than one: the bound of what a second rank can give on this machine.

Virtual cores may be two threads of one, share its caches, or be lent to others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from multiprocessing import get_context
from unittest import mock

import numpy as np

SIZE, SECONDS, START_S = 1024, 3.0, 4.0


def products(core: int, start: float) -> int:
    """Returns how many products of matrices a core makes in SECONDS. Args: start: time.time() to begin at."""
    os.sched_setaffinity(0, {core})
    left, right = np.ones((2, SIZE, SIZE), np.float32)
    left @ right
    time.sleep(max(0.0, start - time.time()))
    made, end = 0, time.monotonic() + SECONDS
    while time.monotonic() < end:
        left @ right
        made += 1
    return made


def cores_together(cores: Sequence[int]) -> float:
    """Returns the products of all cores at once over those of the first alone."""
    # Before the processes import NumPy, whose threads would be as many as there are cores.
    with mock.patch.dict(os.environ, OPENBLAS_NUM_THREADS="1"), get_context("spawn").Pool(len(cores)) as pool:
        alone = pool.apply(products, (cores[0], 0.0))
        start = time.time() + START_S  # by when all of them have started
        return sum(pool.starmap(products, [(core, start) for core in cores], chunksize=1)) / alone
