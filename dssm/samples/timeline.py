"""Users' events in the order of time, and what lies before a moment. Pure NumPy.

Everything that a sample may know of the log is asked for here, so that "strictly before" is decided in one place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dssm.samples.ragged import Lists

TOO_MANY_USERS = "users in one task over times"  # by which the driver knows the error of a task


@dataclass(frozen=True)
class Clock:
    """Makes one int64 of a user's number and a time, ascending by user, then time.

    Attributes:
      origin: the earliest time that is asked for, in ms.
      stride: the span of all times, in ms.
    """

    origin: int
    stride: int

    @staticmethod
    def over(users: int, *times: np.ndarray) -> Clock:
        """Returns the clock of so many users and all those times (ms).

        Raises: OverflowError where users × span goes beyond 63 bits: the rows of a task have to be fewer.
        """
        given = [part for part in times if len(part)]
        origin = min((int(part.min()) for part in given), default=0)
        stride = max((int(part.max()) for part in given), default=0) - origin + 1
        if users * stride >= 2**63:
            raise OverflowError(
                f"{users:,} {TOO_MANY_USERS} of {stride:,} ms; expected at most {(2**63 - 1) // stride:,} users"
            )
        return Clock(origin, stride)

    def key(self, users: np.ndarray, times: np.ndarray) -> np.ndarray:
        return users * self.stride + (times - self.origin)


@dataclass(frozen=True)
class Moments:
    """Who asks, and when: `users` (n,) int64 numbers, `times` (n,) int64 in ms."""

    users: np.ndarray
    times: np.ndarray


@dataclass(frozen=True)
class Entries:
    """Some of the events, ascending by user, then time: `keys` (m,) of the clock."""

    clock: Clock
    keys: np.ndarray

    def before(
        self, moments: Moments, last: int | None = None, span_ms: int | None = None, inclusive: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns which entries of its user lie strictly before each moment.

        Args:
          last: at most so many, the newest.
          span_ms: none that is older than this at the moment.
          inclusive: also those at the moment itself.
        Returns: begin and end, (n,) each: the entries begin … end − 1, the newest last.
        """
        own = moments.users * self.clock.stride
        keys = self.clock.key(moments.users, moments.times)
        end = np.searchsorted(self.keys, keys, side="right" if inclusive else "left")
        first = own if span_ms is None else np.maximum(own, keys - span_ms)
        begin = np.searchsorted(self.keys, first)
        if last is not None:
            begin = np.maximum(begin, end - last)
        return np.minimum(begin, end), end


def newest_first(values: np.ndarray, begin: np.ndarray, end: np.ndarray) -> Lists:
    """Returns values[begin:end] of each row, from the last to the first."""
    counts = end - begin
    offsets = np.concatenate([[0], np.cumsum(counts)])
    places = np.repeat(end - 1 + offsets[:-1], counts) - np.arange(offsets[-1])
    return Lists(offsets, values[places])


def appended(lists: Lists, more: Lists, last: int) -> Lists:
    """Returns each row's list, then the entries of `more`, the first `last` of them."""
    room = np.maximum(last - lists.counts, 0)
    taken = np.minimum(more.counts, room)
    first = np.minimum(lists.counts, last)
    offsets = np.concatenate([[0], np.cumsum(first + taken)])
    values = np.empty(offsets[-1], lists.values.dtype)
    for part, counts, start in ((lists, first, offsets[:-1]), (more, taken, offsets[:-1] + first)):
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        values[np.repeat(start, counts) + within] = part.values[np.repeat(part.offsets[:-1], counts) + within]
    return Lists(offsets, values)


def sorted_places(keys: np.ndarray, *ties: np.ndarray) -> np.ndarray:
    """Returns the places of the rows by key; those of equal keys by `ties`, the first one first. All (n,) integers."""
    order = np.argsort(keys)  # by vector instructions, several times as fast as a stable sort of all columns
    ascending = keys[order]
    equal = ascending[1:] == ascending[:-1]
    tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    rows = order[tied]
    order[tied] = rows[np.lexsort((*(tie[rows] for tie in reversed(ties)), keys[rows]))]
    return order


def group_runs(sorted_keys: np.ndarray) -> np.ndarray:
    """Returns where runs of equal keys start, and the number of keys at the end: (runs + 1,)."""
    if len(sorted_keys) == 0:
        return np.zeros(1, np.int64)
    starts = np.flatnonzero(np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]))
    return np.append(starts, len(sorted_keys))
