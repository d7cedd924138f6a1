"""One pass over a dataset of samples, batch by batch: everything the report says about it.

In memory are one batch, 8 bytes for each id of each feature, and a sample of the numbers.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

import numpy as np

from dssm.config import DAY, Settings, day_start_ms
from dssm.errors import UserError
from dssm.manifest import EVENT_TIME, ITEM_KEY, LABEL, NEGATIVES, USER_KEY, WEIGHT, target_column
from dssm.packing import unpack_all
from dssm.report.counting import DistinctCount, RowSample
from dssm.report.dataset import MADE_BY, Run
from dssm.report.feature_counts import feature_counts
from dssm.report.figures import POPULARITY_GROUPS, DayProfile, Drift, NegativesProfile, PartProfile

SAMPLE_ROWS = 100_000

Columns = Mapping[str, np.ndarray]


class PartCounts:
    """What a dataset of samples holds in the batches seen so far."""

    def __init__(self, run: Run, part: str, groups: np.ndarray) -> None:
        """Reads nothing yet.

        Args:
          part: train or test.
          groups: (items,), each item's popularity group.
        """
        self.part = part
        self._dataset = run.part(part)
        columns = self._dataset.manifest.columns
        features = run.settings.features
        absent = [name for name in (*features, USER_KEY, ITEM_KEY, EVENT_TIME, LABEL, WEIGHT) if name not in columns]
        if absent:
            raise UserError(f"{self._dataset.folder}: no column '{absent[0]}'; run {MADE_BY} again")
        self._features = {name: feature_counts(run, feature) for name, feature in features.items()}
        self._targets = [name for name in run.settings.target_names if target_column(name) in columns]
        wanted = [*features, USER_KEY, ITEM_KEY, EVENT_TIME, LABEL, WEIGHT, *map(target_column, self._targets)]
        self._columns = {name: columns[name] for name in [*wanted, *([NEGATIVES] if NEGATIVES in columns else [])]}
        self._sample = RowSample(SAMPLE_ROWS, run.settings.seed)
        self._users, self._items = DistinctCount(), DistinctCount()
        self._rows = self._positives = 0
        self._weight = 0.0
        self._days = _DayCounts(run.settings, self._targets)
        self._negatives = _NegativeCounts(run.settings, groups) if NEGATIVES in columns else None

    def read(self) -> PartCounts:
        """Takes all batches of the dataset."""
        for batch in self._dataset.batches(list(self._columns)):
            self.add(unpack_all(batch, self._columns))
        return self

    def add(self, columns: Columns) -> None:
        """Takes a batch; each column is (rows, …)."""
        sampled = {name: counts.add(columns[name]) for name, counts in self._features.items()}
        self._sample.add({name: values for name, values in sampled.items() if values is not None})
        self._users.add(columns[USER_KEY])
        self._items.add(columns[ITEM_KEY])
        positive = columns[LABEL] > 0
        self._rows += len(positive)
        self._positives += int(positive.sum())
        self._weight += float(columns[WEIGHT].sum(dtype=np.float64))
        self._days.add(columns[EVENT_TIME], positive, {name: columns[target_column(name)] for name in self._targets})
        if self._negatives is not None:
            self._negatives.add(columns[NEGATIVES][positive])

    def profile(self) -> PartProfile:
        return PartProfile(
            rows=self._rows,
            files=len(self._dataset.manifest.files),
            users=self._users.count,
            items=self._items.count,
            counts_are_exact=self._users.is_exact and self._items.is_exact,
            positives=self._positives,
            weight=self._weight,
            days=self._days.profile(),
            features={name: f.profile(self._sample.values.get(name)) for name, f in self._features.items()},
            negatives={} if self._negatives is None else self._negatives.profile(),
        )

    def drift(self, before: PartProfile) -> list[Drift]:
        """Compares with the same dataset of an earlier date."""
        both = [name for name, found in before.features.items() if name in self._features]
        return [
            drift
            for name in both
            for drift in self._features[name].drift(self.part, before.features[name], self._sample.values.get(name))
        ]


class _DayCounts:
    """Rows, positives and targets of each day of the windows, in the settings' time zone."""

    def __init__(self, settings: Settings, targets: Sequence[str]) -> None:
        self._days = settings.window_days()
        following = [*self._days, self._days[-1] + DAY]
        self._starts = np.array([day_start_ms(day, settings.timezone) for day in following], np.int64)
        self._counts = np.zeros((2, len(self._days)), np.int64)
        self._targets = {name: np.zeros((2, len(self._days))) for name in targets}

    def add(self, times: np.ndarray, positive: np.ndarray, targets: Columns) -> None:
        day = np.searchsorted(self._starts, times, side="right") - 1
        inside = (day >= 0) & (day < len(self._days))
        self._counts[0] += np.bincount(day[inside], minlength=len(self._days))
        self._counts[1] += np.bincount(day[inside & positive], minlength=len(self._days))
        for name, values in targets.items():
            known = inside & ~np.isnan(values)
            self._targets[name][0] += np.bincount(day[known], minlength=len(self._days))
            self._targets[name][1] += np.bincount(day[known], values[known], len(self._days))

    def profile(self) -> list[DayProfile]:
        """Returns the days from the first to the last that has a row."""
        used = np.flatnonzero(self._counts[0])
        if len(used) == 0:
            return []
        return [self._day(place, self._days[place]) for place in range(used[0], used[-1] + 1)]

    def _day(self, place: int, day: dt.date) -> DayProfile:
        return DayProfile(
            day=day.isoformat(),
            rows=int(self._counts[0, place]),
            positives=int(self._counts[1, place]),
            known={name: int(sums[0, place]) for name, sums in self._targets.items()},
            sums={name: float(sums[1, place]) for name, sums in self._targets.items()},
        )


class _NegativeCounts:
    """Negatives asked for and found, by kind and by the popularity of what was drawn."""

    def __init__(self, settings: Settings, groups: np.ndarray) -> None:
        self._kinds = {name: kind.count for name, kind in settings.samples.negatives.items()}
        self._groups, self._rows = groups, 0
        self._drawn = {name: np.zeros(len(POPULARITY_GROUPS), np.int64) for name in self._kinds}

    def add(self, indexes: np.ndarray) -> None:
        """Takes the item indexes of positives' negatives, (rows, all kinds' counts)."""
        self._rows += len(indexes)
        first = 0
        for name, count in self._kinds.items():
            of_kind = indexes[:, first : first + count]
            found = self._groups[of_kind[of_kind >= 0]]
            self._drawn[name] += np.bincount(found, minlength=len(POPULARITY_GROUPS))
            first += count

    def profile(self) -> dict[str, NegativesProfile]:
        return {
            name: NegativesProfile(
                asked=self._rows * count, found=int(self._drawn[name].sum()), by_popularity=self._drawn[name].tolist()
            )
            for name, count in self._kinds.items()
        }
