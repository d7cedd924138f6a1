"""Numbers, parsed and transformed; hours and weekdays."""

from __future__ import annotations

import datetime as dt
import math
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.features import DenseFeat
from dssm.manifest import Statistics
from dssm.samples.number_encoding import encode_event_time, encode_numbers
from tests.samples.encoded import cut, encode


@given(values=st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=8), cut=cut, as_text=st.booleans())
def test_a_number(values: list[float | None], cut: tuple[int, int], as_text: bool) -> None:
    if as_text:
        column = pa.array([v if v is None else f" {v!r}" for v in values], pa.string()).slice(*cut)
    else:
        column = pa.array(values, pa.float64()).slice(*cut)
    plain = [v or 0.0 for v in values[cut[0] : cut[0] + cut[1]]]
    raw = encode(DenseFeat(name="f", side="user"), column)["f"]
    np.testing.assert_array_equal(raw, np.array(plain, np.float32))
    logs = encode(DenseFeat(name="f", side="user", transform="log1p"), column)["f"]
    expected = [math.copysign(math.log1p(abs(v)), v) for v in plain]
    np.testing.assert_allclose(logs, expected, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["3", " 4.5\t", "", "  ", None, "+5", "1e3"]), [3, 4.5, 0, 0, 0, 5, 1000]),
        (pa.array([3, None], pa.int64()), [3, 0]),
        (pa.array([True, False]), [1, 0]),
        (pa.array([None, None], pa.float64()), [0, 0]),
    ],
    ids=["text", "integers", "booleans", "null"],
)
def test_numbers_of_every_kind(column: pa.Array, expected: list[float]) -> None:
    assert encode(DenseFeat(name="f", side="user"), column)["f"].tolist() == expected


@given(values=st.lists(st.one_of(st.none(), st.floats(-20, 20)), max_size=8))
def test_numbers_by_their_statistics(values: list[float | None]) -> None:
    column = pa.array(values, pa.float64())
    plain = [2.0 if value is None else value for value in values]  # the mean
    found = encode(DenseFeat(name="f", side="user", transform="minmax"), column)["f"]
    np.testing.assert_allclose(found, [min(max((v + 1) / 8, 0), 1) for v in plain], rtol=1e-6, atol=1e-30)
    found = encode(DenseFeat(name="f", side="user", transform="standard"), column)["f"]
    np.testing.assert_allclose(found, [(v - 2) / 4 for v in plain], rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize(
    ("transform", "null", "expected"),
    [
        ("raw", None, 0.0),
        ("raw", -3.0, -3.0),
        ("log1p", None, 0.0),
        ("log1p", math.e - 1, 1.0),
        ("minmax", None, 3 / 8),
        ("minmax", 5.0, 6 / 8),
        ("minmax", 50.0, 1.0),
        ("standard", None, 0.0),
        ("standard", 0.0, -0.5),
    ],
)
def test_what_stands_for_null_is_transformed_too(transform: str, null: float | None, expected: float) -> None:
    feature = DenseFeat(name="f", side="item", transform=transform, null=null)
    found = encode(feature, pa.array([None, " "], pa.string()))["f"]
    np.testing.assert_allclose(found, [expected, expected], rtol=1e-6)


@pytest.mark.parametrize("transform", ["minmax", "standard"])
def test_a_number_that_never_varied_is_zero(transform: str) -> None:
    constant = Statistics(events=3, mean=5, deviation=0, minimum=5, maximum=5)
    feature = DenseFeat(name="f", side="item", transform=transform)
    assert encode_numbers(feature, np.array([5.0, 7.0, np.nan]), constant).tolist() == [0, 0, 0]


def test_nan_is_null_and_a_large_integer_is_rounded() -> None:
    feature = DenseFeat(name="f", side="item", null=1.0)
    assert encode(feature, pa.array([np.nan, 2.0]))["f"].tolist() == [1, 2]
    assert encode(feature, pa.array([2**60 + 1]))["f"].tolist() == [2.0**60]
    values = np.array([np.nan])
    assert encode_numbers(feature, values, None).dtype == np.float32
    assert np.isnan(values[0])  # left as it was


ZONES = ["UTC", "Asia/Kathmandu", "Australia/Lord_Howe", "Europe/Berlin", "America/St_Johns", "Asia/Pyongyang"]


@given(times=st.lists(st.integers(0, 2_145_916_800_000), max_size=20), zone=st.sampled_from(ZONES))
def test_hours_and_weekdays_of_every_zone(times: list[int], zone: str) -> None:
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    local = [(epoch + dt.timedelta(milliseconds=time)).astimezone(ZoneInfo(zone)) for time in times]
    asked = np.array(times, np.int64)
    assert encode_event_time(asked, "hour", zone).tolist() == [2 + time.hour for time in local]
    assert encode_event_time(asked, "weekday", zone).tolist() == [2 + time.weekday() for time in local]


def test_the_hour_that_summer_time_skips_and_the_one_that_comes_twice() -> None:
    utc = ["2024-03-31T00:59", "2024-03-31T01:00", "2024-10-27T00:30", "2024-10-27T01:30", "2024-12-31T23:30"]
    times = np.array(utc, "datetime64[ms]").astype(np.int64)
    assert encode_event_time(times, "hour", "Europe/Berlin").tolist() == [2 + hour for hour in (1, 3, 2, 2, 0)]
    sunday, wednesday = 6, 2
    expected = [2 + day for day in (sunday, sunday, sunday, sunday, wednesday)]
    assert encode_event_time(times, "weekday", "Europe/Berlin").tolist() == expected
    assert encode_event_time(times, "weekday", "Europe/Berlin").dtype == np.int32
