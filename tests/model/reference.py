"""The formulas once more: float64 NumPy, row by row, written from the papers and not from the code."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np


def bce(score: float, label: float, positive_weight: float) -> float:
    """−[w₊ y log p + (1 − y) log(1 − p)], with log p = −log(1 + e⁻ˢ) and log(1 − p) = −log(1 + eˢ)."""
    return positive_weight * label * np.logaddexp(0.0, -score) + (1 - label) * np.logaddexp(0.0, score)


def bce_with_negatives(
    users: np.ndarray,
    items: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    negatives: list[list[tuple[np.ndarray, float]]],
    *,
    temperature: float,
    positive_weight: float,
) -> float:
    """Σ weight · loss / Σ weight over the rows and the negatives of each: (item vector, factor on the row's weight)."""
    total = share = 0.0
    for row in range(len(users)):
        user, weight = users[row].astype(float), float(weights[row])
        examples = [(items[row], float(labels[row]), weight)]
        examples += [(vector, 0.0, weight * factor) for vector, factor in negatives[row]]
        for vector, label, of_example in examples:
            total += of_example * bce(float(np.dot(user, vector)) / temperature, label, positive_weight)
            share += of_example
    return total / share


def accidental_hits(
    users: np.ndarray,
    items: np.ndarray,
    candidate_users: np.ndarray,
    candidate_items: np.ndarray,
    own: np.ndarray,
    targets: np.ndarray,
) -> np.ndarray:
    """For each row the candidates beside its own with its item, or with the item of another target of its user."""
    hits = np.zeros((len(users), len(candidate_users)), bool)
    for row, mine in enumerate(own):
        others = [c for c in np.flatnonzero(targets) if c != mine and candidate_users[c] == users[row]]
        liked = {int(items[row]), *(int(candidate_items[c]) for c in others)}
        hits[row] = [c != mine and int(item) in liked for c, item in enumerate(candidate_items)]
    return hits


def batch_shares(item_keys: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """How often each row's item is among the targets, over the number of targets."""
    draws = max(int(targets.sum()), 1)
    return np.array([sum(t and k == key for k, t in zip(item_keys, targets, strict=True)) / draws for key in item_keys])


def pooled(embeddings: np.ndarray, ids: np.ndarray, weights: np.ndarray | None, combiner: str) -> np.ndarray:
    """Each row's embeddings as one; ids of 0 do not count. Zeros where nothing does, or all weights are 0."""
    result = np.zeros((embeddings.shape[0], embeddings.shape[2]))
    for row in range(len(ids)):
        scaled, scales = [], []
        for entry in range(ids.shape[1]):
            if ids[row, entry] != 0:
                scale = 1.0 if weights is None else float(weights[row, entry])
                scales.append(scale)
                scaled.append(scale * embeddings[row, entry].astype(float))
        if not any(scales):
            continue
        if combiner == "max":
            result[row] = np.max(scaled, axis=0)
        else:
            divisor = {"sum": 1.0, "mean": sum(scales), "sqrtn": math.sqrt(sum(s * s for s in scales))}[combiner]
            result[row] = np.sum(scaled, axis=0) / divisor
    return result


def scorer_logits(parameters: Sequence[np.ndarray], users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Logit of each row: [u, v, u∘v, |u − v|] through kernels and biases, relu between them.

    Args: parameters: a kernel and a bias of each layer.
    """
    logits = []
    for user, item in zip(users.astype(float), items.astype(float), strict=True):
        hidden = [*user, *item, *(a * b for a, b in zip(user, item, strict=True))]
        hidden += [abs(a - b) for a, b in zip(user, item, strict=True)]
        for layer in range(0, len(parameters), 2):
            kernel, bias = parameters[layer], parameters[layer + 1]
            hidden = [sum(x * k for x, k in zip(hidden, column, strict=True)) for column in kernel.T.astype(float)]
            hidden = [x + b for x, b in zip(hidden, bias, strict=True)]
            if layer + 2 < len(parameters):
                hidden = [max(x, 0.0) for x in hidden]
        (logit,) = hidden
        logits.append(logit)
    return np.array(logits)


def slope(function: Callable[[np.ndarray], float], place: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Returns the gradient of a function by central differences, in the shape of `place`."""
    place = place.astype(np.float64)
    gradient = np.zeros_like(place)
    for index in np.ndindex(place.shape):
        shift = np.zeros_like(place)
        shift[index] = step
        gradient[index] = (function(place + shift) - function(place - shift)) / (2 * step)
    return gradient
