from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dssm.report.decoding
import dssm.report.html
import dssm.report.plots
import dssm.report.show
from dssm.features import DenseFeat
from dssm.manifest import Statistics
from dssm.report.decoding import clock, interval, printable, restored, stand_in
from dssm.samples.number_encoding import encode_numbers

STATISTICS = Statistics(events=3, mean=20.0, deviation=4.0, minimum=10.0, maximum=50.0)


@pytest.mark.parametrize("module", [dssm.report.decoding, dssm.report.html, dssm.report.plots, dssm.report.show])
def test_the_examples_in_the_docstrings(module: object) -> None:
    found = doctest.testmod(module)  # type: ignore[arg-type]
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize(
    ("transform", "stored", "expected"),
    [
        ("raw", [-1.5, 0.0, 3.0], [-1.5, 0.0, 3.0]),
        ("log1p", [-np.log(3), 0.0, np.log(8)], [-2.0, 0.0, 7.0]),
        ("minmax", [0.0, 0.25, 1.0], [10.0, 20.0, 50.0]),
        ("standard", [-1.0, 0.0, 2.5], [16.0, 20.0, 30.0]),
    ],
)
def test_numbers_are_restored(transform: str, stored: list[float], expected: list[float]) -> None:
    feature = DenseFeat(side="user", transform=transform)
    assert restored(feature, np.array(stored), STATISTICS) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("transform", "null", "expected"),
    [
        ("raw", None, 0.0), ("raw", -1.0, -1.0), ("log1p", None, 0.0), ("log1p", -1.0, -np.log(2)),
        ("minmax", None, 0.25), ("minmax", 10.0, 0.0), ("minmax", 99.0, 1.0), ("standard", None, 0.0),
        ("standard", 12.0, -2.0),
    ],
)  # fmt: skip
def test_what_a_null_is_stored_as(transform: str, null: float | None, expected: float) -> None:
    assert stand_in(DenseFeat(side="user", transform=transform, null=null), STATISTICS) == pytest.approx(expected)


@given(transform=st.sampled_from(["raw", "log1p", "minmax", "standard"]), null=st.floats(10, 50, allow_nan=False))
def test_a_nulls_stand_in_is_restored_to_the_null(transform: str, null: float) -> None:
    feature = DenseFeat(side="user", transform=transform, null=null)
    assert restored(feature, np.array([stand_in(feature, STATISTICS)]), STATISTICS) == pytest.approx([null])


@given(
    transform=st.sampled_from(["raw", "log1p", "minmax", "standard"]),
    null=st.none() | st.floats(10, 50),
    values=st.lists(st.none() | st.floats(10, 50), min_size=1),
)
def test_what_the_samples_encode_is_restored(transform: str, null: float | None, values: list[float | None]) -> None:
    """Null comes back as its stand-in, which is what the report counts."""
    feature = DenseFeat(side="user", transform=transform, null=null)
    given = np.array(values, np.float64)
    stored = encode_numbers(feature, given, STATISTICS)
    assert stored[np.isnan(given)] == pytest.approx(stand_in(feature, STATISTICS), rel=1e-6, abs=1e-7)
    known = ~np.isnan(given)
    assert restored(feature, stored, STATISTICS)[known] == pytest.approx(given[known], rel=1e-5)


@given(
    boundaries=st.lists(st.integers(-50, 50), unique=True, min_size=1, max_size=6).map(sorted),
    value=st.integers(-60, 60),
)
def test_a_buckets_interval_holds_its_numbers(boundaries: list[float], value: int) -> None:
    place = sum(boundary <= value for boundary in boundaries)
    shown = interval(place, boundaries)
    if shown.startswith("<"):
        assert value < float(shown[2:])
    elif shown.startswith("≥"):
        assert value >= float(shown[2:])
    else:
        low, high = shown[1:-1].split(", ")
        assert float(low) <= value < float(high)


def test_a_number_without_boundaries_has_one_bucket() -> None:
    assert interval(0, ()) == "any number"


def test_hours_and_weekdays() -> None:
    assert [clock("hour", 0), clock("hour", 23), clock("weekday", 6)] == ["00:00", "23:00", "Sunday"]


@given(st.text())
def test_nothing_reaches_the_terminal_that_it_would_obey(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(text) == text or not text.isprintable()
