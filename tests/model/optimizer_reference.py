"""The optimizers' formulas once more: float64 NumPy, row by row, written from the papers and not from the code.

Each takes a variable's first value, one gradient a step (dense, of the variable's shape), one learning rate a step and
`rows`: what the step looked up of a table. It returns the last value; what it does not take, it must not need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Steps = Sequence[np.ndarray]


def adam(
    value: np.ndarray, slopes: Steps, rates: Sequence[float], *, beta_1: float, beta_2: float, epsilon: float
) -> np.ndarray:
    """Kingma and Ba, ICLR 2015, algorithm 1 in the order of the end of section 2 (ε there is ε̂)."""
    every = [np.arange(len(value))] * len(slopes)
    return lazy_adam(value, slopes, rates, every, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon)


def lazy_adam(
    value: np.ndarray,
    slopes: Steps,
    rates: Sequence[float],
    rows: Steps,
    *,
    beta_1: float,
    beta_2: float,
    epsilon: float,
) -> np.ndarray:
    """Adam of the rows that a step looked up; t counts all steps."""
    value = value.astype(float)
    m, v = np.zeros_like(value), np.zeros_like(value)
    for t, (slope, rate, touched) in enumerate(zip(slopes, rates, rows, strict=True), start=1):
        alpha = rate * math.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        for row in touched:
            g = slope[row].astype(float)
            m[row] = beta_1 * m[row] + (1 - beta_1) * g
            v[row] = beta_2 * v[row] + (1 - beta_2) * g**2
            value[row] -= alpha * m[row] / (np.sqrt(v[row]) + epsilon)
    return value


def adagrad(value: np.ndarray, slopes: Steps, rates: Sequence[float], *, initial: float, epsilon: float) -> np.ndarray:
    """Duchi et al., JMLR 2011, the diagonal version: x ← x − η g / √(δ + Σ g²)."""
    value, total = value.astype(float), np.full(value.shape, initial)
    for slope, rate in zip(slopes, rates, strict=True):
        total += slope.astype(float) ** 2
        value -= rate * slope / np.sqrt(total + epsilon)
    return value


def rowwise_adagrad(
    value: np.ndarray, slopes: Steps, rates: Sequence[float], *, initial: float, epsilon: float
) -> np.ndarray:
    """Adagrad of a matrix with Σ mean(g²) of the row in place of Σ g² of each number."""
    value, total = value.astype(float), [initial] * len(value)
    for slope, rate in zip(slopes, rates, strict=True):
        for row, g in enumerate(slope.astype(float)):
            total[row] += sum(x * x for x in g) / len(g)
            value[row] -= rate * g / math.sqrt(total[row] + epsilon)
    return value


def sgd(value: np.ndarray, slopes: Steps, rates: Sequence[float], *, momentum: float, nesterov: bool) -> np.ndarray:
    """Sutskever et al., ICML 2013, eqs. 1, 2; Nesterov's velocity is applied once more ahead, as in Bengio's form."""
    value, velocity = value.astype(float), np.zeros(value.shape)
    for slope, rate in zip(slopes, rates, strict=True):
        velocity = momentum * velocity - rate * slope.astype(float)
        value += momentum * velocity - rate * slope if nesterov else velocity
    return value


def rmsprop(
    value: np.ndarray, slopes: Steps, rates: Sequence[float], *, decay: float, momentum: float, epsilon: float
) -> np.ndarray:
    """Tieleman and Hinton, 2012, lecture 6.5, with ε under the root, and heavy-ball momentum on the steps."""
    value, square, velocity = value.astype(float), np.zeros(value.shape), np.zeros(value.shape)
    for slope, rate in zip(slopes, rates, strict=True):
        g = slope.astype(float)
        square = decay * square + (1 - decay) * g**2
        velocity = momentum * velocity + rate * g / np.sqrt(square + epsilon)
        value -= velocity
    return value


def clipped(by: str, limit: float, gradients: Steps) -> list[np.ndarray]:
    """Gradient clipping of dense gradients: by value, by each one's norm, or by the norm of all."""
    gradients = [g.astype(float) for g in gradients]
    if by == "value":
        return [np.clip(g, -limit, limit) for g in gradients]
    norms = [math.sqrt(float((g**2).sum())) for g in gradients]
    if by == "global_norm":
        norms = [math.sqrt(sum(norm**2 for norm in norms))] * len(gradients)
    return [g * (limit / norm if norm > limit else 1.0) for g, norm in zip(gradients, norms, strict=True)]
