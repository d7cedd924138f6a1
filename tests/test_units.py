import pytest

from dssm.units import bytes_shown, seconds_shown


@pytest.mark.parametrize(
    ("size", "told"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.00 kB"), (999_600, "1.00 MB"), (2.5e6, "2.50 MB"), (4e15, "4,000 TB")],
)
def test_bytes_have_a_fitting_unit(size: float, told: str) -> None:
    assert bytes_shown(size) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0.0 s"), (0.42, "420 ms"), (0.9999, "1.0 s"), (99.94, "99.9 s"), (99.96, "1 min 40 s"),
        (3599.6, "1 h 0 min"), (360_000, "100 h"),
    ],
)  # fmt: skip
def test_seconds_have_fitting_units(seconds: float, told: str) -> None:
    assert seconds_shown(seconds) == told
