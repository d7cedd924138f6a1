from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.manifest import EVENT_TIME, ITEM_ID, USER_ID
from dssm.samples.point_in_time import EMIT, flag_column, with_histories

HISTORIES = ("clicks", "likes")


class Event(NamedTuple):
    user: str
    time: int
    item: str
    emit: bool = True
    clicks: bool = True
    likes: bool = False


def to_batches(events: Sequence[Event], cuts: Sequence[int] = (), empty: bool = False) -> Iterator[pa.RecordBatch]:
    """Yields the events as batches that end at the cuts."""
    whole = pa.RecordBatch.from_pydict(
        {
            USER_ID: pa.array([e.user for e in events], pa.string()),
            EVENT_TIME: pa.array([e.time for e in events], pa.int64()),
            ITEM_ID: pa.array([e.item for e in events], pa.string()),
            "place": pa.array(range(len(events)), pa.int64()),
            EMIT: pa.array([e.emit for e in events], pa.bool_()),
            flag_column("clicks"): pa.array([e.clicks for e in events], pa.bool_()),
            flag_column("likes"): pa.array([e.likes for e in events], pa.bool_()),
        }
    )
    bounds = [0, *sorted(min(cut, len(events)) for cut in cuts), len(events)]
    for begin, end in pairwise(bounds):
        if end > begin or empty:
            yield whole.slice(begin, end - begin)


def histories(batches: Iterator[pa.RecordBatch], **lengths: int) -> list[tuple]:
    """Returns (place, *histories) of each emitted row."""
    return [
        (row["place"], *(row[name] for name in lengths))
        for batch in with_histories(batches, lengths)
        for row in batch.to_pylist()
    ]


def expected_histories(events: Sequence[Event], **lengths: int) -> list[tuple]:
    """Looks, for each emitted event, at every earlier one."""
    rows = []
    for place, event in enumerate(events):
        if not event.emit:
            continue
        before = [e for e in events if e.user == event.user and e.time < event.time]
        lists = [[e.item for e in before if getattr(e, name)][::-1][:last] for name, last in lengths.items()]
        rows.append((place, *lists))
    return rows


def test_newest_first_and_only_strictly_before() -> None:
    events = [Event("u", 1, "a"), Event("u", 2, "b"), Event("u", 2, "c"), Event("u", 3, "d"), Event("v", 3, "e")]
    assert histories(to_batches(events), clicks=2) == [
        (0, []),
        (1, ["a"]),
        (2, ["a"]),  # b has the same timestamp
        (3, ["c", "b"]),
        (4, []),  # another user
    ]


def test_rows_that_are_not_emitted_still_feed_histories() -> None:
    events = [Event("u", 1, "a", emit=False), Event("u", 2, "b", clicks=False), Event("u", 3, "c")]
    assert histories(to_batches(events), clicks=5) == [(1, ["a"]), (2, ["a"])]


def test_the_same_item_twice_stands_twice() -> None:
    events = [Event("u", 1, "a"), Event("u", 2, "a"), Event("u", 3, "b")]
    assert histories(to_batches(events), clicks=5)[-1] == (2, ["a", "a"])


def test_the_carried_rows_are_bounded_by_the_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """One user with far more events than are kept, a batch each."""
    carried = []
    concat_tables = pa.concat_tables

    def spy(tables: list[pa.Table]) -> pa.Table:
        carried.append(tables[0].num_rows)
        return concat_tables(tables)

    monkeypatch.setattr(pa, "concat_tables", spy)
    events = [Event("u", time, f"i{time}") for time in range(200)]
    found = histories(to_batches(events, cuts=range(1, 200)), clicks=3)
    assert found == expected_histories(events, clicks=3)
    assert max(carried) == 4  # three before the last timestamp, one at it


def test_output_columns_are_the_input_without_the_flags() -> None:
    (batch,) = with_histories(to_batches([Event("u", 1, "a")]), {"clicks": 2, "likes": 2})
    assert batch.schema.names == [USER_ID, EVENT_TIME, ITEM_ID, "place", "clicks", "likes"]
    assert batch.schema.field("clicks").type == pa.list_(pa.string())


@pytest.mark.parametrize("batches", [[], [[]]], ids=["no batch", "a batch without rows"])
def test_no_rows(batches: list[list[Event]]) -> None:
    made = [batch for events in batches for batch in to_batches(events, empty=True)]
    assert histories(iter(made), clicks=2) == []


events_of_users = st.lists(
    st.builds(
        Event,
        user=st.sampled_from(["u", "v", "日本"]),
        time=st.integers(0, 5),
        item=st.sampled_from("abcdef"),
        emit=st.booleans(),
        clicks=st.booleans(),
        likes=st.booleans(),
    ),
    max_size=30,
).map(lambda events: sorted(events, key=lambda e: (e.user, e.time)))


@given(
    events=events_of_users,
    clicks=st.integers(1, 6),
    likes=st.integers(1, 6),
    cuts=st.lists(st.integers(0, 30), max_size=8),
)
def test_equals_a_look_at_every_earlier_event_however_rows_are_cut(
    events: list[Event], clicks: int, likes: int, cuts: list[int]
) -> None:
    found = histories(to_batches(events, cuts, empty=True), clicks=clicks, likes=likes)
    assert found == expected_histories(events, clicks=clicks, likes=likes)
