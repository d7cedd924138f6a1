"""What lies before a moment, against a look at every event."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.samples.ragged import Lists
from dssm.samples.timeline import Clock, Entries, Moments, appended, group_runs, newest_first, sorted_places


class Event(NamedTuple):
    user: int
    time: int
    item: int


Moment = tuple[int, int]  # user, time


def before(
    events: list[Event],
    moments: list[Moment],
    last: int | None = None,
    span_ms: int | None = None,
    inclusive: bool = False,
) -> list[list[int]]:
    """Returns the items before each moment, newest first, as the user pass asks for them."""
    columns = np.array(events, np.int64).reshape(-1, 3)
    asked = np.array(moments, np.int64).reshape(-1, 2)
    clock = Clock.over(10, columns[:, 1], asked[:, 1])
    keys = clock.key(columns[:, 0], columns[:, 1])
    order = np.argsort(keys, kind="stable")
    entries = Entries(clock, keys[order])
    begin, end = entries.before(Moments(asked[:, 0], asked[:, 1]), last, span_ms, inclusive)
    return as_python(newest_first(columns[order, 2], begin, end))


def as_python(lists: Lists) -> list[list[int]]:
    return [lists.values[begin:end].tolist() for begin, end in pairwise(lists.offsets)]


def test_only_what_is_strictly_before_newest_first() -> None:
    events = [Event(0, 1, 7), Event(0, 2, 8), Event(0, 2, 9), Event(0, 3, 7), Event(1, 3, 5)]
    moments = [(user, time) for user, time, _ in events]
    assert before(events, moments) == [[], [7], [7], [9, 8, 7], []]  # the two at 2 do not see each other
    assert before(events, moments, last=1) == [[], [7], [7], [9], []]
    assert before(events, moments, inclusive=True) == [[7], [9, 8, 7], [9, 8, 7], [7, 9, 8, 7], [5]]


def test_a_span_holds_what_is_exactly_as_old() -> None:
    events = [Event(0, 10, 1), Event(0, 11, 2), Event(0, 20, 3)]
    assert before(events, [(0, 20), (0, 21), (0, 22)], span_ms=10) == [[2, 1], [3, 2], [3]]


def test_a_span_never_reaches_the_user_before() -> None:
    """User 0's last event lies just before user 1's first on the common clock."""
    assert before([Event(0, 100, 1), Event(1, 0, 2)], [(1, 1), (1, 0)], span_ms=10**6) == [[2], []]


def test_a_moment_of_a_user_without_events() -> None:
    assert before([Event(0, 5, 1), Event(2, 5, 3)], [(1, 9), (2, 9), (3, 9)]) == [[], [3], []]


@given(
    events=st.lists(st.builds(Event, st.integers(0, 3), st.integers(0, 12), st.integers(0, 9)), max_size=30),
    moments=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 13)), max_size=20),
    last=st.none() | st.integers(1, 5),
    span_ms=st.none() | st.integers(1, 15),
    inclusive=st.booleans(),
)
def test_equals_a_look_at_every_event(
    events: list[Event], moments: list[Moment], last: int | None, span_ms: int | None, inclusive: bool
) -> None:
    in_order = sorted(events, key=lambda event: event.time)
    expected = []
    for user, time in moments:
        mine = [event for event in in_order if event.user == user]
        known = [e for e in mine if e.time < time or (inclusive and e.time == time)]
        recent = [e for e in known if span_ms is None or e.time >= time - span_ms]
        expected.append([event.item for event in recent[::-1]][:last])
    assert before(events, moments, last, span_ms, inclusive) == expected


def lists_of(values: list[list[int]]) -> Lists:
    offsets = np.cumsum([0, *map(len, values)])
    return Lists(offsets, np.array([value for entries in values for value in entries], np.int32))


rows = st.lists(st.tuples(st.lists(st.integers(-1, 9), max_size=5), st.lists(st.integers(-1, 9), max_size=5)))


@given(rows=rows, last=st.integers(1, 8))
def test_a_longer_list_goes_on_behind_the_first(rows: list[tuple[list[int], list[int]]], last: int) -> None:
    first, more = ([list(row[part]) for row in rows] for part in (0, 1))
    found = appended(lists_of(first), lists_of(more), last)
    assert as_python(found) == [(a + b)[:last] for a, b in rows]
    assert found.values.dtype == np.int32


@pytest.mark.parametrize(("keys", "runs"), [([], [0]), ([4], [0, 1]), ([1, 1, 2, 5, 5], [0, 2, 3, 5])])
def test_runs_of_equal_keys(keys: list[int], runs: list[int]) -> None:
    assert group_runs(np.array(keys, np.int64)).tolist() == runs


def test_a_clock_that_does_not_fit_says_so() -> None:
    with pytest.raises(
        OverflowError, match=r"4,194,304 users in one task over times of 4,102,444,800,001 ms; expected at most 2,248,"
    ):
        Clock.over(2**22, np.array([0, 4_102_444_800_000]))


def test_the_widest_clock_that_fits_keeps_users_apart() -> None:
    users, latest = 2_000_000, 4_102_444_800_000
    clock = Clock.over(users, np.array([0, latest]))
    keys = clock.key(np.array([users - 2, users - 1, users - 1]), np.array([latest, 0, latest]))
    assert np.all(np.diff(keys) > 0)
    assert keys[-1] == users * (latest + 1) - 1


@given(rows=st.lists(st.tuples(st.integers(0, 4), st.integers(-2, 2), st.integers(-(2**63), 2**63 - 1)), max_size=60))
def test_rows_of_equal_keys_are_in_the_order_of_the_ties(rows: list[tuple[int, int, int]]) -> None:
    keys, first, second = (
        (np.array(column, np.int64) for column in zip(*rows, strict=True)) if rows else [np.zeros(0, np.int64)] * 3
    )
    found = sorted_places(keys, first.astype(np.int32), second)
    assert [rows[place] for place in found] == sorted(rows)
    assert sorted(found.tolist()) == list(range(len(rows)))
