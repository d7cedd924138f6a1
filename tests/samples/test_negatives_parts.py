"""What negatives are drawn by: uniform numbers, weights, ranges, lists, rankings."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dssm.samples import negatives
from dssm.samples.negatives import (
    Clicked,
    ItemLists,
    ItemSampler,
    item_weights,
    top_ranks,
    uniforms,
    word2vec_keep,
)
from dssm.sections import (
    GroupNegatives,
    PopularityNegatives,
    SuppressedNegatives,
    UnclickedNegatives,
)

CREDIBLE = 1e-4  # of a p-value


def splitmix64(state: int, count: int) -> list[int]:
    """Returns the first numbers of a generator with this state, in plain integers."""
    numbers, mask = [], 2**64 - 1
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        numbers.append(z ^ (z >> 31))
    return numbers


def test_uniforms_are_streams_of_splitmix64() -> None:
    assert splitmix64(1234567, 2) == [6457827717110365317, 3203168211198807973]  # of the published generator
    found = uniforms(7, "popular", 0, np.array([[-5], [12]]), np.arange(4))
    key = hashlib.blake2b(b"7/0/popular", digest_size=8).digest()
    for row, numbers in zip((-5 % 2**64, 12), found, strict=True):
        state = splitmix64((row ^ int.from_bytes(key, "little")) - 0x9E3779B97F4A7C15, 1)[0]  # mixed, not stepped
        assert numbers.tolist() == [(number >> 11) / 2**53 for number in splitmix64(state, 4)]


def test_uniforms_fill_the_unit_square_whatever_changes() -> None:
    rows = np.arange(100_000)
    base = uniforms(1, "a", 0, rows, 0)
    assert base.min() >= 0
    assert base.max() < 1
    others = {
        "draw": uniforms(1, "a", 0, rows, 1),
        "attempt": uniforms(1, "a", 1, rows, 0),
        "seed": uniforms(2, "a", 0, rows, 0),
        "name": uniforms(1, "b", 0, rows, 0),
        "row": uniforms(1, "a", 0, rows + 1, 0),
        "high bit of the row": uniforms(1, "a", 0, rows ^ np.int64(-(2**63)), 0),
        "digits between seed and attempt": uniforms(11, "a", 0, rows, 0),
    }
    for other in others.values():
        counts, _, _ = np.histogram2d(base, other, bins=20, range=[[0, 1], [0, 1]])
        assert stats.chisquare(counts.ravel()).pvalue > CREDIBLE


def test_word2vec_keep() -> None:
    shares = np.array([0, 1e-300, 0.001, 0.00261, 0.004, 0.1, 1])
    expected = [1, 1, 1, 1, 0.75, 0.11, math.sqrt(0.001) + 0.001]
    np.testing.assert_allclose(word2vec_keep(shares, 0.001), expected)
    assert word2vec_keep(np.array([0.00263]), 0.001) < 1  # above (3 + √5)/2 · t


def test_item_weights() -> None:
    popularity = np.array([0, 1, 16, 83])
    np.testing.assert_allclose(item_weights(PopularityNegatives(exponent=0.75), popularity), [0, 1, 8, 83**0.75])
    np.testing.assert_allclose(item_weights(PopularityNegatives(exponent=0), popularity), [0, 1, 1, 1])
    np.testing.assert_allclose(item_weights(PopularityNegatives(exponent=-0.5), popularity), [0, 1, 0.25, 83**-0.5])
    np.testing.assert_allclose(
        item_weights(SuppressedNegatives(threshold=0.04), popularity), [0, 0.01, 0.12, 0.2222], atol=1e-3
    )
    np.testing.assert_allclose(item_weights(SuppressedNegatives(), np.zeros(2)), [0, 0])
    np.testing.assert_allclose(item_weights(GroupNegatives(column="city"), popularity), 1)
    with pytest.raises(ValueError, match="unclicked"):
        item_weights(UnclickedNegatives(), popularity)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 3.0]), st.integers(-1, 2), st.integers(0, 4)), max_size=12))
def test_a_range_holds_what_was_there(items: list[tuple[float, int, int]]) -> None:
    weights, groups, uploads = (np.array([item[n] for item in items]) for n in range(3))
    rows = [(group, time) for group in range(-1, 4) for time in range(-1, 6)]
    grouped = ItemSampler(weights, uploads.astype(np.int64), groups.astype(np.int32))
    begin, end = grouped.ranges(np.array([t for _, t in rows]), np.array([g for g, _ in rows]))
    whole = ItemSampler(weights, uploads.astype(np.int64))
    for (group, time), first, last, all_first, all_last in zip(
        rows, begin, end, *whole.ranges(np.array([t for _, t in rows])), strict=True
    ):
        there = [n for n, (weight, _, upload) in enumerate(items) if weight > 0 and upload <= time]
        assert sorted(whole.items[all_first:all_last]) == there
        assert sorted(grouped.items[first:last]) == [n for n in there if items[n][1] == group >= 0]


@given(
    st.lists(st.sampled_from([0.0, 1e-30, 0.1, 1.0, 7.0, 1e9]), min_size=1, max_size=40),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=30),
)
def test_places_invert_the_running_sum(weights: list[float], numbers: list[float]) -> None:
    """For each prefix, the item found is the one under whose part of the running sum the number falls."""
    sampler = ItemSampler(np.array(weights), np.arange(len(weights)))
    for size in range(1, len(sampler.items) + 1):
        sums = np.cumsum(np.array(weights)[sampler.items][:size])
        uniform = np.array([*numbers, 0.0, np.nextafter(1, 0)])
        ones = np.ones(len(uniform), np.int64)
        places = sampler.places(0 * ones, size * ones, uniform)
        expected = np.searchsorted(sums, uniform * sums[-1], side="right")
        np.testing.assert_array_equal(places, np.minimum(expected, size - 1))


def test_rounding_leads_to_no_neighbour() -> None:
    """1 + (1 − 2⁻⁵³) is 2 in float64, where the next group begins."""
    sampler = ItemSampler(np.ones(3), np.zeros(3, np.int64), np.arange(3))
    begin, end = sampler.ranges(np.zeros(3, np.int64), np.arange(3))
    assert sampler.places(begin, end, np.full(3, np.nextafter(1, 0))).tolist() == [0, 1, 2]


def test_weights_must_be_numbers() -> None:
    for weight in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="at least 0"):
            ItemSampler(np.array([1.0, weight]), np.zeros(2, np.int64))


@pytest.mark.parametrize("size", [1, 3, 2**20 + 1, 2**31 - 1])
def test_the_last_number_below_one_stays_in_the_list(size: int) -> None:
    one = np.ones(1, np.int64)
    lists = ItemLists(np.empty(0, np.int32), one, one)
    assert lists.places(one, one + size, np.array([np.nextafter(1, 0)])) == size
    assert lists.places(one, one + size, np.array([0.0])) == 1


def test_clicked() -> None:
    clicked = Clicked(np.array([2, 0, 2, 2]), np.array([1, 3, 0, -1]), catalogue_size=4)
    found = clicked.contains(np.array([[0], [1], [2], [3]]), np.array([[-1, 0, 1, 2, 3]] * 4))
    assert np.argwhere(found).tolist() == [[0, 4], [2, 1], [2, 2]]
    nothing = Clicked(np.empty(0, np.int64), np.empty(0, np.int32), catalogue_size=4)
    assert not nothing.contains(np.array([0, 5]), np.array([0, -1])).any()
    with pytest.raises(ValueError, match="not hashes"):
        Clicked(np.array([2**62]), np.array([0]), catalogue_size=4)


# Rankings --------------------------------------------------------------------------------------------


def ranked_by_hand(query: Sequence[float], vectors: Sequence[Sequence[float]], items: Sequence[int]) -> list[int]:
    score = {item: sum(q * v for q, v in zip(query, vectors[item], strict=True)) for item in items}
    return sorted(items, key=lambda item: (-score[item], item))


SMALL = st.integers(-3, 3)


@settings(deadline=None)
@given(st.data())
def test_top_ranks_are_those_of_a_sort(data: st.DataObject) -> None:
    width, size = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 12))
    vector = st.lists(SMALL, min_size=width, max_size=width)
    vectors = data.draw(st.lists(vector, min_size=size, max_size=size))
    queries = data.draw(st.lists(vector, min_size=1, max_size=5))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    first = data.draw(st.integers(1, 14))
    last = data.draw(st.integers(first, 15))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(negatives, "SCORES_AT_ONCE", data.draw(st.integers(1, 40)))
        found = top_ranks(np.float32(queries), np.float32(vectors), (first, last), mask)
    assert found.shape == (len(queries), last - first + 1)
    for query, ranked in zip(queries, found.tolist(), strict=True):
        expected = ranked_by_hand(query, vectors, np.flatnonzero(mask).tolist())[first - 1 : last]
        assert ranked == expected + [-1] * (len(ranked) - len(expected))


def test_top_ranks_do_not_depend_on_the_queries_beside() -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((3000, 100)).astype(np.float32)
    vectors[1::2] = vectors[::2] * np.float32(1 + 2**-23)  # pairs that only the last bit tells apart
    queries = random.standard_normal((37, 100)).astype(np.float32)
    together = top_ranks(queries, vectors, (1, 3000))
    alone = np.concatenate([top_ranks(query[None], vectors, (1, 3000)) for query in queries])
    np.testing.assert_array_equal(alone, together)
    np.testing.assert_array_equal(top_ranks(1e-20 * queries, vectors, (5, 9)), together[:, 4:9])
    exact = vectors.astype(np.float64) @ queries.astype(np.float64).T
    lost = exact.T[np.arange(37)[:, None], together]
    assert np.diff(lost, axis=1).max() < 1e-5  # in order, but for what rounding to 23 bits makes equal


@pytest.mark.parametrize("width", [1, 2, 64, 100, 128, 768, 5000])
def test_inner_products_of_whole_numbers_are_exact(width: int) -> None:
    random = np.random.default_rng(width)
    vectors = np.vstack([np.full(width, 1.99999), random.standard_normal((3, width))]).astype(np.float32)
    for axis in (None, 1):
        whole = negatives._whole_numbers(vectors, axis)
        scale = whole / vectors
        assert width * int(np.abs(whole).max()) ** 2 <= 2**53
        assert whole.max() > 2**19
        np.testing.assert_array_equal(whole, np.rint(whole))
        np.testing.assert_allclose(scale[0], scale[0, 0])


def test_top_ranks_of_nothing() -> None:
    assert top_ranks(np.empty((0, 4), np.float32), np.ones((3, 4), np.float32), (1, 2)).shape == (0, 2)
    assert top_ranks(np.ones((1, 4), np.float32), np.empty((0, 4), np.float32), (1, 2)).tolist() == [[-1, -1]]
    with pytest.raises(ValueError, match="finite"):
        top_ranks(np.full((1, 2), np.nan, np.float32), np.ones((3, 2), np.float32), (1, 2))
