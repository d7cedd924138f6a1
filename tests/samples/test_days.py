"""Local days against the standard library's calendar."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.config import day_start_ms
from dssm.samples.days import local_days

ZONES = ("UTC", "Asia/Shanghai", "Asia/Kathmandu", "America/New_York", "Europe/Berlin", "Pacific/Apia")


@given(times=st.lists(st.integers(0, 4_102_444_800_000), max_size=20), zone=st.sampled_from(ZONES))
def test_equals_the_calendar(times: list[int], zone: str) -> None:
    epoch = dt.date(1970, 1, 1)
    expected = [(dt.datetime.fromtimestamp(time / 1000, ZoneInfo(zone)).date() - epoch).days for time in times]
    assert local_days(np.array(times, np.int64), zone).tolist() == expected


@pytest.mark.parametrize("zone", ZONES)
def test_a_day_begins_at_its_first_millisecond(zone: str) -> None:
    """As the windows do, also on the days when the clocks change."""
    for day in (dt.date(2024, 1, 10), dt.date(2024, 3, 10), dt.date(2024, 3, 31), dt.date(2024, 11, 3)):
        start = day_start_ms(day, zone)
        number = (day - dt.date(1970, 1, 1)).days
        assert local_days(np.array([start - 1, start]), zone).tolist() == [number - 1, number]
