"""The losses once more: float64 NumPy, row by row, from the formulas in dssm.sections.losses.

Each takes its settings and a `Scored` that holds NumPy arrays, and returns losses and weights, (rows,) each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from dssm.model.losses import Candidates, Sampled, Scored
from dssm.sections.losses import Bpr, Hinge, InBatchSoftmax, Regression, SampledSoftmax, WeightedBce
from tests.model.reference import bce

Rows = tuple[np.ndarray, np.ndarray]


def weighted_bce_rows(settings: WeightedBce, scored: Scored) -> Rows:
    """The rows, then K negatives of each row; the K of a row without any weigh nothing."""
    examples = [
        (float(s), min(max(float(y), 0.0), 1.0), float(w)) if _is_known(y, w) else (float(s), 0.0, 0.0)
        for s, y, w in zip(scored.score, scored.label, scored.weight, strict=True)
    ]
    if scored.sampled is not None:
        sampled = scored.sampled
        for row in range(len(scored.score)):
            for place in range(len(sampled.weight)):
                counts = bool(sampled.drawn[row, place]) and _is_positive(scored, row)
                weight = float(scored.weight[row]) * float(sampled.weight[place]) if counts else 0.0
                examples.append((float(sampled.logits[row, place]) if counts else 0.0, 0.0, weight))
    losses = [bce(s, y, settings.positive_weight) for s, y, _ in examples]
    return np.array(losses), np.array([w for _, _, w in examples])


def regression_rows(settings: Regression, scored: Scored) -> Rows:
    losses, weights = np.zeros(len(scored.score)), np.zeros(len(scored.score))
    for row, (s, y, w) in enumerate(zip(scored.score, scored.label, scored.weight, strict=True)):
        prediction = 1 / (1 + math.exp(-float(s))) if settings.prediction == "sigmoid" else float(s)
        losses[row] = (prediction - (0.0 if math.isnan(y) else float(y))) ** 2
        weights[row] = float(w) if _is_known(y, w) else 0.0
    return losses, weights


def in_batch_softmax_rows(settings: InBatchSoftmax, scored: Scored) -> Rows:
    candidates = scored.candidates
    assert candidates is not None
    columns = [
        c
        for c in range(len(candidates.items))
        if candidates.uniform[c] or candidates.positive[c] or (settings.impression_weight and candidates.real[c])
    ]
    losses, weights = np.zeros(len(scored.score)), np.zeros(len(scored.score))
    for row in range(len(scored.score)):
        if not _is_known(scored.label[row], scored.weight[row]):
            continue
        weights[row] = scored.weight[row] * (1.0 if scored.label[row] > 0 else settings.impression_weight)
        if weights[row] == 0:
            continue
        logits = {}
        for c in columns:
            hit = _is_hit(scored, row, c, [c for c in columns if not candidates.uniform[c]])
            if settings.mask_accidental_hits and hit and c != candidates.own[row]:
                continue
            logits[c] = float(candidates.user_vectors[row, c])
            if settings.logq != "off":
                logits[c] -= settings.logq_strength * math.log(max(_drawing(settings, candidates, columns, c), 1e-9))
        losses[row] = _log_sum_exp(logits.values()) - logits[int(candidates.own[row])]
    return losses, weights


def _is_hit(scored: Scored, row: int, column: int, targets: Iterable[int]) -> bool:
    """Whether a column holds the row's item, or an item that the row's user has among the other targets."""
    candidates = scored.candidates
    assert candidates is not None
    others = [c for c in targets if c != candidates.own[row] and candidates.users[c] == scored.users[row]]
    liked = {scored.items[row], *(candidates.items[c] for c in others)}
    return candidates.items[column] in liked


def _drawing(settings: InBatchSoftmax, candidates: Candidates, columns: list[int], column: int) -> float:
    """Expected appearances of a column's item among the columns, over their number."""
    in_batch = [c for c in columns if not candidates.uniform[c]]
    uniform = int(np.sum(candidates.uniform))
    if settings.logq == "streaming":
        assert candidates.appearances is not None
        expected = float(candidates.appearances[column])
    elif settings.logq == "batch":
        expected = float(sum(candidates.items[c] == candidates.items[column] for c in in_batch))
    else:
        expected = len(in_batch) * float(candidates.share[column])
    if uniform:
        expected += uniform / candidates.catalogue_size
    return expected / (len(in_batch) + uniform)


def sampled_softmax_rows(settings: SampledSoftmax, scored: Scored) -> Rows:
    losses, weights = np.zeros(len(scored.score)), np.zeros(len(scored.score))
    assert scored.sampled is not None
    for row in range(len(scored.score)):
        places = _negatives(scored, row)
        if not places:
            continue
        negatives = [
            float(scored.sampled.logits[row, k]) + math.log(_factor(settings, scored.sampled, row, k, places))
            for k in places
        ]
        own = float(scored.score[row])
        losses[row] = _log_sum_exp([own, *negatives]) - own
        weights[row] = scored.weight[row]
    return losses, weights


