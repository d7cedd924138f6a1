"""The same work by NumPy, tuned by hand: python -m benchmarks.samples.numpy_peer FEED OUT positives|all.

pandas reads, sorts and merges. The log is sorted while it is narrow; histories and negatives are NumPy on the sorted
arrays, in blocks that fit the processor's cache, and are written as packed matrices of fixed width.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.samples.arrays import (
    FIRST_TOKEN,
    UNKNOWN,
    drawn_negatives,
    encoded_lists,
    histories,
    history_bounds,
    ids_by_frequency,
    packed,
    run,
    write_samples,
)
from benchmarks.samples.feed import EVENTS, ITEMS, USERS
from benchmarks.samples.task import (
    AUTHOR,
    AUTHOR_MIN_COUNT,
    HISTORY,
    ITEM_DENSE,
    ITEM_ID,
    ITEM_SPARSE,
    SPLIT_MS,
    TAGS,
    TAGS_KEPT,
    USER_DENSE,
    USER_ID,
    USER_MIN_COUNT,
    USER_SPARSE,
)


def merged_rows(feed: Path, clicks_only: bool, users: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Grain: one row a click or event of a known item, sorted by user and time, with the columns of both tables."""
    log = pd.read_parquet(feed / EVENTS, columns=[USER_ID, ITEM_ID, "time_ms", "is_click"])
    if clicks_only:
        log = log[log["is_click"] == 1]
    log = log.sort_values([USER_ID, "time_ms"], ignore_index=True)
    return log.merge(users, on=USER_ID, how="left").merge(items, on=ITEM_ID, how="inner")


def encoded_ids(column: pd.Series, trains: np.ndarray, min_count: int = 1) -> np.ndarray:
    """Returns the rows' encoded ids, by frequency in the training rows; 1 for null, new and rare ones."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes = column.cat.codes.to_numpy()  # -1: null
        counts = np.bincount(codes[trains & (codes >= 0)], minlength=len(column.cat.categories))
        return np.append(ids_by_frequency(counts, min_count), np.int32(UNKNOWN))[codes]
    counts = column[trains].value_counts()
    tokens = counts.index[counts >= min_count]
    place = tokens.get_indexer(column)
    return np.where(place < 0, UNKNOWN, place + FIRST_TOKEN).astype(np.int32)


def build(feed: Path, out: Path, clicks_only: bool) -> int:
    """Writes the samples to one Parquet file. Returns the number of training rows."""
    users = pd.read_parquet(feed / USERS, columns=[USER_ID, *USER_SPARSE, USER_DENSE])
    items = pd.read_parquet(feed / ITEMS, columns=[ITEM_ID, AUTHOR, *ITEM_SPARSE, ITEM_DENSE, TAGS])
    users, tags = users.astype(dict.fromkeys(USER_SPARSE, "category")), items.pop(TAGS)
    items = items.astype(dict.fromkeys(ITEM_SPARSE, "category")).assign(item=np.arange(len(items)))
    rows = merged_rows(feed, clicks_only, users, items)

    user, item, time_ms = (rows[name].to_numpy() for name in (USER_ID, "item", "time_ms"))
    click, trains = rows["is_click"].to_numpy() > 0, time_ms < SPLIT_MS
    rows_of_item = np.bincount(item[trains], minlength=len(items))
    item_ids = encoded_ids(rows[ITEM_ID], trains)
    negatives, chances = drawn_negatives(user, item, trains & click, len(items), np.random.default_rng(0))
    end, length = history_bounds(user, time_ms, click, HISTORY)
    samples = {
        "row_user": user,
        "row_item": rows[ITEM_ID].to_numpy(),
        "row_time": time_ms,
        "row_label": click.astype(np.float32),
        "row_weight": np.ones(len(rows), np.float32),
        "row_item_probability": (rows_of_item / trains.sum()).astype(np.float32)[item],
        "row_negatives": packed(negatives),
        "row_negative_probability": packed(chances),
        USER_ID: encoded_ids(rows[USER_ID], trains, USER_MIN_COUNT),
        ITEM_ID: item_ids,
        AUTHOR: encoded_ids(rows[AUTHOR], trains, AUTHOR_MIN_COUNT),
        **{name: encoded_ids(rows[name], trains) for name in (*USER_SPARSE, *ITEM_SPARSE)},
        **{name: np.log1p(rows[name].fillna(0)).astype(np.float32) for name in (USER_DENSE, ITEM_DENSE)},
        TAGS: packed(encoded_lists(tags, rows_of_item, TAGS_KEPT)[item]),
        "clicks": packed(histories(item_ids[click], end, length, HISTORY)),
    }
    write_samples(pa.table(samples), out)
    return int(trains.sum())


if __name__ == "__main__":
    run(build)
