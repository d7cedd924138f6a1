"""What a task of the scan keeps and counts of the logs' rows."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.manifest import EVENT_TIME, ITEM_INDEX, LABEL, SOURCE, USER_ID, USER_KEY, WEIGHT, SourceCounts
from dssm.samples.events import (
    FATE,
    FATES,
    THINNED,
    TOO_EARLY,
    TRAIN,
    Outcome,
    count_fates,
    fate_number,
    logs_end_early,
    summed,
)
from dssm.samples.exchange import SLICE, as_batch
from dssm.samples.log import (
    BUCKET,
    EVENTS,
    ITEM_COUNTS,
    ITEM_SUMS,
    LAST,
    OUTCOMES,
    ItemDayCounter,
    Scan,
    added_up,
    bucket_of,
    count_users,
    item_sums,
    outcomes,
)
from dssm.samples.pass_columns import CLICK_ONLY, EVENT, FATE_CODE, HASH, IN_LOG, KIND, NO_SAMPLE, TEST_ROW, TRAIN_ROW
from dssm.samples.sources import ID, REASON, Quarantine
from tests.datasets import make_settings
from tests.samples.feed import ZONE, ms

KINDS = {
    REASON: pa.string(), FATE: pa.int32(), USER_ID: pa.string(), USER_KEY: pa.int64(), ITEM_INDEX: pa.int32(),
    EVENT_TIME: pa.int64(), SOURCE: pa.int32(), LABEL: pa.float32(), WEIGHT: pa.float32(), IN_LOG: pa.bool_(),
    HASH: pa.int64(),
}  # fmt: skip
DEFAULTS = {USER_ID: "u", USER_KEY: 7, ITEM_INDEX: 0, EVENT_TIME: 5, SOURCE: 0, LABEL: 1, WEIGHT: 1, IN_LOG: True}


def events(*rows: dict[str, Any]) -> pa.Table:
    made = [{REASON: None, FATE: None, HASH: number, **DEFAULTS, **row} for number, row in enumerate(rows)]
    for row in made:
        row[FATE] = None if row[FATE] is None else fate_number(row[FATE])
    return pa.table({name: pa.array([row[name] for row in made], kind) for name, kind in KINDS.items()})


def scanned(table: pa.Table, buckets: int = 4, end: int = 10) -> dict[int, pa.Table]:
    """Returns each bucket's rows, in two batches a task."""
    half = table.num_rows // 2
    given = [*table[:half].combine_chunks().to_batches(), *table[half:].combine_chunks().to_batches()]
    (made,) = Scan(buckets, 1, 9, end).run(given)
    pairs = zip(made[BUCKET].to_pylist(), made[SLICE].to_pylist(), strict=True)
    return {bucket: pa.ipc.open_stream(data).read_all() for bucket, data in pairs}


def test_rows_that_are_samples_or_known_to_one() -> None:
    found = scanned(
        events(
            {FATE: TRAIN, EVENT_TIME: 1},
            {FATE: "test", EVENT_TIME: 9},
            {FATE: "test", EVENT_TIME: 11, IN_LOG: False},  # a sample, whatever the rest says
            {FATE: "outside the windows", EVENT_TIME: 9},
            {FATE: "outside the windows", EVENT_TIME: 10},
            {FATE: "item not in the catalogue", IN_LOG: False},
            {FATE: "left out by where", IN_LOG: False, EVENT_TIME: None, USER_ID: None, LABEL: None},
            {REASON: "no user in 'user'", IN_LOG: False, USER_ID: None},
            {FATE: TOO_EARLY, IN_LOG: False, EVENT_TIME: 3},  # known to none, but its item is no negative
            {FATE: TOO_EARLY, IN_LOG: False, EVENT_TIME: 3, LABEL: 0},
            {FATE: TOO_EARLY, IN_LOG: False, EVENT_TIME: 0},  # of before the training window
            {FATE: TOO_EARLY, IN_LOG: False, EVENT_TIME: 9},  # of the test window
        )
    )
    (bucket,) = found.keys() - {OUTCOMES, ITEM_SUMS}
    assert found[bucket][HASH].to_pylist() == [0, 1, 2, 3, 8]
    assert found[bucket][FATE_CODE].to_pylist() == [TRAIN_ROW, TEST_ROW, TEST_ROW, NO_SAMPLE, CLICK_ONLY]
    assert found[bucket][KIND].to_pylist() == [EVENT] * 5
    counts = {(row["reason"], row["fate"]): row["rows"] for row in found[OUTCOMES].to_pylist()}
    assert counts == {
        (None, TRAIN): 1, (None, "test"): 2, (None, "outside the windows"): 2, (None, "item not in the catalogue"): 1,
        (None, "left out by where"): 1, ("no user in 'user'", None): 1,
        (None, TOO_EARLY): 4,
    }  # fmt: skip


