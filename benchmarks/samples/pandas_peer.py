"""The same work by pandas, in memory: python -m benchmarks.samples.pandas_peer FEED OUT positives|all.

As one writes it who knows pandas: only the columns in need are read, profile and catalogue are encoded before they
are merged, histories are as-of joins (merge_asof), the lists are real list columns, and no step loops over rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.samples.arrays import FIRST_TOKEN, RETRIES, UNKNOWN, run
from benchmarks.samples.feed import EVENTS, ITEMS, USERS
from benchmarks.samples.task import (
    AUTHOR,
    AUTHOR_MIN_COUNT,
    EXPONENT,
    HISTORY,
    ITEM_DENSE,
    ITEM_ID,
    ITEM_SPARSE,
    NEGATIVES,
    SPLIT_MS,
    TAGS,
    TAGS_KEPT,
    USER_DENSE,
    USER_ID,
    USER_MIN_COUNT,
    USER_SPARSE,
)

Column = pd.api.extensions.ExtensionArray  # of lists


def encoded(tokens: pd.Series, rows: pd.Series, min_count: int = 1) -> pd.Series:
    """Returns the ids of a table's tokens: 2 for the most frequent one, 1 for null and rare ones.

    Args:
      rows: training rows of each of the table's rows.
    """
    counts = rows.groupby(tokens).sum().sort_values(ascending=False, kind="stable")
    known = counts.index[counts >= min_count]
    ids = pd.Series(np.arange(FIRST_TOKEN, FIRST_TOKEN + len(known)), known)
    return tokens.map(ids).fillna(UNKNOWN).astype("int32")


def as_lists(values: pd.Series | np.ndarray, lengths: pd.Series | np.ndarray) -> Column:
    """Returns a column of lists, each as long as `lengths` says, of values laid end to end."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return pd.arrays.ArrowExtensionArray(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values)))


def encoded_tags(tags: pd.Series, rows: pd.Series) -> Column:
    """Returns the ids of the first tags of texts such as `39,43`, as lists."""
    entries = tags.str.split(",").explode().dropna()
    ids = encoded(entries, rows.reindex(entries.index))
    ids = ids[ids.groupby(level=0).cumcount() < TAGS_KEPT]
    return as_lists(ids.to_numpy(), ids.groupby(level=0).size().reindex(tags.index, fill_value=0).to_numpy())


def encoded_users(users: pd.DataFrame, rows_of_user: pd.Series) -> pd.DataFrame:
    """Grain: one row a user: USER_ID as `row_user`, and the encoded columns."""
    rows = users[USER_ID].map(rows_of_user).fillna(0)
    return pd.DataFrame(
        {
            "row_user": users[USER_ID],
            USER_ID: encoded(users[USER_ID], rows, USER_MIN_COUNT),
            **{name: encoded(users[name], rows) for name in USER_SPARSE},
            USER_DENSE: np.log1p(users[USER_DENSE].fillna(0)).astype("float32"),
        }
    )


def encoded_items(items: pd.DataFrame, rows_of_item: pd.Series) -> pd.DataFrame:
    """Grain: one row an item: ITEM_ID as `row_item`, its place, its share of the training rows, the encoded columns."""
    rows = items[ITEM_ID].map(rows_of_item).fillna(0)
    return pd.DataFrame(
        {
            "row_item": items[ITEM_ID],
            "item": np.arange(len(items), dtype="int32"),
            "row_item_probability": (rows / rows.sum()).astype("float32"),
            ITEM_ID: encoded(items[ITEM_ID], rows),
            AUTHOR: encoded(items[AUTHOR], rows, AUTHOR_MIN_COUNT),
            **{name: encoded(items[name], rows) for name in ITEM_SPARSE},
            ITEM_DENSE: np.log1p(items[ITEM_DENSE].fillna(0)).astype("float32"),
            TAGS: encoded_tags(items[TAGS], rows),
        }
    )


