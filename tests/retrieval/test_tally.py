"""Tallies against rankings made user by user in plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.manifest import NO_ITEM
from dssm.metrics import ranking_metrics
from dssm.retrieval.search import best_items
from dssm.retrieval.tally import TENTHS, ItemGroups, Tally, UserGroups, popularity_tenths

CUTOFFS = (1, 3, 8)


@st.composite
def rankings_(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties and −inf, what is wanted of the ranked items, and the items' tenths."""
    users, items = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = random.choice([-np.inf, -1.0, 0.0, 1.0, 2.0], (users, items))
    wanted = (random.random((users, items)) < draw(st.sampled_from([0.05, 0.4]))) & (scores > -np.inf)
    return scores, wanted, random.integers(0, TENTHS, items)


def _plain(scores: np.ndarray, wanted: np.ndarray, tenths: np.ndarray) -> dict[str, Any]:
    items = scores.shape[1]
    sums: dict[str, float] = {}
    shown: dict[int, set[int]] = {k: set() for k in CUTOFFS}
    found = {k: [0] * TENTHS for k in CUTOFFS}
    relevant, users = [0] * TENTHS, 0
    for row, liked in zip(scores, wanted, strict=True):
        if not liked.any():
            continue
        users += 1
        places = sorted(range(items), key=lambda item: (-row[item], item))
        for item in np.flatnonzero(liked):
            relevant[tenths[item]] += 1
        for k in CUTOFFS:
            first = [item for item in places[:k] if row[item] > -np.inf]
            shown[k].update(first)
            for item in first:
                found[k][tenths[item]] += bool(liked[item])
            sums[f"recall@{k}"] = sums.get(f"recall@{k}", 0.0) + sum(liked[first]) / liked.sum()
    return {"users": users, "sums": sums, "shown": shown, "found": found, "relevant": relevant}


def _add(tally: Tally, scores: np.ndarray, wanted: np.ndarray, tenths: np.ndarray) -> None:
    """Counts users whose scores, and wanted items, of the whole catalogue are at hand: (users, items) each."""
    users, items = scores.shape
    best, _ = best_items([(0, scores)], users, items, max(tally.cutoffs))
    nothing = UserGroups(np.zeros((len(tally.sums) - 1, users)), np.zeros(users, np.int64))
    tally.count(best.items, np.flatnonzero(wanted), nothing, ItemGroups(tenths, np.zeros(items, bool)))


@settings(max_examples=300, deadline=None)
@given(rankings=rankings_())
def test_a_tally_is_that_of_a_loop_over_the_users(rankings):
    scores, wanted, tenths = rankings
    items = scores.shape[1]
    tally = Tally.empty(CUTOFFS, items)
    _add(tally, scores, wanted, tenths)
    plain = _plain(scores, wanted, tenths)
    assert tally.users == plain["users"]
    metrics, by_tenth = tally.metrics(), tally.recall_by_tenth()
    for k in CUTOFFS:
        if tally.users:
            assert metrics[f"coverage@{k}"] == len(plain["shown"][k]) / items
            assert metrics[f"recall@{k}"] == pytest.approx(plain["sums"][f"recall@{k}"] / tally.users)
        expected = [f / r if r else None for f, r in zip(plain["found"][k], plain["relevant"], strict=True)]
        assert by_tenth[f"recall@{k}"] == expected
    if not tally.users:
        assert set(metrics.values()) == {None}


@settings(max_examples=200, deadline=None)
@given(rankings=rankings_(), cut=st.integers(0, 6))
def test_tallies_of_parts_add_up_to_that_of_the_whole(rankings, cut):
    scores, wanted, tenths = rankings
    whole, parts = Tally.empty(CUTOFFS, scores.shape[1]), Tally.empty(CUTOFFS, scores.shape[1])
    _add(whole, scores, wanted, tenths)
    for part in (slice(cut), slice(cut, None)):
        tally = Tally.empty(CUTOFFS, scores.shape[1])
        _add(tally, scores[part], wanted[part], tenths)
        parts.merge(tally)
    assert parts.users == whole.users
    assert parts.metrics() == pytest.approx(whole.metrics())
    assert parts.recall_by_tenth() == whole.recall_by_tenth()


def test_the_means_are_those_of_the_metrics_of_each_user():
    random = np.random.default_rng(3)
    scores, wanted = random.permuted(np.tile(np.arange(20.0), (9, 1)), axis=1), random.random((9, 20)) < 0.3
    wanted[:, 0] = True
    tally = Tally.empty(CUTOFFS, 20)
    _add(tally, scores, wanted, np.zeros(20, int))
    hits = np.take_along_axis(wanted, np.argsort(-scores, axis=1), axis=1)
    expected = {name: values.mean() for name, values in ranking_metrics(hits, wanted.sum(axis=1), CUTOFFS).items()}
    assert {n: v for n, v in tally.metrics().items() if not n.startswith("coverage")} == pytest.approx(expected)


