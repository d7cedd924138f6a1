"""Random numbers that are a hash of what they are for: nothing depends on which rows stand beside a row. Pure NumPy."""

from __future__ import annotations

import hashlib

import numpy as np


def uniforms(seed: int, name: str, attempt: int, row_hash: np.ndarray, draw: np.ndarray | int) -> np.ndarray:
    """Returns random numbers that are a hash of the arguments.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) with a stream a row: its state is a hash of the row and of
    (seed, name, attempt), and the draw is the place in the stream.

    Args:
      row_hash: 64-bit integers, signed or not. Rows with the same hash get the same numbers.
      draw: number of the draw, from 0; broadcast against `row_hash`.
    Returns: float64 in [0, 1), multiples of 2⁻⁵³, of the broadcast shape.
    """
    text = f"{seed}/{attempt}/{name}".encode()
    key = np.frombuffer(hashlib.blake2b(text, digest_size=8).digest(), dtype="<u8")
    state = mixed(np.asarray(row_hash).astype(np.uint64) ^ key)
    state = state + (np.atleast_1d(draw).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed(state) >> np.uint64(11)) * 2.0**-53


def mixed(state: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, in place: a bijection of 64 bits in which each input bit moves all output bits."""
    state ^= state >> np.uint64(30)
    state *= np.uint64(0xBF58476D1CE4E5B9)
    state ^= state >> np.uint64(27)
    state *= np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return state
