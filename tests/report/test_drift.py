from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.report.drift import (
    bucket_tenths,
    chance_level,
    compared,
    counted,
    frequency_buckets,
    id_drift,
    number_drift,
    spread,
    stability_index,
    tenths,
)
from dssm.report.figures import Drift, TokenCounts

counts = st.lists(st.integers(0, 1000), min_size=2, max_size=12)


def test_the_index_of_a_worked_example() -> None:
    before, after = np.array([4999.5, 4999.5]), np.array([7499.5, 2499.5])  # with half a row each: 1/2, 1/2; 3/4, 1/4
    expected = 0.25 * np.log(1.5) - 0.25 * np.log(0.5)
    assert stability_index(before, after).sum() == pytest.approx(expected)


@given(st.tuples(counts, counts).filter(lambda both: len(both[0]) == len(both[1])))
def test_the_index_is_never_negative_and_symmetric(both: tuple[list[int], list[int]]) -> None:
    before, after = map(np.array, both)
    parts = stability_index(before, after)
    assert (parts >= 0).all()
    assert np.isfinite(parts).all()
    assert parts.sum() == pytest.approx(stability_index(after, before).sum())
    assert stability_index(before, before).sum() == 0


def test_the_chance_level_is_exceeded_in_one_of_twenty_cases() -> None:
    random, shares = np.random.default_rng(0), np.array([0.4, 0.3, 0.2, 0.1])
    drawn = [(random.multinomial(3000, shares), random.multinomial(5000, shares)) for _ in range(4000)]
    above = np.mean([stability_index(*both).sum() > chance_level(3000, 5000, 4) for both in drawn])
    assert above == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize(
    ("psi", "verdict"), [(0.02, "within chance"), (0.09, "stable"), (0.2, "moderate"), (0.25, "large")]
)
def test_the_usual_reading(psi: float, verdict: str) -> None:
    drift = Drift(feature="f", measure="ids", part="test", psi=psi, chance=0.05, moved="")
    assert drift.verdict == verdict


def test_what_moved_most_is_told() -> None:
    drift = compared("age", "bucket", "test", ["young", "old"], np.array([900, 100]), np.array([500, 500]))
    assert drift.moved == "old: 10.0 % → 50.0 %"
    assert drift.verdict == "large"


# Ids ---------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(20, 500), min_size=1, max_size=60).map(lambda c: sorted(c, reverse=True)))
def test_ids_of_about_a_tenth_of_the_entries_share_a_bucket(found: list[int]) -> None:
    bucket = frequency_buckets(np.array(found))
    assert (np.diff(bucket) >= 0).all()
    assert bucket[-1] <= 9
    sums = np.bincount(bucket, found)
    largest = np.array([max(np.array(found)[bucket == place], default=0) for place in range(len(sums))])
    assert (sums <= sum(found) / 10 + largest).all()


def test_ids_are_compared_by_their_words() -> None:
    before = TokenCounts(tokens=["a", "b", "c"], counts=[50, 30, 5], others=5, unknown=10)
    same = id_drift("f", "train", before, np.array([500, 300, 50]), total=1000, unknown=100)
    assert same.psi < 0.002
    moved = id_drift("f", "train", before, np.array([500, 0, 350]), total=1000, unknown=100)
    assert moved.psi > 0.5
    assert moved.moved in ("b: 30.0 % → 0 %", "rarer or new ids: 10.0 % → 40.0 %")


def test_unknown_ids_are_a_bucket_of_their_own() -> None:
    before = TokenCounts(tokens=["a"], counts=[900], others=0, unknown=100)
    drift = id_drift("f", "test", before, np.array([500]), total=1000, unknown=500)
    assert drift.moved == "unknown: 10.0 % → 50.0 %"