def test_the_newest_time_of_each_fate() -> None:
    counted = scanned(
        events({FATE: TRAIN, EVENT_TIME: 1}, {REASON: "no time", EVENT_TIME: None}, {FATE: TRAIN, EVENT_TIME: 3})
    )[OUTCOMES]
    found = {(row["reason"], row["fate"]): row["last"] for row in counted.to_pylist()}
    assert found == {(None, TRAIN): 3, ("no time", None): None}


FATE_OR_REASON = st.one_of(
    st.tuples(st.none(), st.sampled_from(FATES)), st.tuples(st.sampled_from(["no item", "no time"]), st.none())
)
ROW = st.tuples(
    st.integers(0, 3), FATE_OR_REASON, st.sampled_from([-1, 0, 1]), st.none() | st.integers(-(2**40), 2**40)
)


@given(parts=st.lists(st.lists(ROW, min_size=1, max_size=20), max_size=3))
def test_outcomes_are_counted_by_source_reason_and_fate(parts: list[list[tuple[int, Any, int, int | None]]]) -> None:
    expected: dict[tuple[Any, ...], Outcome] = {}
    found = []
    for part in parts:
        rows = [
            {SOURCE: source, REASON: reason, FATE: fate, LABEL: label, EVENT_TIME: time}
            for source, (reason, fate), label, time in part
        ]
        found += [Outcome(**row) for row in outcomes(events(*rows)).to_pylist()]
        for source, (reason, fate), label, time in part:
            before = expected.get((source, reason, fate), Outcome(source, reason, fate, 0, 0, None))
            last = max((t for t in (before.last, time) if t is not None), default=None)
            expected[source, reason, fate] = Outcome(
                source, reason, fate, before.rows + 1, before.positives + (label > 0), last
            )
    assert sorted(summed(found), key=repr) == sorted(expected.values(), key=repr)
    assert len(found) == sum(len({row[:2] for row in part}) for part in parts)  # each once a table


def test_texts_that_are_null_do_not_part_what_belongs_together() -> None:
    """Arrow 14 makes some hundred groups of these rows, by a text that is null between two numbers."""
    made = outcomes(events(*({FATE: fate} for fate in (TRAIN, "test") * 500)))
    assert sorted(zip(made["fate"].to_pylist(), made["rows"].to_pylist(), strict=True)) == [("test", 500), (TRAIN, 500)]


def test_every_readable_row_has_a_fate(tmp_path: Path) -> None:
    quarantine = Quarantine(str(tmp_path), 1)
    quarantine.counts["sources.feed"] = SourceCounts(place="", rows_read=7, quarantined={"no item": 1})
    logs: Any = [SimpleNamespace(name="sources.feed")]
    given = [
        Outcome(0, None, TRAIN, 4, 4, 1),
        Outcome(0, None, TOO_EARLY, 2, 2, 1),
        Outcome(0, "no item", None, 1, 0, 1),
    ]
    count_fates(given, logs, quarantine)
    counts = quarantine.counts["sources.feed"]
    assert (counts.used, counts.filtered) == ({TRAIN: 4}, {TOO_EARLY: 2})
    with pytest.raises(RuntimeError, match=r"sources\.feed: 9 readable rows, 6 of them with a fate"):
        count_fates([*given, Outcome(0, None, None, 3, 0, 1)], logs, quarantine)


@pytest.mark.parametrize(
    ("last", "told"),
    [
        ("2024-01-09 23:59:59", "the test window reaches to 2024-01-10, the logs end 2024-01-09"),
        ("2024-01-10 00:00:00", None),
        ("2024-01-12 00:00:00", None),
    ],
)
def test_logs_that_end_before_the_test_window_are_told(last: str, told: str | None, tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    settings = settings.model_copy(update={"window": settings.window.model_copy(update={"test_days": 3})})
    at = int(dt.datetime.fromisoformat(last).replace(tzinfo=ZoneInfo(settings.timezone)).timestamp() * 1000)
    later = settings.day_start_ms(9)  # of a row that can't be read: it does not count
    given = [Outcome(0, None, TRAIN, 1, 1, at), Outcome(0, "no item", None, 1, 0, later)]
    assert logs_end_early(settings, [*given, Outcome(0, "no time", None, 1, 0, None)]) == told
    assert logs_end_early(settings, []) is None


def test_nothing_is_kept_where_no_row_is_known() -> None:
    found = scanned(events({FATE: "left out by where", IN_LOG: False}, {REASON: "malformed row", IN_LOG: False}))
    assert found.keys() == {OUTCOMES, ITEM_SUMS}
    assert found[ITEM_SUMS].num_rows == 0


@given(keys=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=50), buckets=st.integers(1, 4096))
def test_a_user_has_one_bucket(keys: list[int], buckets: int) -> None:
    found = scanned(events(*({FATE: TRAIN, USER_KEY: key} for key in keys)), buckets)
    of_user = {key: bucket for bucket, rows in found.items() if bucket >= 0 for key in rows[USER_KEY].to_pylist()}
    expected = bucket_of(pa.chunked_array([pa.array(keys, pa.int64())]), buckets)
    assert of_user == dict(zip(keys, expected.tolist(), strict=True))
    assert sum(rows.num_rows for bucket, rows in found.items() if bucket >= 0) == len(keys)


