"""The rows of one task's users in the order of time: events, and rows of profiles. Pure Arrow and NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dssm.manifest import (
    EVENT_TIME,
    ITEM_INDEX,
    LABEL,
    SOURCE,
    USER_ID,
    USER_KEY,
    WEIGHT,
    ColumnSpec,
    target_column,
)
from dssm.packing import unpack
from dssm.samples.pass_columns import EVENT, FATE_CODE, HASH, IN_LOG, KIND, TEST_ROW, TRAIN_ROW, WORDS
from dssm.samples.pass_plan import PassPlan
from dssm.samples.timeline import Clock, Entries, sorted_places


@dataclass(frozen=True)
class UserLog:
    """Some of a task's events: their places in time, items, and the positives before each, in all at the end."""

    entries: Entries
    items: np.ndarray
    positives_before: np.ndarray


def of_users_with_events(table: pa.Table) -> pa.Table:
    """Returns the rows of users with an event.

    Nothing is asked of the others, of whom a profile or a previous model may know many times as many: they are neither
    ordered nor counted by the clock.
    """
    codes = pc.dictionary_encode(table[USER_ID].combine_chunks()).indices.to_numpy()
    wanted = np.isin(codes, codes[_numbers(table[KIND]) == EVENT])
    return table if wanted.all() else table.filter(pa.array(wanted))


class TaskRows:
    """The rows of one task's users, ordered.

    Attributes:
      user_ids, user_key, split: of each user; `split` is the time before which its events are known, in ms.
      user, time, item, source, hash, label, weight, targets, fate, in_log, positive: of each event, by user and
        time; `user` is its number.
      profiles: each profile's rows, by user and time, and their words, the default's behind: (rows + 1, width).
    """

    def __init__(self, plan: PassPlan, table: pa.Table) -> None:
        """Args: table: has the columns of `input_fields`."""
        self._plan = plan
        names = pc.dictionary_encode(table[USER_ID].combine_chunks())
        self.user_ids, codes = names.dictionary, names.indices.to_numpy().astype(np.int64)
        kind, times = _numbers(table[KIND]), _numbers(table[EVENT_TIME])
        events = np.flatnonzero(kind == EVENT)
        self._clock = Clock.over(len(self.user_ids), times, np.array([plan.test_start]))
        item, hashes = _numbers(table[ITEM_INDEX])[events], _numbers(table[HASH])[events]
        # Item and hash order equal times the same way in every build.
        order = events[sorted_places(self._clock.key(codes[events], times[events]), item, hashes)]
        self.user, self.time = codes[order], times[order]
        self.item = _numbers(table[ITEM_INDEX])[order]
        self.source, self.hash = _numbers(table[SOURCE])[order], _numbers(table[HASH])[order]
        self.label, self.weight = _numbers(table[LABEL])[order], _numbers(table[WEIGHT])[order]
        self.targets = {name: _numbers(table[target_column(name)])[order] for name in plan.targets}
        self.fate, self.in_log = _numbers(table[FATE_CODE])[order], _numbers(table[IN_LOG])[order]
        self.user_key = np.zeros(len(self.user_ids), np.int64)
        self.user_key[codes] = _numbers(table[USER_KEY])
        self._key = self._clock.key(self.user, self.time)
        self.positive = self.label > 0
        unclicked = (self.fate == TRAIN_ROW) & ~self.positive
        self.weight = np.where(unclicked, self.weight * np.float32(plan.unclicked_weight), self.weight)
        self.profiles = [
            self._profile(table, codes, times, np.flatnonzero(kind == number), profile.default())
            for number, profile in enumerate(plan.profiles)
        ]
        self.split = self._splits()
        self._logs: dict[tuple[object, ...], UserLog] = {}

    def _profile(
        self, table: pa.Table, codes: np.ndarray, times: np.ndarray, rows: np.ndarray, default: np.ndarray
    ) -> tuple[Entries, np.ndarray]:
        keys = self._clock.key(codes[rows], times[rows])
        order = np.argsort(keys, kind="stable")
        words = table[WORDS].combine_chunks().take(pa.array(rows[order]))
        spec = ColumnSpec(dtype="int32", shape=default.shape, encoding="packed")
        return Entries(self._clock, keys[order]), np.concatenate([unpack(words, spec), default[None]])

    def _splits(self) -> np.ndarray:
        split = np.full(len(self.user_ids), self._plan.test_start)
        if self._plan.by_user:
            tested = self.fate == TEST_ROW
            np.minimum.at(split, self.user[tested], self.time[tested])
        return split

    def log(self, sources: tuple[str, ...], positives: bool) -> UserLog:
        """Returns what users did in some sources; every block of samples asks for the same few."""
        key = (*sources, positives)
        if key not in self._logs:
            rows = self.rows_of(sources)
            self._logs[key] = self.log_of(np.flatnonzero(rows & self.positive if positives else rows))
        return self._logs[key]

    def rows_of(self, sources: tuple[str, ...]) -> np.ndarray:
        """Returns which events are of the log of some sources, (events,) bool."""
        return self.in_log & np.isin(self.source, [self._plan.sources.index(name) for name in sources])

    def log_of(self, rows: np.ndarray) -> UserLog:
        """Returns the log of events at these places, ascending."""
        positives = np.concatenate([[0], np.cumsum(self.positive[rows])])
        return UserLog(Entries(self._clock, self._key[rows]), self.item[rows], positives)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Returns a column as numbers; null, where a row has no such column, is 0."""
    filled = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if filled.null_count:
        filled = pc.fill_null(filled, pa.scalar(0, filled.type) if filled.type != pa.bool_() else False)
    return filled.to_numpy(zero_copy_only=False)
