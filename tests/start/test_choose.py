from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis.strategies import booleans, dictionaries, integers

from dssm.start.choose import Sizes, Windows, by_day, estimated, least_count, sizes, span, windows

FIRST = dt.date(2024, 1, 1)


def day(number: int) -> dt.date:
    return FIRST + dt.timedelta(number)


def test_the_test_has_the_last_tenth_of_the_days() -> None:
    positives = {day(number): 10 for number in range(35)}
    assert windows(day(0), day(34), positives, False) == Windows(day(32), 32, 3, 320, True)
    assert windows(day(0), day(6), positives, False) == Windows(day(6), 6, 1, 60, True)
    in_folders = windows(day(0), day(99), {day(number): 1 for number in range(100)}, True)
    assert in_folders == Windows(day(97), 30, 3, 30, True)


def test_of_folders_no_more_days_are_tested_the_longer_the_log_is() -> None:
    every = {day(number): 1 for number in range(1000)}
    assert windows(day(0), day(999), every, True) == Windows(day(997), 30, 3, 30, True)
    assert windows(day(0), day(19), every, True) == Windows(day(18), 18, 2, 18, True)
    # The newest positive is tested all the same.
    assert windows(day(0), day(999), {day(900): 1, day(899): 7}, True) == Windows(day(900), 30, 100, 7, True)


def test_days_that_were_not_read_have_as_many_positives_as_the_others() -> None:
    """Of 100 folders of days every 33rd is read, as of a large log."""
    rows = {day(number): 50 for number in (0, 33, 66, 99)}
    positives = {day(number): 20 for number in (0, 33, 66, 99)}
    made = estimated(day(0), day(99), rows, positives, 25)
    assert made == {day(number): 20 for number in range(100)}
    assert windows(day(0), day(99), made, True) == Windows(day(97), 30, 3, 600, True)
    # Read from the days as they are, none of the train days would have a positive.
    assert windows(day(0), day(99), positives, True) == Windows(day(97), 30, 3, 0, False)


def test_a_day_read_without_a_positive_has_none_and_the_sum_is_the_whole_logs() -> None:
    made = estimated(day(0), day(5), {day(0): 9, day(3): 9, day(5): 9}, {day(0): 4, day(3): 6, day(9): 50}, 2)
    assert made == {day(number): 4 for number in range(5)}
    assert windows(day(0), day(5), made, True) == Windows(day(4), 4, 2, 16, True)
    # Each day in part: a third of its files.
    every = {day(number): 7 for number in range(3)}
    assert estimated(day(0), day(2), every, every, 3) == {day(number): 21 for number in range(3)}
    assert windows(day(0), day(9), estimated(day(0), day(9), {day(0): 1}, {}, 9), True).can_train is False


def test_the_test_has_a_positive_where_one_is_left_for_training() -> None:
    assert windows(day(0), day(9), {day(2): 4, day(5): 1}, False) == Windows(day(5), 5, 5, 4, True)
    assert windows(day(0), day(9), {}, False) == Windows(day(9), 9, 1, 0, False)
    assert windows(day(3), day(3), {day(3): 9}, False) == Windows(day(3), 1, 1, 0, False)


@given(dictionaries(integers(0, 5000), integers(1, 9), min_size=1), booleans())
def test_windows_are_of_the_settings_and_within_the_log(counts: dict[int, int], in_folders: bool) -> None:
    positives = {day(number): count for number, count in counts.items()}
    first, last = min(positives), max(positives)
    made = windows(first, last, positives, in_folders)
    assert made.train_days >= 1
    assert made.train_days <= 3660
    assert made.date + dt.timedelta(made.test_days - 1) == last
    assert made.date - dt.timedelta(made.train_days) >= first or first == last


def test_days_begin_at_midnight_of_the_zone_and_strays_are_left_out() -> None:
    assert by_day({15: 1, 16: 2, 40: 4}, 480) == {
        dt.date(1970, 1, 1): 1,
        dt.date(1970, 1, 2): 2,
        dt.date(1970, 1, 3): 4,
    }
    assert by_day({4: 1, 5: 1}, -300) == {dt.date(1969, 12, 31): 1, dt.date(1970, 1, 1): 1}
    assert span({day(0): 1, day(50): 999, day(51): 1000, day(9000): 1}) == (day(50), day(51))
    assert span({day(0): 1, day(3): 1}) == (day(0), day(3))


@pytest.mark.parametrize(
    ("positives", "expected"),
    [
        (0, Sizes(1, 32, 20)), (690, Sizes(1, 32, 20)), (10_000, Sizes(1, 64, 7)), (93_755, Sizes(1, 512, 6)),
        (10**6, Sizes(2, 1024, 3)), (10**9, Sizes(2, 1024, 3)),
    ],
)  # fmt: skip
def test_sizes(positives: int, expected: Sizes) -> None:
    assert sizes(positives) == expected


@given(integers(3200, 10**9))
def test_an_epoch_has_a_hundred_steps(positives: int) -> None:
    made = sizes(positives)
    assert positives // (made.batch_size * made.ranks) >= 100
    assert made.batch_size in (32, 64, 128, 256, 512, 1024)


def test_users_of_a_small_log_are_known() -> None:
    assert [least_count(count, 100) for count in (0, 690, 800, 1300, 10**6)] == [1, 1, 2, 3, 5]
    assert least_count(5, 0) == 1