def test_users_are_spread_over_the_buckets() -> None:
    keys = pa.chunked_array([pa.array(np.arange(64_000))])
    counts = np.bincount(bucket_of(keys, 64))
    assert (len(counts), counts.sum()) == (64, 64_000)
    assert 850 < counts.min() < counts.max() < 1150


# What is counted ---------------------------------------------------------------------------------------------


def test_sums_by_item() -> None:
    rows = [{ITEM_INDEX: 1, FATE: TRAIN}] * 3
    rows += [{ITEM_INDEX: 0, LABEL: label, WEIGHT: weight, FATE: TRAIN} for label, weight in ((2, 0.5), (0, 1))]
    rows += [{ITEM_INDEX: 2, WEIGHT: 0, FATE: TRAIN}]
    # What is left out by chance is no candidate, but popular it is; what is tested on is neither.
    rows += [{ITEM_INDEX: 0, FATE: fate} for fate in (*THINNED, "test", "outside the windows", None)]
    found = item_sums(events(*rows))
    names = (ITEM_INDEX, *ITEM_COUNTS)
    assert {tuple(row[name] for name in names) for row in found.to_pylist()} == {
        (1, 3, 3, 3, 3),
        (0, 2, 2, 1, 3),
        (2, 1, 0, 0, 0),
    }


@given(parts=st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=9), max_size=5))
def test_sums_of_several_slices(parts: list[list[tuple[int, int]]]) -> None:
    tables = [
        (
            ITEM_SUMS,
            pa.table({"k": pa.array([k for k, _ in p], pa.int32()), "n": pa.array([n for _, n in p], pa.int64())}),
        )
        for p in parts
    ]
    made = [row for batch in added_up("k", ["n"])([as_batch(BUCKET, tables)]) for row in batch.to_pylist()]
    expected: Counter[int] = Counter()
    for key, number in (pair for part in parts for pair in part):
        expected[key] += number
    assert {row["k"]: row["n"] for row in made} == dict(expected)
    assert len(made) == len(expected)


def sliced(table: pa.Table) -> list[pa.RecordBatch]:
    return [as_batch(BUCKET, [(0, table[:2]), (1, table[2:])])]


def test_users_with_rows_that_train() -> None:
    rows = [("a", 5, TRAIN_ROW), ("b", 9, TRAIN_ROW), ("a", 7, TRAIN_ROW), ("a", 8, TEST_ROW), ("c", 3, NO_SAMPLE)]
    user, time, code = zip(*rows, strict=True)
    table = pa.table({USER_ID: user, EVENT_TIME: time, FATE_CODE: pa.array(code, pa.int32())})
    (found,) = count_users(sliced(table))
    assert found.to_pylist() == [{ID: "a", EVENTS: 2, LAST: 7}, {ID: "b", EVENTS: 1, LAST: 9}]


def test_an_items_days_are_local_and_of_the_counters_sources() -> None:
    rows = [
        (3, ms(7, 0), 1.0, 1, True),
        (3, ms(8, 0) - 1, 0.0, 1, True),
        (3, ms(8, 0), 2.0, 1, True),
        (3, ms(8, 0), 1.0, 0, True),  # of another source
        (3, ms(8, 0), 1.0, 1, False),  # left out of the log
        (5, ms(8, 0), 0.0, 1, True),
    ]
    names = (ITEM_INDEX, EVENT_TIME, LABEL, SOURCE, IN_LOG)
    columns = zip(*rows, strict=True)
    table = pa.table({name: pa.array(of, KINDS[name]) for name, of in zip(names, columns, strict=True)})
    (found,) = ItemDayCounter((1,), ZONE.key).run(sliced(table))
    seventh = 19_729  # 2024-01-07, in days from 1970
    assert {(row[ITEM_INDEX], row["day"]): (row["events"], row["positives"]) for row in found.to_pylist()} == {
        (3, seventh): (2, 1), (3, seventh + 1): (1, 1), (5, seventh + 1): (1, 0),
    }  # fmt: skip
