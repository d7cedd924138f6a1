"""The Poisson bootstrap over users: weights, intervals, and the comparison of two evaluations. Pure NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dssm.samples.splitmix import uniforms

LEVEL = 0.95  # of the intervals
SEED = 0  # the same in every run, whatever its own seed is: replicates of two runs are pairs

# Chances of at most 0, 1, 2, … of a Poisson distribution with mean 1, as far as float64 tells them from 1.
_AT_MOST = np.cumsum([math.exp(-1.0) / math.factorial(count) for count in range(18)])


def poisson_weights(keys: np.ndarray, replicates: int) -> np.ndarray:
    """Returns how often each replicate holds each user: once on average, by a Poisson distribution.

    A weight is a hash of the user's key and the replicate's number (Chamandy et al., Estimating uncertainty for massive
    data streams, 2012): sums of replicates add up over any partition of the users, and what is compared on the same
    users is resampled alike. Its weakness: the size of a resample varies, so that only ratios of sums may be read.

    Args:
      keys: (users,) 64-bit integers.
    Returns: (replicates, users) float64.
    """
    drawn = uniforms(SEED, "bootstrap", 0, keys[None, :], np.arange(replicates)[:, None])
    weights = np.zeros(drawn.shape)
    for chance in _AT_MOST:
        more = drawn >= chance
        if not more.any():
            break
        weights += more
    return weights


def interval(replicates: np.ndarray) -> np.ndarray:
    """Returns the percentile interval of LEVEL, (2, …), of statistics (replicates, …).

    A replicate in which a statistic is not known, NaN, does not count; NaN where none is left.
    """
    tail = (1 - LEVEL) / 2
    if len(replicates) and np.isfinite(replicates).all():
        return np.quantile(replicates, [tail, 1 - tail], axis=0)
    known = np.isfinite(replicates).any(axis=0)
    found = np.full((2, *replicates.shape[1:]), np.nan)
    if known.any():
        found[:, known] = np.nanquantile(replicates[:, known], [tail, 1 - tail], axis=0)
    return found


@dataclass(frozen=True)
class Difference:
    """What one statistic has over another, its interval, and the two-sided p of no difference."""

    value: float
    low: float
    high: float
    p: float


def difference(first: np.ndarray, other: np.ndarray) -> Difference:
    """Compares a statistic of two rankings of the same users.

    p is twice the share of replicates on the smaller side of 0, those at 0 on both, and one more on each (Efron and
    Tibshirani, An Introduction to the Bootstrap, ch. 15.4): it is never below 2 / (replicates + 1).

    Args:
      first, other: (1 + replicates,): the statistic, then that of each replicate, which are pairs.
    Returns: of other − first; NaN beside the value where there are no replicates.
    """
    changes = other - first
    drawn = changes[1:][np.isfinite(changes[1:])]
    if not len(drawn):
        return Difference(float(changes[0]), float("nan"), float("nan"), float("nan"))
    low, high = interval(drawn)
    smaller = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return Difference(float(changes[0]), float(low), float(high), min(1.0, 2 * (1 + float(smaller)) / (1 + len(drawn))))
