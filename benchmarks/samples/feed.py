"""The feed: KuaiRand's events again and again, each copy with new users, as Parquet files."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.samples.task import (
    AUTHOR,
    ITEM_DENSE,
    ITEM_ID,
    ITEM_SPARSE,
    TAGS,
    USER_DENSE,
    USER_ID,
    USER_SPARSE,
)

EVENTS, USERS, ITEMS, DONE = "events", "users.parquet", "items.parquet", "feed.json"
ROWS_PER_FILE = 500_000
USER_STEP, ITEM_STEP, AUTHOR_STEP = 100_000, 10_000, 10_000_000  # above the largest id of the log
TIME_STEP_MS = 7_919
USERS_PER_ITEM_COPY = 4
SKEW = 100  # every 100th event is the heavy user's, and every 100th the heavy item's
VERSION = 1


@dataclass(frozen=True)
class FeedSpec:
    """How large a feed is, and whether one user and one item have 1 % of all events each."""

    events: int
    skew: bool = False
    version: int = VERSION

    @property
    def name(self) -> str:
        return f"samples-{self.events}{'-skew' if self.skew else ''}"


def made_feed(data: Path, cache: Path, spec: FeedSpec) -> Path:
    """Returns the folder of a feed, which is made unless an earlier run has made it.

    Args:
      data: folder of the KuaiRand extract.
      cache: folder of the feeds.
    """
    folder = cache / spec.name
    wanted = asdict(spec)
    if (folder / DONE).exists() and json.loads((folder / DONE).read_text()) == wanted:
        return folder
    scratch = folder.with_name(f"{folder.name}.tmp")
    for old in (folder, scratch):
        shutil.rmtree(old, ignore_errors=True)
    (scratch / EVENTS).mkdir(parents=True)
    log = pd.read_csv(data / "events.csv.gz", usecols=[USER_ID, ITEM_ID, "time_ms", "is_click", "long_view"])
    write_events(log, scratch / EVENTS, spec)
    copies = copies_of(spec.events, len(log))
    users = pd.read_csv(data / "users.csv.gz", usecols=[USER_ID, *USER_SPARSE, USER_DENSE])
    _write(_copied(users, copies, {USER_ID: USER_STEP}), scratch / USERS)
    items = pd.read_csv(data / "videos.csv", usecols=[ITEM_ID, AUTHOR, *ITEM_SPARSE, ITEM_DENSE, TAGS])
    item_copies = -(-copies // USERS_PER_ITEM_COPY)
    _write(_copied(items, item_copies, {ITEM_ID: ITEM_STEP, AUTHOR: AUTHOR_STEP}), scratch / ITEMS)
    (scratch / DONE).write_text(json.dumps(wanted))
    scratch.rename(folder)
    return folder


def copies_of(events: int, log_rows: int) -> int:
    return -(-events // log_rows)


def write_events(log: pd.DataFrame, folder: Path, spec: FeedSpec) -> None:
    """Writes spec.events events, as good as sorted by time, in files of about ROWS_PER_FILE.

    Memory is that of one file, at any size: a file holds a stretch of the log in all its copies.

    Args:
      log: user_id, video_id, time_ms and further columns, sorted by time.
    """
    files = -(-spec.events // ROWS_PER_FILE)
    edges = np.linspace(0, len(log), files + 1).astype(int)
    written = 0
    for number, (begin, end) in enumerate(itertools.pairwise(edges)):
        events = replicated(log, begin, end, spec.events)
        if spec.skew:
            place = written + np.arange(len(events))
            events.loc[place % SKEW == 0, USER_ID] = log[USER_ID].iloc[0]
            events.loc[place % SKEW == SKEW // 2, ITEM_ID] = log[ITEM_ID].iloc[0]
        written += len(events)
        _write(events, folder / f"part-{number:05d}.parquet")


def replicated(log: pd.DataFrame, begin: int, end: int, total: int) -> pd.DataFrame:
    """Returns rows begin…end of the log in as many copies as `total` events need, sorted by time.

    The last copy is thinned evenly, so that all stretches together are exactly `total` events. Copy c has its own
    users, the items of copy c // 4, and times c · 7.9 s later.
    """
    rows, copies = len(log), copies_of(total, len(log))
    rest = total - (copies - 1) * rows
    place = np.arange(begin, end)
    thinned = place[(place + 1) * rest // rows > place * rest // rows]
    source = np.concatenate([np.tile(place, copies - 1), thinned])
    copy = np.concatenate([np.repeat(np.arange(copies - 1), len(place)), np.full(len(thinned), copies - 1)])
    events = log.iloc[source].reset_index(drop=True)
    events[USER_ID] += copy * USER_STEP
    events[ITEM_ID] += copy // USERS_PER_ITEM_COPY * ITEM_STEP
    events["time_ms"] += copy * TIME_STEP_MS
    return events.sort_values("time_ms", kind="stable", ignore_index=True)


def _copied(table: pd.DataFrame, copies: int, steps: dict[str, int]) -> pd.DataFrame:
    made = pd.concat([table] * copies, ignore_index=True)
    copy = np.repeat(np.arange(copies), len(table))
    for column, step in steps.items():
        made[column] += copy * step
    return made


def _write(table: pd.DataFrame, path: Path) -> None:
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), path)
