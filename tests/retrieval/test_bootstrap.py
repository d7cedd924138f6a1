from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.retrieval.bootstrap import difference, interval, poisson_weights

KEYS = np.random.default_rng(0).integers(-(2**63), 2**63, 3000)


def test_weights_are_those_of_a_poisson_distribution():
    weights = poisson_weights(KEYS, 200)
    assert weights.shape == (200, len(KEYS))
    for count in range(6):
        expected = math.exp(-1) / math.factorial(count)
        assert (weights == count).mean() == pytest.approx(expected, rel=0.05), count
    assert weights.mean() == pytest.approx(1, abs=0.005)
    assert weights.var() == pytest.approx(1, abs=0.01)


def test_weights_of_users_and_of_replicates_are_not_related():
    weights = poisson_weights(KEYS[:200], 1000)
    between_users = np.corrcoef(weights.T)[np.triu_indices(200, 1)]
    between_replicates = np.corrcoef(weights[:200])[np.triu_indices(200, 1)]
    assert np.abs(between_users).max() < 0.2  # of 1,000 pairs each: six deviations
    assert np.abs(between_replicates).max() < 0.45
    assert between_users.std() == pytest.approx(1 / math.sqrt(1000), rel=0.1)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20), st.integers(0, 20))
def test_a_weight_is_a_hash_of_user_and_replicate(keys, cut):
    """It depends neither on the users beside, nor on how many replicates there are."""
    whole = poisson_weights(np.array(keys), 5)
    parts = [poisson_weights(np.array(part, np.int64), 3) for part in (keys[:cut], keys[cut:])]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole[:3])


def test_the_interval_holds_the_mean_as_often_as_it_says():
    """Of 200 samples of 400 users each, 95 % of the intervals hold the true mean."""
    random = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        values = random.exponential(size=400)
        weights = poisson_weights(random.integers(0, 2**62, 400), 400)
        low, high = interval(weights @ values / weights.sum(axis=1))
        held += low < 1.0 < high
    assert 180 <= held <= 199


def test_a_literal_interval():
    replicates = np.stack([np.arange(1001.0), np.full(1001, np.nan), np.arange(1001.0)], axis=1)
    replicates[:1000:2, 2] = np.nan  # the odd ones and 1000 are left
    low, high = interval(replicates)
    assert (low[0], high[0]) == (pytest.approx(25), pytest.approx(975))
    assert np.isnan([low[1], high[1]]).all()
    assert (low[2], high[2]) == (pytest.approx(26), pytest.approx(976))
    assert np.isnan(interval(np.zeros((0, 2)))).all()


def test_a_literal_difference():
    first = np.concatenate([[0.5], np.full(99, 0.5)])
    other = np.concatenate([[0.6], np.full(96, 0.6), [0.5, 0.4, 0.4]])
    found = difference(first, other)
    assert found.value == pytest.approx(0.1)
    assert found.p == pytest.approx(2 * (3 + 1) / 100)  # three are at or below 0
    assert found.low == pytest.approx(np.quantile(other[1:] - 0.5, 0.025))
    assert difference(other, first).p == found.p
    assert difference(first, first).p == 1.0
    sure = difference(first, first + 0.1)
    assert (sure.p, sure.low) == (pytest.approx(2 / 100), pytest.approx(0.1))


def test_a_difference_without_replicates_is_a_number_alone():
    found = difference(np.array([0.5]), np.array([0.25]))
    assert found.value == -0.25
    assert np.isnan([found.low, found.high, found.p]).all()


def test_p_is_uniform_where_there_is_no_difference():
    """Paired values of the same mean: p is below 0.05 in about 5 % of the trials, and below a half in half of them."""
    random = np.random.default_rng(2)
    found = []
    for _ in range(300):
        both = random.normal(size=(2, 200)) + random.normal(size=200)  # what both share cancels out
        weights = np.concatenate([np.ones((1, 200)), poisson_weights(random.integers(0, 2**62, 200), 200)])
        first, other = (weights @ values / weights.sum(axis=1) for values in both)
        found.append(difference(first, other).p)
    assert 0.015 < np.mean(np.array(found) < 0.05) < 0.1
    assert 0.4 < np.mean(np.array(found) < 0.5) < 0.6