def _factor(settings: SampledSoftmax, sampled: Sampled, row: int, place: int, places: list[int]) -> float:
    """What a negative's eˢ counts in the softmax's sum."""
    weight = float(sampled.weight[place])
    if not settings.correction:
        return weight
    kind_of = [kind for kind, count in enumerate(sampled.kinds) for _ in range(count)]
    mine = [k for k in places if kind_of[k] == kind_of[place]]
    weight_of_kinds = {kind_of[k]: float(sampled.weight[k]) for k in places}
    kinds_share = weight / sum(weight_of_kinds.values())
    return kinds_share / (len(mine) * max(float(sampled.probability[row, place]), 1e-9))


def hinge_rows(settings: Hinge, scored: Scored) -> Rows:
    return _pairwise(settings, scored, lambda own, other: max(0.0, settings.margin - own + other))


def bpr_rows(settings: Bpr, scored: Scored) -> Rows:
    return _pairwise(settings, scored, lambda own, other: float(np.logaddexp(0.0, other - own)))


def _pairwise(settings: Hinge | Bpr, scored: Scored, loss: Callable[[float, float], float]) -> Rows:
    losses, weights = np.zeros(len(scored.score)), np.zeros(len(scored.score))
    for row in range(len(scored.score)):
        if settings.negatives == "sampled":
            assert scored.sampled is not None
            of_row = {k: float(scored.sampled.weight[k]) for k in _negatives(scored, row)}
            logits = scored.sampled.logits
        else:
            assert scored.candidates is not None
            of_row = dict.fromkeys(_others(settings, scored, row), 1.0)
            logits = scored.candidates.user_vectors
        if of_row:
            each = [weight * loss(float(scored.score[row]), float(logits[row, c])) for c, weight in of_row.items()]
            losses[row] = sum(each) / sum(of_row.values())
            weights[row] = scored.weight[row]
    return losses, weights


def _others(settings: Hinge | Bpr, scored: Scored, row: int) -> list[int]:
    candidates = scored.candidates
    assert candidates is not None
    if not _is_positive(scored, row):
        return []
    found = []
    for c in np.flatnonzero(candidates.positive):
        hit = _is_hit(scored, row, int(c), np.flatnonzero(candidates.positive))
        if c != candidates.own[row] and not (settings.mask_accidental_hits and hit):
            found.append(int(c))
    return found


def _negatives(scored: Scored, row: int) -> list[int]:
    """Places of a row's sampled negatives that count."""
    assert scored.sampled is not None
    if not _is_positive(scored, row):
        return []
    return [k for k, w in enumerate(scored.sampled.weight) if scored.sampled.drawn[row, k] and w > 0]


def _is_known(label: float, weight: float) -> bool:
    return not math.isnan(label) and weight > 0


def _is_positive(scored: Scored, row: int) -> bool:
    return _is_known(scored.label[row], scored.weight[row]) and scored.label[row] > 0


def _log_sum_exp(values: Iterable[float]) -> float:
    listed = list(values)
    largest = max(listed)
    return largest + math.log(sum(math.exp(value - largest) for value in listed))


class StreamingFrequency:
    """Algorithm 2 of Yi et al. with several hash functions, in a dict for each, with whole numbers of any size."""

    def __init__(self, rate: float, initial_gap: float, buckets: int, multipliers: Iterable[int]) -> None:
        self.rate, self.initial_gap, self.buckets = rate, initial_gap, buckets
        self.multipliers = [int(multiplier) for multiplier in multipliers]
        self.step = 0
        self.last: list[dict[int, int]] = [{} for _ in self.multipliers]
        self.gap: list[dict[int, float]] = [{} for _ in self.multipliers]

    def bucket(self, item: int, function: int) -> int:
        upper_half = (item % 2**64 * self.multipliers[function] % 2**64) // 2**32
        return upper_half * self.buckets // 2**32

    def update(self, items: Iterable[int]) -> None:
        self.step += 1
        listed = list(items)
        for function in range(len(self.multipliers)):
            last, gap = self.last[function], self.gap[function]
            for bucket in {self.bucket(item, function) for item in listed}:
                if bucket in last:
                    gap[bucket] = (1 - self.rate) * gap[bucket] + self.rate * (self.step - last[bucket])
                else:
                    gap[bucket] = self.initial_gap
                last[bucket] = self.step

    def appearances(self, item: int) -> float:
        gaps = [self.gap[f].get(self.bucket(item, f), self.initial_gap) for f in range(len(self.multipliers))]
        return 1 / min(max(*gaps, 1.0), 1e9)
