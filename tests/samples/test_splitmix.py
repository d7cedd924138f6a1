"""Random numbers against the published generator, and their independence of all that they hash."""

from __future__ import annotations

import hashlib

import numpy as np
from scipy import stats

from dssm.samples.splitmix import uniforms

CREDIBLE = 1e-4  # of a p-value


def splitmix64(state: int, count: int) -> list[int]:
    """Returns the first numbers of a generator with this state, in plain integers."""
    numbers, mask = [], 2**64 - 1
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        numbers.append(z ^ (z >> 31))
    return numbers


def test_uniforms_are_streams_of_splitmix64() -> None:
    assert splitmix64(1234567, 2) == [6457827717110365317, 3203168211198807973]  # of the published generator
    found = uniforms(7, "popular", 0, np.array([[-5], [12]]), np.arange(4))
    key = hashlib.blake2b(b"7/0/popular", digest_size=8).digest()
    for row, numbers in zip((-5 % 2**64, 12), found, strict=True):
        state = splitmix64((row ^ int.from_bytes(key, "little")) - 0x9E3779B97F4A7C15, 1)[0]  # mixed, not stepped
        assert numbers.tolist() == [(number >> 11) / 2**53 for number in splitmix64(state, 4)]


def test_uniforms_fill_the_unit_square_whatever_changes() -> None:
    rows = np.arange(100_000)
    base = uniforms(1, "a", 0, rows, 0)
    assert base.min() >= 0
    assert base.max() < 1
    others = {
        "draw": uniforms(1, "a", 0, rows, 1),
        "attempt": uniforms(1, "a", 1, rows, 0),
        "seed": uniforms(2, "a", 0, rows, 0),
        "name": uniforms(1, "b", 0, rows, 0),
        "row": uniforms(1, "a", 0, rows + 1, 0),
        "high bit of the row": uniforms(1, "a", 0, rows ^ np.int64(-(2**63)), 0),
        "digits between seed and attempt": uniforms(11, "a", 0, rows, 0),
    }
    for other in others.values():
        counts, _, _ = np.histogram2d(base, other, bins=20, range=[[0, 1], [0, 1]])
        assert stats.chisquare(counts.ravel()).pvalue > CREDIBLE
