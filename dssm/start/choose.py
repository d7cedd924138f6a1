"""What to begin with for so much data: the windows, and the sizes of the training. Pure."""

from __future__ import annotations

import datetime as dt
import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

LONGEST_WINDOW = 3660  # days, of the settings
LONGEST_IN_FOLDERS = 30  # train days of a log in folders of days, which grows: a day's run reads so many
STRAYS = 0.001  # share of the events at each end that may be of wrong clocks
BATCHES, LEAST_STEPS, STEPS, EPOCHS = (32, 1024), 100, 1000, (3, 20)
POSITIVES_OF_TWO_RANKS = 100_000


@dataclass(frozen=True)
class Windows:
    """Train on [date − train_days, date), test on [date, date + test_days).

    Attributes: positives: of the train days. can_train: whether both windows have positives.
    """

    date: dt.date
    train_days: int
    test_days: int
    positives: int
    can_train: bool


@dataclass(frozen=True)
class Sizes:
    ranks: int
    batch_size: int
    epochs: int


def by_day(hours: Mapping[int, int], offset_min: int) -> dict[dt.date, int]:
    """Returns the counts of Unix hours by the day, where days begin so many minutes before UTC's.

    >>> by_day({15: 1, 16: 2}, 480)
    {datetime.date(1970, 1, 1): 1, datetime.date(1970, 1, 2): 2}
    """
    days: Counter[dt.date] = Counter()
    for hour, count in hours.items():
        days[dt.date(1970, 1, 1) + dt.timedelta((hour * 60 + offset_min) // 1440)] += count
    return dict(sorted(days.items()))


def span(rows: Mapping[dt.date, int]) -> tuple[dt.date, dt.date]:
    """Returns the first and last day, without the strays of wrong clocks at either end.

    >>> days = {dt.date(1970, 1, 1): 1, dt.date(2024, 1, 1): 2000, dt.date(2024, 1, 2): 2000}
    >>> [day.isoformat() for day in span(days)]
    ['2024-01-01', '2024-01-02']
    """
    few = STRAYS * sum(rows.values())
    ends = []
    for days in (sorted(rows), sorted(rows, reverse=True)):
        so_far = itertools.accumulate(rows[day] for day in days)
        ends.append(next(day for day, count in zip(days, so_far, strict=True) if count > few))
    return ends[0], ends[1]


def estimated(
    first: dt.date, last: dt.date, rows: Mapping[dt.date, int], positives: Mapping[dt.date, int], scale: float
) -> dict[dt.date, float]:
    """Returns about how many positives each day has, where a log was read in part.

    A day that was read and had none has none. The others share what the whole log has, scale times what was read,
    evenly: a day may lie in files that were read, in others, or in both.

    >>> day = [dt.date(2024, 1, number) for number in (1, 2, 3, 4)]
    >>> made = estimated(day[0], day[3], {day[0]: 9, day[3]: 9}, {day[0]: 6}, 2.0)
    >>> [made.get(one) for one in day]
    [4.0, 4.0, 4.0, None]
    """
    days = [first + dt.timedelta(number) for number in range((last - first).days + 1)]
    some = [day for day in days if positives.get(day) or not rows.get(day)]
    whole = scale * sum(positives.get(day, 0) for day in some)
    return dict.fromkeys(some, whole / max(len(some), 1))


def windows(first: dt.date, last: dt.date, positives: Mapping[dt.date, float], in_folders: bool) -> Windows:
    """Chooses the last tenth of the days for the test, or as many as hold a positive, and the others to train on.

    Of a log in folders of days the newest are taken: a tenth of all would grow with it.
    """
    days = (last - first).days + 1
    taken = min(days, LONGEST_IN_FOLDERS + LONGEST_IN_FOLDERS // 9) if in_folders else days
    held = [day for day in positives if first <= day <= last and positives[day] > 0]
    since = (last - max(held)).days + 1 if held else 1  # the newest positive is tested
    test = min(max(1, taken // 10, since), max(days - 1, 1), LONGEST_WINDOW)
    train = min(max(days - test, 1), LONGEST_IN_FOLDERS if in_folders else LONGEST_WINDOW)
    date = last - dt.timedelta(test - 1)
    of_train = sum(positives[day] for day in held if dt.timedelta(0) < date - day <= dt.timedelta(train))
    return Windows(date, train, test, round(of_train), of_train > 0 and any(day >= date for day in held))


def sizes(positives: int) -> Sizes:
    """Chooses the sizes of a training on so many rows.

    Two ranks only where each has sample files enough; batches as large as leave an epoch its steps, for one of a few
    steps learns nothing; and more epochs the fewer its steps are.

    >>> sizes(690), sizes(20_000)
    (Sizes(ranks=1, batch_size=32, epochs=20), Sizes(ranks=1, batch_size=128, epochs=7))
    """
    ranks = 2 if positives >= POSITIVES_OF_TWO_RANKS else 1
    batch = BATCHES[0]
    while batch < BATCHES[1] and positives // (2 * batch * ranks) >= LEAST_STEPS:
        batch *= 2
    steps = max(positives // (batch * ranks), 1)
    return Sizes(ranks, batch, min(max(-(-STEPS // steps), EPOCHS[0]), EPOCHS[1]))


def least_count(positives: int, users: int) -> int:
    """Returns how often a user must stand in the training to have an embedding: a quarter of the mean, 1 to 5.

    >>> least_count(690, 400), least_count(12_000, 1000), least_count(10**6, 1000)
    (1, 3, 5)
    """
    return min(max(positives // (4 * max(users, 1)), 1), 5)
