"""What negatives are drawn from: weights, ranges of the catalogue, lists."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.samples.candidates import ItemLists, ItemSampler, item_weights, word2vec_keep
from dssm.sections import GroupNegatives, Negatives, PopularityNegatives, SuppressedNegatives, UnclickedNegatives
from tests.samples.test_negatives import KINDS


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


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_negatives_are_drawn_from_lists_or_have_weights(kind: Negatives) -> None:
    with pytest.raises(ValueError, match=kind.kind) if kind.from_lists else contextlib.nullcontext():
        assert len(item_weights(kind, np.array([1, 2]))) == 2


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
