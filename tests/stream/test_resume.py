"""An epoch that is broken off and resumed, by the same or another number of ranks, sees each row once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.manifest import EVENT_TIME, WEIGHT, ColumnSpec, FileSpec, Manifest
from dssm.stream import batches as stream
from dssm.stream.batches import ALL_ROWS, Reading, Span, rank_batches
from dssm.stream.plan import Leg, plan_epoch, rows_done

COLUMNS = {"key": ColumnSpec(dtype="int64"), EVENT_TIME: ColumnSpec(dtype="int64"), WEIGHT: ColumnSpec(dtype="float32")}
SEED, EPOCH = 7, 3


@pytest.fixture(autouse=True)
def _files_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """File `n` of r rows holds the keys 1000·n + 1 … 1000·n + r, at the times 0 … r − 1."""

    def read(
        _: str, files: Sequence[FileSpec], *__: object, prepare: Any, **___: object
    ) -> Iterator[dict[str, np.ndarray]]:
        for place, file in enumerate(files):
            times = np.arange(file.rows)
            arrays = {
                "key": 1000 * int(file.name) + 1 + times,
                EVENT_TIME: times,
                WEIGHT: np.ones(file.rows, np.float32),
            }
            yield prepare(place, arrays)

    monkeypatch.setattr(stream, "read_files", read)


def keys_of(
    counts: Sequence[int], legs: Sequence[Leg], next_ranks: int, batch: int, steps_done: int = 0, span: Span = ALL_ROWS
) -> list[list[list[int]]]:
    """Each rank's batches, without padding, of the leg after `legs`."""
    manifest = Manifest(
        kind="train", date="2024-01-08", build="b", columns=COLUMNS, seed=0,
        files=[FileSpec(name=str(number), rows=rows) for number, rows in enumerate(counts)],
    )  # fmt: skip
    rows = [int(span.holds(np.arange(count)).sum()) for count in counts]
    done = rows_done(rows, SEED, EPOCH, legs)
    left = [count - seen for count, seen in zip(rows, done, strict=True)]
    plan = plan_epoch(left, SEED, EPOCH, next_ranks, batch, len(legs))
    reading = Reading(plan, (SEED, EPOCH), span, done, steps_done)
    return [
        [made["key"][made[WEIGHT] > 0].tolist() for made in rank_batches("", manifest, COLUMNS, reading, rank, batch)]
        for rank in range(next_ranks)
    ]


counts_ = st.lists(st.integers(0, 40), min_size=1, max_size=8)


@given(
    counts=counts_,
    batch=st.integers(1, 9),
    legs=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), max_size=3),
    last=st.integers(1, 4),
)
def test_each_row_is_seen_once_over_all_legs(counts, batch, legs, last):
    seen: list[int] = []
    taken: list[Leg] = []
    for ranks, steps in legs:
        read = keys_of(counts, taken, ranks, batch)
        steps = min(steps, len(read[0]))
        seen += [key for rank in read for made in rank[:steps] for key in made]
        taken.append(Leg(ranks, batch, steps))
    seen += [key for rank in keys_of(counts, taken, last, batch) for made in rank for key in made]
    assert sorted(seen) == [1000 * file + 1 + row for file, rows in enumerate(counts) for row in range(rows)]


@given(counts=counts_, batch=st.integers(1, 9), ranks=st.integers(1, 3), steps=st.integers(0, 12))
def test_the_same_ranks_go_on_with_the_very_batches(counts, batch, ranks, steps):
    whole = keys_of(counts, [], ranks, batch)
    steps = min(steps, len(whole[0]))
    resumed = keys_of(counts, [], ranks, batch, steps_done=steps)
    assert resumed == [rank[steps:] for rank in whole]


def test_a_span_is_resumed_within_its_own_rows():
    span = Span(since=3, until=9)
    counts = [12, 5, 2, 20]
    whole = keys_of(counts, [], 2, 2, span=span)
    first = [key for rank in whole for made in rank[:2] for key in made]
    rest = [key for rank in keys_of(counts, [Leg(2, 2, 2)], 3, 2, span=span) for made in rank for key in made]
    expected = [1000 * file + 1 + row for file, rows in enumerate(counts) for row in range(3, min(rows, 9))]
    assert sorted(first + rest) == expected
    assert not set(first) & set(rest)