def test_ids_that_are_only_rare_make_no_false_alarm() -> None:
    random = np.random.default_rng(3)
    popularity = 1 / np.arange(1, 2001)
    first, second = (random.multinomial(1000, popularity / popularity.sum()) for _ in range(2))
    order = np.argsort(-first, kind="stable")[:500]
    order = order[first[order] > 0]
    tokens = [str(place) for place in order]
    before = TokenCounts(tokens=tokens, counts=first[order].tolist(), others=0, unknown=0)
    before = before.model_copy(update={"others": 1000 - sum(before.counts)})
    assert id_drift("f", "test", before, second[order], total=1000, unknown=0).psi < 0.1


# Numbers -----------------------------------------------------------------------------------------------


def test_bins_of_distinct_numbers_hold_a_tenth_each() -> None:
    bins = tenths(np.arange(1, 101), np.ones(100))
    assert bins.edges == [11, 21, 31, 41, 51, 61, 71, 81, 91]
    assert bins.counts == [10.0] * 10


def test_a_number_that_is_mostly_zero_has_a_bin_for_it() -> None:
    bins = tenths(np.array([0.0] * 60 + [1.0, 2.0, 3.0, 4.0] * 10), np.ones(100))
    assert bins.edges == [1.0, 2.0, 3.0, 4.0]
    assert bins.counts == [60.0, 10.0, 10.0, 10.0, 10.0]


@given(
    values=st.lists(st.integers(-20, 20), max_size=80), edges=st.lists(st.integers(-20, 20), unique=True).map(sorted)
)
def test_every_number_is_in_one_bin(values: list[int], edges: list[float]) -> None:
    found = counted(np.array(values, np.float64), np.ones(len(values)), edges)
    assert len(found) == len(edges) + 1
    assert found.tolist() == [
        sum(sum(edge <= value for edge in edges) == place for value in values) for place in range(len(edges) + 1)
    ]


def test_no_rows_have_one_bin() -> None:
    assert tenths(np.arange(4), np.zeros(4)).model_dump() == {"edges": [], "counts": [0.0]}
    assert tenths(np.zeros(0), np.zeros(0)).model_dump() == {"edges": [], "counts": [0.0]}


def test_numbers_that_move_are_seen_and_others_are_not() -> None:
    random = np.random.default_rng(5)
    before = tenths(random.normal(size=20_000), np.ones(20_000))
    same, moved = random.normal(size=20_000), random.normal(0.8, size=20_000)
    assert number_drift("f", "number", "test", before, same, np.ones(20_000)).psi < 0.005
    assert number_drift("f", "number", "test", before, moved, np.ones(20_000)).verdict == "large"


def test_buckets_whose_boundaries_move_are_compared_as_numbers() -> None:
    """Quantiles of the same numbers by other boundaries are no drift; the same shares of other numbers are one."""
    random = np.random.default_rng(7)
    values = random.uniform(0, 100, 50_000)

    def shares(values: np.ndarray, boundaries: list[float]) -> np.ndarray:
        return counted(values, np.ones(len(values)), boundaries)

    before = bucket_tenths(shares(values, [20, 40, 60, 80]), [20, 40, 60, 80])
    regrouped = spread(shares(values, [25, 50, 75]), [25, 50, 75])
    assert number_drift("f", "bucket", "train", before, *regrouped).psi < 0.001
    doubled = spread(shares(2 * values, [40, 80, 120, 160]), [40, 80, 120, 160])
    assert number_drift("f", "bucket", "train", before, *doubled).verdict == "large"


@given(st.lists(st.integers(0, 100), min_size=2, max_size=30))
def test_equal_boundaries_compare_bucket_by_bucket(found: list[int]) -> None:
    boundaries = [float(place**2) for place in range(len(found) - 1)]
    bins = bucket_tenths(np.array(found), boundaries)
    assert set(bins.edges) <= set(boundaries)
    assert sum(bins.counts) == pytest.approx(sum(found))
    place = np.searchsorted(bins.edges, [-np.inf, *boundaries], side="right")
    assert bins.counts == pytest.approx(np.bincount(place, found, len(bins.edges) + 1).tolist())
