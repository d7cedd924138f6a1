"""Random batches as the losses see them, and their comparison with the float64 formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from dssm.model.losses import Candidates, Rows, Sampled, Scored
from tests.model import reference

CATALOGUE_SIZE = 9


def draw_scored(
    seed: int, rows: int = 5, others: int = 3, uniform: int = 0, kinds: tuple[int, ...] = (2, 1, 2)
) -> Scored:
    """Draws a batch of few users and items, with padding and labels that are not known.

    The candidates are the items of `others` rows of another rank, then of the batch, then uniform ones.

    Args: kinds: places for sampled negatives, by kind; each kind has them for some of the positives.
    Returns: arrays of NumPy, float32.
    """
    random = np.random.default_rng(seed)
    joint = others + rows
    users, items = random.integers(1, 5, joint), random.integers(1, 7, joint)
    label = random.choice([0.0, 0.3, 1.0, 1.0, np.nan], joint).astype(np.float32)
    weight = np.where(np.isnan(label), 0, random.choice([0.0, 0.5, 1.0, 2.5], joint)).astype(np.float32)
    drawn_uniformly = np.arange(joint + uniform) >= joint
    candidate_items = np.concatenate([items, random.integers(1, CATALOGUE_SIZE + 1, uniform)])
    logits = 2 * random.normal(size=(rows, joint + uniform)).astype(np.float32)
    own = np.arange(others, joint, dtype=np.int32)
    share, appearances = random.uniform(0.001, 0.5, (2, CATALOGUE_SIZE + 1)).astype(np.float32)
    share[1] = 0  # an item that the training rows do not have
    candidates = Candidates(
        user_vectors=logits,
        vectors=np.eye(joint + uniform, dtype=np.float32),
        own=own,
        users=np.concatenate([users, np.zeros(uniform, np.int64)]),
        items=candidate_items,
        positive=np.concatenate([(label > 0) & (weight > 0), np.zeros(uniform, bool)]),
        real=np.concatenate([weight > 0, np.ones(uniform, bool)]),
        uniform=drawn_uniformly,
        share=share[candidate_items],
        appearances=appearances[candidate_items],
        catalogue_size=CATALOGUE_SIZE,
    )
    return Scored(
        score=logits[np.arange(rows), own],
        label=label[others:],
        weight=weight[others:],
        users=users[others:],
        items=items[others:],
        candidates=candidates,
        sampled=_draw_sampled(random, kinds, candidates.positive[own]),
    )


def _draw_sampled(random: np.random.Generator, kinds: tuple[int, ...], positive: np.ndarray) -> Sampled:
    rows = len(positive)
    by_kind = random.choice([0.0, 0.5, 1.0, 2.0], len(kinds), p=[0.1, 0.3, 0.3, 0.3])
    found = np.repeat(random.random((rows, len(kinds))) < 0.8, kinds, axis=1)
    drawn = found & (random.random(found.shape) < 0.9) & positive[:, None]
    probability = random.uniform(0.001, 0.5, found.shape).astype(np.float32)
    return Sampled(
        logits=(2 * random.normal(size=found.shape)).astype(np.float32),
        probability=np.where(drawn, probability, 0).astype(np.float32),
        drawn=drawn,
        weight=np.repeat(by_kind, kinds).astype(np.float32),
        kinds=kinds,
    )


def of_own_items(logits: np.ndarray, items: list[int], users: list[int] | None = None, share: float = 0.1) -> Scored:
    """Returns a batch of positives of weight 1 whose candidates are its own items."""
    rows = len(items)
    user_keys, item_keys = np.array(users or range(101, 101 + rows)), np.array(items)
    yes = np.ones(rows, bool)
    candidates = Candidates(
        user_vectors=logits.astype(np.float32),
        vectors=np.eye(rows, dtype=np.float32),
        own=np.arange(rows, dtype=np.int32),
        users=user_keys,
        items=item_keys,
        positive=yes,
        real=yes,
        uniform=~yes,
        share=np.full(rows, share, np.float32),
        catalogue_size=1000,
    )
    ones = np.ones(rows, np.float32)
    return Scored(np.diag(logits).astype(np.float32), ones, ones, user_keys, item_keys, candidates)


def of_sampled(
    score: np.ndarray, logits: np.ndarray, probability: np.ndarray, kinds: tuple[int, ...], weight: list[float]
) -> Scored:
    """Returns positives of weight 1 that have all their negatives."""
    ones, keys = np.ones(len(score), np.float32), np.arange(len(score))
    sampled = Sampled(
        logits=logits.astype(np.float32),
        probability=probability.astype(np.float32),
        drawn=np.ones(logits.shape, bool),
        weight=np.float32(weight),
        kinds=kinds,
    )
    return Scored(score.astype(np.float32), ones, ones, keys, keys, sampled=sampled)


def logits_of(scored: Scored) -> dict[str, Any]:
    """Returns what a gradient reaches, by name: as the candidates' vectors are unit vectors, the users' are logits."""
    found = {"score": scored.score}
    if scored.candidates is not None:
        found["candidates"] = scored.candidates.user_vectors
    if scored.sampled is not None:
        found["sampled"] = scored.sampled.logits
    return found


def with_logits(scored: Scored, logits: dict[str, Any]) -> Scored:
    candidates, sampled = scored.candidates, scored.sampled
    if candidates is not None:
        candidates = replace(candidates, user_vectors=logits.get("candidates", candidates.user_vectors))
    if sampled is not None:
        sampled = replace(sampled, logits=logits.get("sampled", sampled.logits))
    return replace(scored, score=logits.get("score", scored.score), candidates=candidates, sampled=sampled)


def evaluate(settings: Any, scored: Scored) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Returns losses, weights, and the gradients of Σ weight · loss, by name of the logits."""
    variables = {name: tf.Variable(values) for name, values in logits_of(scored).items()}
    with tf.GradientTape() as tape:
        losses, weights = settings.build(with_logits(scored, {n: tf.identity(v) for n, v in variables.items()}))
        total = tf.reduce_sum(losses * weights)
    gradients = tape.gradient(total, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return losses.numpy(), weights.numpy(), {name: gradient.numpy() for name, gradient in gradients.items()}


def assert_equals_reference(settings: Any, scored: Scored, rows_of: Callable[[Any, Scored], Rows]) -> None:
    """Checks losses, weights and gradients against the formula and its central differences."""
    losses, weights, gradients = evaluate(settings, scored)
    expected_losses, expected_weights = rows_of(settings, scored)
    np.testing.assert_allclose(weights, expected_weights, rtol=1e-6)
    np.testing.assert_allclose(losses[weights > 0], expected_losses[weights > 0], rtol=2e-5, atol=1e-5)
    assert np.isfinite(losses).all()

    def total(name: str, values: np.ndarray) -> float:
        of_rows, row_weights = rows_of(settings, with_logits(scored, {name: values}))
        return float(np.dot(of_rows, row_weights))

    for name, values in logits_of(scored).items():
        slope = reference.slope(lambda x, name=name: total(name, x), values)
        np.testing.assert_allclose(gradients[name], slope, rtol=1e-4, atol=5e-5, err_msg=name)


def permuted(scored: Scored, order: np.ndarray) -> Scored:
    """Returns the batch with its rows in another order; the candidates stay where they are."""
    candidates, sampled = scored.candidates, scored.sampled
    if candidates is not None:
        candidates = replace(candidates, user_vectors=candidates.user_vectors[order], own=candidates.own[order])
    if sampled is not None:
        sampled = replace(
            sampled,
            logits=sampled.logits[order],
            probability=sampled.probability[order],
            drawn=sampled.drawn[order],
        )
    return Scored(
        *(getattr(scored, name)[order] for name in ("score", "label", "weight", "users", "items")), candidates, sampled
    )


def permuted_candidates(scored: Scored, order: np.ndarray) -> Scored:
    """Returns the batch with its candidates in another order."""
    old = scored.candidates
    assert old is not None
    by_column = ("users", "items", "positive", "real", "uniform", "share", "appearances")
    columns = {name: getattr(old, name)[order] for name in by_column}
    own = np.argsort(order)[old.own].astype(np.int32)
    return replace(scored, candidates=replace(old, user_vectors=old.user_vectors[:, order], own=own, **columns))
