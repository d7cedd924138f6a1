from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.model.frequency import ItemFrequency
from dssm.sections.losses import StreamingFrequency
from tests.model.loss_reference import StreamingFrequency as Reference

keys = st.one_of(st.integers(1, 6), st.integers(-(2**63), 2**63 - 1))
streams = st.lists(st.lists(keys, max_size=6), max_size=8)


def estimate_of(**settings: float) -> ItemFrequency:
    return ItemFrequency(StreamingFrequency(**{"buckets": 64, **settings}))


def after(steps: list[list[int]], **settings: float) -> ItemFrequency:
    frequency = estimate_of(**settings)
    for items in steps:
        frequency.update(tf.constant(items, tf.int64))
    return frequency


def state(frequency: ItemFrequency) -> list[np.ndarray]:
    return [variable.numpy() for variable in (frequency.step, frequency.last_seen, frequency.gap)]


def appearances(frequency: ItemFrequency, *items: int) -> np.ndarray:
    return frequency.appearances(tf.constant(items, tf.int64)).numpy()


@settings(max_examples=40, deadline=None)
@given(
    steps=streams,
    rate=st.sampled_from([0.01, 0.3, 1.0]),
    initial_gap=st.sampled_from([0.5, 10.0, 1e9]),
    buckets=st.sampled_from([1, 3, 64, 5000]),
    hashes=st.integers(1, 4),
)
def test_the_estimate_is_that_of_the_algorithm_in_whole_numbers(steps, rate, initial_gap, buckets, hashes):
    frequency = after(steps, rate=rate, initial_gap=initial_gap, buckets=buckets, hashes=hashes)
    expected = Reference(rate, initial_gap, buckets, frequency.multipliers)
    for items in steps:
        expected.update(items)
    asked = sorted({item for items in steps for item in items} | {77, -(2**63)})
    found = appearances(frequency, *asked)
    np.testing.assert_allclose(found, [expected.appearances(item) for item in asked], rtol=1e-4)
    assert (found > 0).all()
    assert (found <= 1).all()


def test_literal_gaps():
    frequency = after([[5], [], [5, 5, 9], [9], [5]], rate=0.5, initial_gap=8.0, buckets=5000)
    # Of 5: 8 at first, then ½·8 + ½·2 = 5, then ½·5 + ½·2 = 3.5. Of 9: ½·8 + ½·1 = 4.5.
    np.testing.assert_allclose(appearances(frequency, 5, 9, 4), [1 / 3.5, 1 / 4.5, 1 / 8], rtol=1e-6)
    assert frequency.step.numpy() == 5


def test_no_item_is_rarer_than_a_billionth_or_more_frequent_than_every_step():
    assert appearances(after([[1], [1]], rate=1.0, initial_gap=1e300), 1, 2).tolist() == [1, np.float32(1e-9)]
    assert appearances(after([[1]], initial_gap=1e-3), 1).tolist() == [1]
    assert appearances(after([]), 1).tolist() == [np.float32(1 / 100)]


