"""Best items, from blocks of scores, against a full sort of each row."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dssm.manifest import NO_ITEM
from dssm.retrieval import search
from dssm.retrieval.search import best_items, contains, pairs, product_blocks

# Few values, so that most rows have ties; −inf and NaN stand for items that can't be ranked.
scores_ = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.sampled_from([-np.inf, np.nan, -1.0, -0.0, 0.0, 0.5, 2.0, np.inf]),
)


def _split(scores: np.ndarray, bounds: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    edges = [0, *sorted({min(bound, scores.shape[1]) for bound in bounds}), scores.shape[1]]
    for first, last in itertools.pairwise(edges):
        yield first, scores[:, first:last]


def _expected(scores: np.ndarray, count: int, left_out: set[tuple[int, int]]) -> list[list[int]]:
    """Items of each row by score and index, NO_ITEM behind them."""
    ranked = []
    for number, row in enumerate(scores):
        able = [item for item, score in enumerate(row) if score > -np.inf and (number, item) not in left_out]
        best = sorted(able, key=lambda item, row=row: (-row[item], item))
        ranked.append((best + [NO_ITEM] * len(row))[: min(count, len(row))])
    return ranked


@settings(max_examples=300)
@given(
    scores=scores_,
    count=st.integers(1, 10),
    bounds=st.lists(st.integers(0, 9), max_size=3),
    seed=st.integers(0, 1000),
)
def test_both_views_are_those_of_a_sort_however_the_items_are_split(scores, count, bounds, seed):
    users, items = scores.shape
    seen = sp.random(users, items, density=0.4, format="csr", random_state=seed)
    kept, filtered = best_items(_split(scores, bounds), users, items, count, pairs(seen))
    known = set(zip(*(place.tolist() for place in seen.nonzero()), strict=True))
    assert kept.items.tolist() == _expected(scores, count, set())
    assert filtered.items.tolist() == _expected(scores, count, known)
    for ranked in (kept, filtered):
        there = ranked.items != NO_ITEM
        rows = np.nonzero(there)[0]
        np.testing.assert_array_equal(ranked.scores[there], scores[rows, ranked.items[there]])
        assert (ranked.scores[~there] == -np.inf).all()


def test_a_literal_ranking():
    scores = np.array([[0.1, 0.9, 0.1, 0.5], [3.0, 3.0, 3.0, 3.0]], np.float32)
    kept, filtered = best_items([(0, scores)], 2, 4, 3, seen=np.array([1, 4, 6]))
    assert kept.items.tolist() == [[1, 3, 0], [0, 1, 2]]
    assert filtered.items.tolist() == [[3, 0, 2], [1, 3, NO_ITEM]]
    assert filtered.scores.tolist() == [[0.5, pytest.approx(0.1), pytest.approx(0.1)], [3.0, 3.0, -np.inf]]


@pytest.mark.parametrize("order", ["drawn", "rising", "falling"])
@pytest.mark.parametrize("count", [1, 50, 999])
def test_many_items_against_a_full_sort(count: int, order: str):
    """Rising scores are the worst case: each item is above the threshold when it comes."""
    random = np.random.default_rng(0)
    scores = random.integers(0, 200, (7, 1000)).astype(np.float32)
    if order != "drawn":
        scores = np.sort(scores, axis=1)[:, :: 1 if order == "rising" else -1]
    seen = sp.random(7, 1000, density=0.1, format="csr", random_state=1)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    unseen = np.argsort(-np.where(seen.toarray() > 0, -np.inf, scores), axis=1, kind="stable")[:, :count]
    kept, filtered = best_items(_split(scores, [130, 500]), 7, 1000, count, pairs(seen))
    np.testing.assert_array_equal(kept.items, expected)
    there = filtered.items != NO_ITEM
    np.testing.assert_array_equal(filtered.items[there], unseen[there])
    np.testing.assert_array_equal(there.sum(axis=1), np.minimum(1000 - np.diff(seen.indptr), count))


def test_a_user_who_has_seen_all_but_a_few():
    scores = np.random.default_rng(2).normal(size=(2, 400)).astype(np.float32)
    seen = np.array([item for item in range(400) if item not in (7, 300)])
    kept, filtered = best_items(_split(scores, [100, 200, 300]), 2, 400, 3, seen)
    np.testing.assert_array_equal(kept.items, np.argsort(-scores, axis=1)[:, :3])
    assert sorted(filtered.items[0].tolist()) == [NO_ITEM, 7, 300]
    np.testing.assert_array_equal(filtered.items[1], kept.items[1])


def test_products_of_parts_are_that_of_the_whole(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(search, "ITEMS_AT_ONCE", 4)
    random = np.random.default_rng(3)
    users, items = (random.normal(size=(rows, 6)).astype(np.float32) for rows in (3, 11))
    blocks = [(first, scores.copy()) for first, scores in product_blocks(users, [(0, items[:9]), (9, items[9:])])]
    assert [first for first, _ in blocks] == [0, 4, 8, 9]
    np.testing.assert_allclose(np.hstack([scores for _, scores in blocks]), users @ items.T, rtol=1e-5)


def test_pairs_ascend_and_are_found():
    lists = sp.csr_matrix((np.ones(4), [3, 1, 1, 0], [0, 3, 3, 4]), shape=(3, 5))  # unsorted, one of them twice
    assert pairs(lists).tolist() == [1, 3, 10]
    assert contains(pairs(lists), np.array([[1, 2], [10, 14]])).tolist() == [[True, False], [True, False]]
    assert contains(np.zeros(0, np.int64), np.array([0])).tolist() == [False]


def test_memory_does_not_grow_with_the_catalogue():
    """A pass over ten times the items holds no more: blocks are made, looked at and forgotten."""
    import tracemalloc

    def peak(items: int) -> int:
        users, vectors = np.ones((50, 2), np.float32), np.random.default_rng(4).normal(size=(items, 2))
        blocks = product_blocks(users, [(0, vectors.astype(np.float32))])
        tracemalloc.start()
        best_items(blocks, 50, items, 10)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(400_000) < 1.2 * peak(40_000)
