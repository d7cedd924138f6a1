from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.report.counting import DistinctCount, IdCounts, Moments, RowSample

batches = st.lists(st.lists(st.integers(0, 9), max_size=30), max_size=6)


@given(batches)
def test_few_keys_are_counted_exactly(keys: list[list[int]]) -> None:
    count = DistinctCount()
    for batch in keys:
        count.add(np.array(batch, np.int64) - 5)
    assert count.is_exact
    assert count.count == len({key for batch in keys for key in batch})


@pytest.mark.parametrize("distinct", [5_000, 80_000])
def test_many_keys_are_estimated(distinct: int) -> None:
    random = np.random.default_rng(distinct)
    hashes = random.integers(-(2**63), 2**63, distinct, dtype=np.int64)
    count = DistinctCount(kept=4096)
    for batch in np.array_split(np.concatenate([hashes, hashes]), 7):
        count.add(batch)
    assert not count.is_exact
    assert count.count == pytest.approx(distinct, rel=5 / np.sqrt(4096))  # five deviations


@given(keys=batches, size=st.sampled_from([10, 5_000]))
def test_ids_are_counted_in_small_and_large_vocabularies(keys: list[list[int]], size: int) -> None:
    counts = IdCounts(size)
    for batch in keys:
        counts.add(np.array(batch, np.int32).reshape(-1, 1))
    every = [key for batch in keys for key in batch]
    assert counts.counts.tolist() == [every.count(place) for place in range(size)]


def test_an_id_beyond_the_vocabulary_is_a_defect() -> None:
    with pytest.raises(ValueError, match="ids 1 to 3, expected 0 to 2"):
        IdCounts(3).add(np.array([1, 3]))


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=0, max_size=20), min_size=1, max_size=5))
def test_moments_are_those_of_all_batches_together(values: list[list[float]]) -> None:
    moments, every = Moments(), np.array([value for batch in values for value in batch])
    for batch in values:
        moments.add(np.array(batch))
    assert moments.count == len(every)
    if len(every):
        assert moments.mean == pytest.approx(every.mean(), rel=1e-9, abs=1e-6)
        assert moments.deviation == pytest.approx(every.std(), rel=1e-6, abs=1e-4)
        assert (moments.minimum, moments.maximum) == (every.min(), every.max())


@given(rows=st.lists(st.integers(0, 40), max_size=8), size=st.integers(1, 60))
def test_a_sample_holds_rows_that_were_there_each_once(rows: list[int], size: int) -> None:
    sample, start = RowSample(size, seed=1), 0
    for count in rows:
        values = np.arange(start, start + count)
        sample.add({"value": values, "double": 2 * values})
        start += count
    kept = sample.values.get("value", np.zeros(0))
    assert len(set(kept.tolist())) == len(kept) == min(size, start)
    if rows:
        assert (sample.values["double"] == 2 * kept).all()
    if start <= size:
        assert sorted(kept.tolist()) == list(range(start))


def test_every_row_is_as_likely_in_a_sample() -> None:
    drawn = np.zeros(100)
    for seed in range(400):
        sample = RowSample(20, seed)
        for batch in np.split(np.arange(100), [10, 15, 60]):
            sample.add({"value": batch})
        drawn[sample.values["value"]] += 1
    assert drawn.mean() == 80
    assert abs(drawn - 80).max() < 5 * np.sqrt(400 * 0.2 * 0.8)
