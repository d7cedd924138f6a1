"""Blocks of users ranked and added up, however they are split."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.evaluation import FILTERED, KEPT, MODEL
from dssm.retrieval.bootstrap import poisson_weights
from dssm.retrieval.rankers import Rankers
from dssm.retrieval.ranking import COLD, Activity, Found, Ranking
from dssm.retrieval.tally import TENTHS
from tests.retrieval.rankings import asked_of, make_block, part_of, write_rankers

USERS, ITEMS = 40, 25


@pytest.fixture(scope="module")
def rankers(tmp_path_factory: pytest.TempPathFactory) -> Rankers:
    return write_rankers(tmp_path_factory.mktemp("rankers") / "arrays", ITEMS)


def _assert_same(found: Found, expected: Found) -> None:
    assert found.digests == expected.digests
    assert found.examples.keys() == expected.examples.keys()
    for place, example in expected.examples.items():  # sums of products depend on how many are made at once
        assert found.examples[place].scores == pytest.approx(example.scores, rel=1e-5)
        assert replace(found.examples[place], scores=[]) == replace(example, scores=[])
    assert found.cold_users == expected.cold_users
    assert list(found.tallies) == list(expected.tallies)
    for key, tally in expected.tallies.items():
        np.testing.assert_allclose(found.tallies[key].sums, tally.sums, rtol=1e-12)
        np.testing.assert_array_equal(found.tallies[key].covered, tally.covered)


@settings(max_examples=20)
@given(bounds=st.lists(st.integers(0, USERS), max_size=4), order=st.randoms(use_true_random=False))
def test_tasks_and_blocks_make_no_difference(rankers: Rankers, bounds, order):
    """Users in any order over any number of tasks: the same sums, replicates, digests and examples."""
    block = make_block(USERS, ITEMS)
    asked = asked_of(block)
    whole = Ranking(rankers, asked)
    whole.add(block)
    edges = [0, *sorted(bounds), USERS]
    rows = [slice(first, last) for first, last in itertools.pairwise(edges)]
    order.shuffle(rows)
    total = Found.empty(rankers, asked)
    for part in rows:
        task = Ranking(rankers, asked)
        task.add(part_of(block, part))
        total.merge(Found.unpacked(task.found.packed()))
    _assert_same(total, whole.found)


def test_the_models_tallies_are_those_of_a_full_sort(rankers: Rankers):
    block = make_block(USERS, ITEMS)
    ranking = Ranking(rankers, asked_of(block))
    ranking.add(block)
    arrays = rankers.arrays()
    vectors = np.concatenate([arrays[name] for name in sorted(arrays) if name.startswith("vectors-")])
    scores, weights = block.vectors @ vectors.T, poisson_weights(block.keys, 7)
    clicked, seen = (matrix.toarray() > 0 for matrix in (block.clicked, block.seen))
    for view, wanted, able in ((KEPT, clicked, np.ones_like(seen)), (FILTERED, clicked & ~seen, ~seen)):
        best = np.argsort(-np.where(able, scores, -np.inf), axis=1, kind="stable")[:, :5]
        counted = wanted.any(axis=1)
        recall = np.take_along_axis(wanted, best, axis=1).sum(axis=1)[counted] / wanted.sum(axis=1)[counted]
        found = ranking.found.tallies[view, MODEL].statistics()["recall@5"]
        assert found[0] == pytest.approx(recall.mean())
        means = weights[:, counted] @ recall / weights[:, counted].sum(axis=1)
        np.testing.assert_allclose(found[1:], means)
    assert ranking.found.tallies[KEPT, MODEL].users > ranking.found.tallies[FILTERED, MODEL].users > 0


def test_cold_users_count_apart_and_only_where_no_history_is_needed(rankers: Rankers):
    block = make_block(USERS, ITEMS)
    empty = make_block(USERS, ITEMS)
    empty.seen.data[:], empty.positive.data[:] = 0, 0
    ranking = Ranking(rankers, asked_of(block))
    ranking.add(part_of(block, slice(0, 30)))
    warm = Found.unpacked(ranking.found.packed())
    ranking.add_cold(part_of(empty, slice(30, USERS)))
    cold = [name for view, name in ranking.found.tallies if view == COLD]
    assert cold == ["model", "popularity", "popularity_recent"]
    assert ranking.found.cold_users == 10
    assert ranking.found.tallies[COLD, MODEL].users == (block.clicked[30:].sum(axis=1) > 0).sum()
    for key, tally in warm.tallies.items():
        if key[0] != COLD:
            np.testing.assert_array_equal(ranking.found.tallies[key].sums, tally.sums)
    assert ranking.found.digests == warm.digests


def test_digests_tell_users_and_what_they_clicked_apart(rankers: Rankers):
    block = make_block(USERS, ITEMS)

    def digests(changed) -> dict[str, int]:
        ranking = Ranking(rankers, asked_of(block))
        ranking.add(changed)
        return ranking.found.digests

    found = digests(block)
    fewer = digests(part_of(block, slice(1, None)))
    assert all(fewer[name] != found[name] for name in ("users", "relevant"))
    other = make_block(USERS, ITEMS)
    row = int(np.flatnonzero(np.diff(other.clicked.indptr))[0])
    other.clicked.indices[other.clicked.indptr[row]] = next(i for i in range(ITEMS) if not other.clicked[row, i])
    changed = digests(other)
    assert changed["users"] == found["users"]
    assert changed["relevant"] != found["relevant"]


def test_examples_are_users_of_every_activity_with_their_top_unseen_items(rankers: Rankers):
    block = make_block(USERS, ITEMS)
    ranking = Ranking(rankers, asked_of(block, examples=4))
    ranking.add(block)
    examples = [ranking.found.examples[place] for place in range(4)]
    seen = [example.seen for example in examples]
    assert seen == sorted(seen, reverse=True)
    arrays = rankers.arrays()
    vectors = np.concatenate([arrays[name] for name in sorted(arrays) if name.startswith("vectors-")])
    for example in examples:
        row = block.ids.to_pylist().index(example.user)
        known = set(block.seen[row].indices.tolist())
        scores = block.vectors[row] @ vectors.T
        best = [item for item in np.argsort(-scores, kind="stable").tolist() if item not in known][:10]
        assert example.recommended == best
        assert example.scores == pytest.approx(scores[best].tolist(), rel=1e-5)
        assert example.seen == len(known)
        assert example.clicked_seen == [item in known for item in example.clicked]
        assert not all(example.clicked_seen)
    none = Ranking(rankers, asked_of(block, examples=0))
    none.add(block)
    assert none.found.examples == {}


@settings(max_examples=100)
@given(items=st.lists(st.integers(1, 6), min_size=1, max_size=60), seed=st.integers(0, 99))
def test_places_are_by_activity_and_tenths_hold_about_a_tenth(items, seed):
    counts = np.array(items)
    keys = np.random.default_rng(seed).integers(0, 2**62, len(items))
    activity = Activity(*np.unique(counts, return_counts=True))
    places = activity.places(counts, keys)
    assert ((places >= 0) & (places < 1)).all()
    assert (np.diff(counts[np.argsort(places)]) <= 0).all()
    above = {count: (counts > count).mean() for count in items}
    upto = {count: (counts >= count).mean() for count in items}
    for count, place in zip(items, places, strict=True):
        assert above[count] - 1e-12 <= place <= upto[count]
    assert activity.places(np.array([0]), keys[:1])[0] > 0.999  # never counted: behind all


def test_ranges_of_activity():
    assert Activity(np.array([2, 5, 9]), np.array([10, 9, 1])).ranges() == [
        (9, 5), *[(5, 5)] * 4, *[(2, 2)] * 5,
    ]  # fmt: skip
    assert Activity(np.zeros(0, int), np.zeros(0, int)).ranges() == [None] * TENTHS


def test_many_users_make_even_tenths():
    random = np.random.default_rng(5)
    counts = random.integers(1, 4, 20_000)
    places = Activity(*np.unique(counts, return_counts=True)).places(counts, random.integers(0, 2**62, 20_000))
    sizes = np.bincount((places * TENTHS).astype(int), minlength=TENTHS)
    assert np.abs(sizes - 2000).max() < 150
