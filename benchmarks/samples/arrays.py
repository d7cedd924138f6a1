"""NumPy's side: encoding, histories and negatives as whole arrays, no loop over rows. And what all peers share."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.samples.task import EXPONENT, NEGATIVES, POSITIVES

UNKNOWN, FIRST_TOKEN = 1, 2
RETRIES = 20
BLOCK = 1 << 17  # rows whose temporaries are held at once


def history_bounds(
    user: np.ndarray, time_ms: np.ndarray, click: np.ndarray, last: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for each event, where its history ends among the clicks (exclusive), and how many clicks it holds.

    Strictly before: events of a user at equal times see the same history.

    Args:
      user, time_ms, click: (events,), sorted by user and time.
    """
    place = np.arange(len(user))
    new_user = np.concatenate([[True], user[1:] != user[:-1]])
    new_time = new_user | np.concatenate([[True], time_ms[1:] != time_ms[:-1]])
    clicks_before = np.cumsum(click) - click
    end = clicks_before[np.maximum.accumulate(np.where(new_time, place, 0))]
    begin = clicks_before[np.maximum.accumulate(np.where(new_user, place, 0))]
    return end, np.minimum(end - begin, last)


def histories(clicked: np.ndarray, end: np.ndarray, length: np.ndarray, last: int) -> np.ndarray:
    """Returns (events, last) encoded ids, newest first, 0 behind them.

    Args:
      clicked: (clicks,) encoded ids in the order of user and time.
      end, length: of `history_bounds`.
    """
    padded = np.concatenate([np.zeros(last, np.int32), clicked.astype(np.int32)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, last)[:, ::-1]
    made = np.empty((len(end), last), np.int32)
    for begin in range(0, len(end), BLOCK):
        block = slice(begin, begin + BLOCK)
        np.multiply(windows[end[block]], np.arange(last) < length[block, None], out=made[block])
    return made


def ids_by_frequency(counts: np.ndarray, min_count: int = 1) -> np.ndarray:
    """Returns the encoded id of each token: 2 for the most frequent one, 1 for those below min_count."""
    ranked = np.argsort(-counts, kind="stable")
    known = int((counts >= min_count).sum())
    ids = np.full(len(counts), UNKNOWN, np.int32)
    ids[ranked[:known]] = np.arange(FIRST_TOKEN, FIRST_TOKEN + known)
    return ids


def encoded_column(column: pd.Series, rows: np.ndarray, min_count: int = 1) -> np.ndarray:
    """Returns the encoded ids of a table's column.

    Args:
      rows: training rows of each of the table's rows, which its tokens are counted by.
    """
    codes, tokens = pd.factorize(column)  # -1: null
    counts = np.bincount(codes[codes >= 0], rows[codes >= 0], minlength=len(tokens))
    return np.append(ids_by_frequency(counts, min_count), np.int32(UNKNOWN))[codes]


def encoded_lists(column: pd.Series, rows: np.ndarray, kept: int) -> np.ndarray:
    """Returns (table's rows, kept) encoded ids of the first entries of each text such as `39,43`; 0 is padding."""
    entries = column.str.split(",").explode().dropna()
    ids = encoded_column(entries, rows[entries.index])
    place = entries.groupby(level=0).cumcount().to_numpy()
    made = np.zeros((len(column), kept), np.int32)
    made[entries.index[place < kept], place[place < kept]] = ids[place < kept]
    return made


def drawn_negatives(
    user: np.ndarray, item: np.ndarray, positive: np.ndarray, items: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws negatives in proportion to popularity^0.75, none of which its user has a positive of.

    Args:
      user, item: (rows,) small integers; fastest where sorted by user.
      positive: (rows,) whether a row is a positive of the training window: those get negatives.
    Returns: (rows, 4) items, −1 where there is none or where RETRIES draws were all positives; and (rows, 4) the
      chance of each to be drawn, 0 there.
    """
    weights = np.bincount(item[positive], minlength=items) ** EXPONENT
    cumulated = np.cumsum(weights) / weights.sum()
    cumulated[-1] = 1.0
    pairs = np.unique(user[positive].astype(np.int64) * items + item[positive])
    drawn = np.full((len(user), NEGATIVES), -1, np.int32)
    wanted = np.flatnonzero(positive)
    for begin in range(0, len(wanted), BLOCK):
        row = np.repeat(wanted[begin : begin + BLOCK], NEGATIVES)
        place = np.tile(np.arange(NEGATIVES), len(row) // NEGATIVES)
        for _ in range(RETRIES):
            found = np.searchsorted(cumulated, rng.random(len(row)), side="right")
            keys = user[row].astype(np.int64) * items + found
            hit = pairs[np.minimum(np.searchsorted(pairs, keys), len(pairs) - 1)] == keys
            drawn[row[~hit], place[~hit]] = found[~hit]
            row, place = row[hit], place[hit]
            if len(row) == 0:
                break
    chance = np.append(weights / weights.sum(), 0).astype(np.float32)  # the last: of −1
    return drawn, chance[drawn]


def packed(matrix: np.ndarray) -> pa.Array:
    """Returns a matrix as a column of fixed-size binaries, without a copy."""
    width = matrix.shape[1] * matrix.dtype.itemsize
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(matrix), [None, pa.py_buffer(matrix)])


def write_samples(samples: pa.Table, out: Path) -> None:
    """Writes one Parquet file, without dictionaries for the matrices: they would not pay."""
    numbers = [field.name for field in samples.schema if not pa.types.is_fixed_size_binary(field.type)]
    pq.write_table(samples, out, use_dictionary=numbers)


def run(build: Callable[[Path, Path, bool], int]) -> None:
    """Runs a peer as `python -m … FEED OUT positives|all`; prints its seconds, without imports, and training rows."""
    feed, out, rows = sys.argv[1:]
    started = time.perf_counter()
    count = build(Path(feed), Path(out), rows == POSITIVES)
    print(json.dumps({"seconds": time.perf_counter() - started, "train_rows": count}))