def test_a_literal_tally():
    """Two users, four items: top 1 are items 2 and 2; of the tenths 0 and 1, half and all are found in the top 2."""
    tally = Tally.empty((1, 2), 4)
    _add(
        tally,
        np.array([[0.1, 0.5, 0.9, 0.2], [0.7, 0.1, 0.9, 0.0]]),
        np.array([[True, True, False, False], [False, False, True, False]]),
        np.array([0, 0, 1, 1]),
    )
    metrics = tally.metrics()
    assert (metrics["coverage@1"], metrics["coverage@2"]) == (1 / 4, 3 / 4)
    assert (metrics["mrr@1"], metrics["mrr@2"]) == (0.5, 0.75)
    assert tally.recall_by_tenth()["recall@2"] == [0.5, 1.0, *[None] * 8]


@settings(max_examples=200, deadline=None)
@given(popularity=st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_tenths_hold_equally_many_items_and_the_first_the_most_popular(popularity):
    tenths = popularity_tenths(np.array(popularity, np.float32))
    sizes = np.bincount(tenths, minlength=TENTHS)
    assert sizes.max() - sizes.min() <= 1
    ranked = sorted(range(len(popularity)), key=lambda item: (-popularity[item], item))
    assert [tenths[item] for item in ranked] == sorted(tenths)


def test_tenths_of_twenty_items():
    popularity = np.arange(20.0)
    assert popularity_tenths(popularity).tolist() == [9 - item // 2 for item in range(20)]


@st.composite
def blocks_(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, UserGroups, ItemGroups]:
    """Rankings, what is relevant, and groups and replicates of users and items."""
    users, items, places = draw(st.integers(1, 6)), draw(st.integers(8, 14)), max(CUTOFFS)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    best = np.stack([random.permutation(items)[:places] for _ in range(users)])
    best[np.arange(places) >= random.integers(0, places + 1, (users, 1))] = NO_ITEM
    wanted = random.random((users, items)) < draw(st.sampled_from([0.05, 0.4]))
    groups = ItemGroups(random.integers(0, TENTHS, items), random.random(items) < 0.4)
    counted = UserGroups(random.poisson(1, (3, users)).astype(float), random.integers(0, TENTHS, users))
    return best, wanted, counted, groups


def _mean(values: list[tuple[float, float]]) -> float | None:
    """Returns a weighted mean of (weight, value)."""
    total = sum(weight for weight, _ in values)
    return sum(weight * value for weight, value in values) / total if total else None


@settings(max_examples=60)
@given(block=blocks_())
def test_groups_and_replicates_are_those_of_a_loop(block):
    best, wanted, users, items = block
    tally = Tally.empty(CUTOFFS, wanted.shape[1], replicates=3)
    tally.count(best, np.flatnonzero(wanted), users, items)
    counted = np.flatnonzero(wanted.any(axis=1)).tolist()
    for number, weights in enumerate([np.ones(len(best)), *users.weights]):
        for k in CUTOFFS:
            hits = {u: {i for i in best[u, :k].tolist() if i != NO_ITEM and wanted[u, i]} for u in counted}
            relevant = {u: set(np.flatnonzero(wanted[u]).tolist()) for u in counted}
            recall = {u: len(hits[u]) / len(relevant[u]) for u in counted}

            def share(of: set[int], hits=hits, relevant=relevant, weights=weights) -> float | None:
                pairs = [
                    (weights[u] * len(relevant[u] & of), len(hits[u] & of) / max(len(relevant[u] & of), 1))
                    for u in counted
                ]
                return _mean(pairs)

            assert _known(tally.statistics()[f"recall@{k}"][number]) == _near(
                _mean([(weights[u], recall[u]) for u in counted])
            )
            assert _known(tally.cold()[f"recall@{k}"][number]) == _near(share(set(np.flatnonzero(items.cold).tolist())))
            for tenth in range(TENTHS):
                of_items = set(np.flatnonzero(items.tenths == tenth).tolist())
                assert _known(tally.tenths()[f"recall@{k}"][number, tenth]) == _near(share(of_items))
                of_users = [(weights[u], recall[u]) for u in counted if users.tenths[u] == tenth]
                assert _known(tally.activity()[f"recall@{k}"][number, tenth]) == _near(_mean(of_users))
    assert tally.users_by_activity.tolist() == np.bincount(users.tenths[counted], minlength=TENTHS).tolist()
    assert tally.cold_relevant == wanted[:, items.cold].sum()


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _near(value: float | None) -> Any:
    return None if value is None else pytest.approx(value)
