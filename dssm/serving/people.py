"""A user of the samples: its encoded features, and what it acted on before the test window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dssm.manifest import EVENT_TIME, LAST_TIME, POSITIVE, SEEN, USER_ID
from dssm.report.dataset import Dataset, Run


@dataclass(frozen=True)
class History:
    """What a user has an event with before the test window, the newest first.

    Attributes:
      items: (seen,) ids.
      times: (seen,) Unix ms of the newest event with each.
      positive: (seen,), whether one of them had a positive label.
    """

    items: list[str]
    times: np.ndarray
    positive: np.ndarray


NO_HISTORY = History([], np.zeros(0, np.int64), np.zeros(0, bool))


def histories_of(run: Run, users: Sequence[str]) -> list[History]:
    """Returns each user's history, as the dataset `interactions` has it; empty for one that has none."""
    wanted, found = pa.array(users, pa.string()), {}
    for batch in run.part("interactions").batches([USER_ID, SEEN, POSITIVE, LAST_TIME]):
        for row in batch.filter(pc.is_in(batch.column(0), value_set=wanted)).to_pylist():
            items, times = np.array(row[SEEN], np.int64), np.array(row[LAST_TIME], np.int64)
            order = np.lexsort((items, -times))
            found[row[USER_ID]] = items[order], times[order], np.array(row[POSITIVE], np.int64)[order] > 0
    names = run.item_ids(np.concatenate([np.zeros(0, np.int64), *(items for items, _, _ in found.values())]))
    histories = {
        user: History([names[index] for index in items.tolist()], times, positive)
        for user, (items, times, positive) in found.items()
    }
    return [histories.get(user, NO_HISTORY) for user in users]


def row_of(run: Run, user: str) -> tuple[str, pa.Table] | None:
    """Returns a user's encoded row, and the dataset that it is of; None where there is none.

    `users` has features as of the test window's start, of the users that `samples.users` asks for. Of the others the
    newest row of `train` stands in: features as of that event.
    """
    for part in ("users", "train"):
        dataset = run.part(part)
        if USER_ID not in dataset.manifest.columns:
            continue
        place = _newest(dataset, user)
        if place is not None:
            return part, dataset.take(np.array([place]), list(dataset.manifest.columns))
    return None


def _newest(dataset: Dataset, user: str) -> int | None:
    """Returns the place of a user's newest row; None where it has none."""
    columns = [name for name in (USER_ID, EVENT_TIME) if name in dataset.manifest.columns]
    newest: tuple[int, int] | None = None
    start = 0
    for batch in dataset.batches(columns):
        inside = np.flatnonzero(pc.equal(batch.column(0), user).to_numpy(zero_copy_only=False))
        for place in inside.tolist():  # a user's rows: few
            time = batch.column(1)[place].as_py() if len(columns) > 1 else 0
            newest = max(newest or (time, -1), (time, start + place))
        start += len(batch)
    return None if newest is None else newest[1]