def histories(rows: pd.DataFrame) -> Column:
    """Returns lists of the ids of the last items that the row's user clicked strictly before it, newest first.

    Args:
      rows: sorted by time.
    """
    clicks = rows.loc[rows["row_label"] > 0, ["row_user", "row_time", ITEM_ID]].sort_values("row_user", kind="stable")
    clicks["end"] = np.arange(1, len(clicks) + 1)
    clicks["length"] = (clicks.groupby("row_user").cumcount() + 1).clip(upper=HISTORY)
    found = pd.merge_asof(
        rows[["row_user", "row_time"]],
        clicks[["row_user", "row_time", "end", "length"]].sort_values("row_time", kind="stable"),
        on="row_time",
        by="row_user",
        allow_exact_matches=False,
    )
    end, length = (found[name].fillna(0).to_numpy("int32") for name in ("end", "length"))
    newest = end - 1 + length.cumsum() - length
    places = newest.repeat(length) - np.arange(length.sum())  # end − 1, end − 2, … of each row
    return as_lists(clicks[ITEM_ID].to_numpy()[places], length)


def negatives(rows: pd.DataFrame, items: int, rng: np.random.Generator) -> tuple[Column, Column]:
    """Returns lists of places of items and of their chances: four for a click of the training window, else none.

    Items are drawn in proportion to popularity^0.75. One that the row's user has clicked is drawn again; after
    RETRIES draws the list is shorter.
    """
    clicks = rows.loc[(rows["row_label"] > 0) & (rows["row_time"] < SPLIT_MS), ["row_user", "item"]]
    weights = clicks["item"].value_counts().reindex(range(items), fill_value=0) ** EXPONENT
    chances = weights / weights.sum()
    clicked = pd.Index((clicks["row_user"] * items + clicks["item"]).unique())
    user = clicks["row_user"].to_numpy().repeat(NEGATIVES)
    drawn = np.zeros(len(user), "int32")
    again = np.arange(len(user))
    for _ in range(RETRIES):
        drawn[again] = rng.choice(items, len(again), p=chances)
        again = again[clicked.get_indexer(user[again] * items + drawn[again]) >= 0]
    drawn = np.delete(drawn, again)
    lengths = NEGATIVES - np.bincount(again // NEGATIVES, minlength=len(clicks))
    of_rows = pd.Series(lengths, clicks.index).reindex(rows.index, fill_value=0)
    return as_lists(drawn, of_rows), as_lists(chances.to_numpy("float32")[drawn], of_rows)


def build(feed: Path, out: Path, clicks_only: bool) -> int:
    """Writes the samples to one Parquet file. Returns the number of training rows."""
    users = pd.read_parquet(feed / USERS, columns=[USER_ID, *USER_SPARSE, USER_DENSE])
    items = pd.read_parquet(feed / ITEMS, columns=[ITEM_ID, AUTHOR, *ITEM_SPARSE, ITEM_DENSE, TAGS])
    log = pd.read_parquet(feed / EVENTS, columns=[USER_ID, ITEM_ID, "time_ms", "is_click"])
    log = log[log[ITEM_ID].isin(items[ITEM_ID])]
    if clicks_only:
        log = log[log["is_click"] == 1]
    log = log.rename(columns={USER_ID: "row_user", ITEM_ID: "row_item", "time_ms": "row_time"})
    log = log.sort_values("row_time", kind="stable", ignore_index=True)
    log["row_label"] = log.pop("is_click").astype("float32")
    log["row_weight"] = np.float32(1)
    trained = log[log["row_time"] < SPLIT_MS]

    users = encoded_users(users, trained["row_user"].value_counts())
    items = encoded_items(items, trained["row_item"].value_counts())
    rows = log.merge(users, on="row_user", validate="many_to_one").merge(items, on="row_item", validate="many_to_one")
    rows["clicks"] = histories(rows)
    drawn = negatives(rows, len(items), np.random.default_rng(0))
    rows["row_negatives"], rows["row_negative_probability"] = drawn
    del rows["item"]
    # Not rows.to_parquet: pandas 2 notes each column's type in the file, and does not understand its own list types.
    samples = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata()
    pq.write_table(samples, out)
    return len(trained)


if __name__ == "__main__":
    run(build)