def test_the_first_gap_of_a_late_item_is_not_counted_from_the_start():
    frequency = after([[1]] * 40 + [[2]], rate=0.5, initial_gap=20.0)
    np.testing.assert_allclose(appearances(frequency, 1, 2), [1, 1 / 20], rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(steps=streams, ranks=st.integers(1, 4), seed=st.integers(0, 99))
def test_the_ranks_joined_batches_give_the_state_of_one_process(steps, ranks, seed):
    """However the items lie on the ranks, and in whatever order they are gathered."""
    random = np.random.default_rng(seed)
    joined = []
    for items in steps:
        of_rank = np.array_split(random.permutation(np.array(items + items[:2], np.int64)), ranks)
        joined.append(np.concatenate([of_rank[rank] for rank in random.permutation(ranks)]).tolist())
    for found, expected in zip(state(after(joined)), state(after(steps)), strict=True):
        np.testing.assert_array_equal(found, expected)


@settings(max_examples=15, deadline=None)
@given(steps=streams, item=keys)
def test_a_further_hash_function_never_makes_an_item_more_frequent(steps, item):
    by_hashes = [float(appearances(after(steps, buckets=2, hashes=n), item)[0]) for n in (1, 2, 4)]
    assert by_hashes == sorted(by_hashes, reverse=True)


def zipf_stream(items: int, rows: int, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps' items, 1…items, (steps, rows); and each item's chance to appear in a step, (items,)."""
    share = 1 / np.arange(1, items + 1)
    share /= share.sum()
    drawn = np.random.default_rng(seed).choice(np.arange(1, items + 1), (steps, rows), p=share)
    return drawn, 1 - (1 - share) ** rows


def run(frequencies: list[ItemFrequency], drawn: np.ndarray, averaged: int) -> np.ndarray:
    """Updates the estimates with all steps; returns the mean gap of items 1… over the last steps, (estimates, items).

    As one graph: step by step it takes ten times as long.
    """
    asked = tf.range(1, drawn.max() + 1, dtype=tf.int64)
    steps = tf.constant(drawn)

    @tf.function
    def all_steps() -> tf.Tensor:
        total = tf.zeros((len(frequencies), drawn.max()))
        for step in tf.range(len(drawn)):
            for frequency in frequencies:
                frequency.update(steps[step])
            if step >= len(drawn) - averaged:
                total += tf.stack([1 / frequency.appearances(asked) for frequency in frequencies])
        return total / averaged

    return all_steps().numpy()


def test_it_converges_to_the_chance_of_each_item_of_a_zipf_stream():
    """Whatever the rate: its mean over 6,000 steps, and what the last estimates deviate from the truth by."""
    rates = [0.02, 0.05, 0.2]
    drawn, chance = zipf_stream(items=20, rows=4, steps=12_000, seed=3)
    assert chance.min() < 0.06
    assert chance.max() > 0.7
    frequencies = [estimate_of(rate=rate, buckets=5000) for rate in rates]
    mean_gaps = run(frequencies, drawn, averaged=6000)
    for rate, frequency, gaps in zip(rates, frequencies, mean_gaps, strict=True):
        standard_errors = np.sqrt((1 - chance) / (6000 * chance))  # of a mean of so many geometric gaps
        assert (np.abs(gaps * chance - 1) < 4 * standard_errors).all()
        assert (gaps * chance).mean() == pytest.approx(1, abs=0.03)
        errors = 1 / appearances(frequency, *range(1, 21)) * chance - 1
        expected = np.sqrt(rate / (2 - rate) * (1 - chance).mean())  # a gap's relative variance is 1 − p
        assert 0.5 * expected < np.sqrt((errors**2).mean()) < 1.7 * expected


def test_shared_buckets_make_items_more_frequent_and_more_hash_functions_less_so():
    drawn, chance = zipf_stream(items=24, rows=3, steps=8000, seed=4)
    frequencies = [estimate_of(rate=0.05, buckets=16, hashes=n) for n in (1, 2, 4)]
    one, two, four = 1 / run(frequencies, drawn, averaged=6000) / chance
    assert min(one.min(), two.min(), four.min()) > 0.85  # never rarer than they are, but for the estimate's noise
    assert one.mean() > 1.3 * four.mean()
    assert one.mean() > two.mean() > four.mean()


def test_hash_functions_spread_keys_evenly_and_independently():
    random = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 20_000)
    frequency = estimate_of(buckets=100, hashes=2)
    first, second = frequency._places(tf.constant(random))[..., 1].numpy()
    for buckets, number in ((first, 100), (second, 100), (first * 100 + second, 10_000)):
        counts = np.bincount(buckets, minlength=number)
        assert len(counts) == number
        deviation = ((counts - counts.mean()) ** 2).sum() / counts.mean()  # χ² with number − 1 degrees of freedom
        assert abs(deviation - number) < 5 * np.sqrt(2 * number)


def test_the_hash_functions_are_the_same_in_every_process_and_for_any_number():
    multipliers = estimate_of(hashes=3).multipliers
    assert multipliers.tolist() == [5857645148978988075, 14719997280833369599, 16218901029274378637]
    assert estimate_of(hashes=1).multipliers.tolist() == multipliers[:1].tolist()
    other = ItemFrequency(StreamingFrequency(hashes=3), seed=1).multipliers
    assert not set(other.tolist()) & set(multipliers.tolist())
    assert (np.concatenate([multipliers, other]) % 2 == 1).all()


def test_the_state_goes_into_a_checkpoint(tmp_path: Path):
    steps = [[1, 2], [2], [1, 3]]
    path = tf.train.Checkpoint(frequency=after(steps)).save(str(tmp_path / "model"))
    restored = estimate_of()
    tf.train.Checkpoint(frequency=restored).restore(path).assert_consumed()
    for found, expected in zip(state(restored), state(after(steps)), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert restored.trainable_variables == ()
    assert len(restored.variables) == 3


def test_a_compiled_step_reads_what_it_has_just_written():
    frequency = estimate_of(rate=1.0, initial_gap=7.0)

    @tf.function
    def step(items: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        before = frequency.appearances(items)
        frequency.update(items)
        return before, frequency.appearances(items)

    item = tf.constant([3], tf.int64)
    np.testing.assert_allclose([float(value[0]) for value in step(item)], [1 / 7, 1 / 7], rtol=1e-6)
    np.testing.assert_allclose([float(value[0]) for value in step(item)], [1 / 7, 1], rtol=1e-6)
