"""One pass over a dataset, batch by batch: everything the report says about it.

In memory are one batch, 8 bytes for each id of each feature, and a sample of the numbers.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dssm.config import DAY, Settings, day_start_ms
from dssm.errors import UserError
from dssm.features import (
    FIRST_TOKEN_ID,
    PADDING_ID,
    UNKNOWN_ID,
    AnyFeature,
    DenseFeat,
    EmbeddedFeature,
    SparseFeat,
    VarLenSparseFeat,
)
from dssm.manifest import (
    EVENT_TIME,
    ITEM_INDEX,
    ITEM_KEY,
    ITEM_PROBABILITY,
    LABEL,
    NEGATIVES,
    USER_KEY,
    WEIGHT,
    target_column,
)
from dssm.packing import unpack_all
from dssm.report.counting import DistinctCount, IdCounts, Moments, RowSample
from dssm.report.dataset import MADE_BY, Run
from dssm.report.decoding import restored, stand_in
from dssm.report.drift import bucket_tenths, id_drift, number_drift, spread, tenths
from dssm.report.figures import (
    POPULARITY_GROUPS,
    QUANTILES,
    Bins,
    DayProfile,
    Drift,
    FeatureProfile,
    NegativesProfile,
    NumberSummary,
    PartProfile,
    Popularity,
    TokenCounts,
)

TOP_TOKENS = 500
SAMPLE_ROWS = 100_000
CURVE_POINTS = 60

Columns = Mapping[str, np.ndarray]


# Popularity --------------------------------------------------------------------------------------------


def item_shares(run: Run) -> np.ndarray:
    """Returns each item's share of the training positives, (items,) by item index."""
    items = run.part("items")
    shares = np.zeros(items.manifest.rows, np.float64)
    for batch in items.batches([ITEM_INDEX, ITEM_PROBABILITY]):
        shares[batch.column(0).to_numpy()] = batch.column(1).to_numpy()
    return shares


def popularity_groups(shares: np.ndarray) -> np.ndarray:
    """Returns each item's place in POPULARITY_GROUPS, (items,) uint8; ties of popularity in the items' order."""
    limits = np.ceil(len(shares) * np.array([0.01, 0.1, 0.5])).astype(np.int64)
    groups = np.empty(len(shares), np.uint8)
    groups[np.argsort(-shares, kind="stable")] = np.searchsorted(limits, np.arange(len(shares)), side="right")
    groups[shares == 0] = len(POPULARITY_GROUPS) - 1
    return groups


def popularity(shares: np.ndarray, positives: int) -> Popularity:
    """Describes the popularity curve.

    Args:
      shares: (items,), of the training positives. positives: how many those are.
    """
    groups, size = popularity_groups(shares), len(POPULARITY_GROUPS)
    descending = np.sort(shares)[::-1]
    total = descending.sum() or 1.0
    reached = np.concatenate([[0.0], np.cumsum(descending)]) / total
    clicked = int((shares > 0).sum())
    ranks = np.unique(np.geomspace(1, clicked, CURVE_POINTS).round().astype(np.int64)) if clicked else np.zeros(0, int)
    return Popularity(
        items=len(shares),
        never=len(shares) - clicked,
        half=int(np.searchsorted(reached, 0.5 - 1e-9)) if clicked else 0,
        top_1_percent=float(reached[int(np.ceil(len(shares) * 0.01))]),
        top_10_percent=float(reached[int(np.ceil(len(shares) * 0.1))]),
        ranks=ranks.tolist(),
        counts=(descending[ranks - 1] * positives).round(2).tolist(),
        items_by_group=np.bincount(groups, minlength=size).tolist(),
        positives_by_group=(np.bincount(groups, shares, size) / total).tolist(),
    )


# Features ----------------------------------------------------------------------------------------------


class FeatureCounts:
    """What one feature holds in the batches seen so far."""

    def __init__(self, run: Run, feature: AnyFeature) -> None:
        self._run, self._feature = run, feature
        self.rows = self.missing = 0
        self._ids = self._lengths = None
        if isinstance(feature, (SparseFeat, VarLenSparseFeat)):
            self._ids = IdCounts(run.vocabulary(feature.vocabulary).size)
        if isinstance(feature, VarLenSparseFeat):
            self._lengths = IdCounts(feature.maxlen + 1)
        self._moments = Moments()
        self._statistics = run.manifest.statistics.get(feature.name)

    def add(self, values: np.ndarray) -> np.ndarray | None:
        """Takes a batch of the feature's column, (rows, …).

        Returns: what is to be sampled of each row, (rows,): the number as it was before the transform, or the
          norm of the vector; None for ids.
        """
        self.rows += len(values)
        feature = self._feature
        if isinstance(feature, DenseFeat):
            return self._add_numbers(feature, values)
        assert self._ids is not None
        self._ids.add(values)
        if self._lengths is not None:
            lengths = (values != PADDING_ID).sum(axis=1)
            self._lengths.add(lengths)
            self.missing += int((lengths == 0).sum())
        return None

    def _add_numbers(self, feature: DenseFeat, values: np.ndarray) -> np.ndarray | None:
        if feature.pre_embed is None:
            numbers = restored(feature, values, self._statistics)
            self.missing += int(np.isclose(values, stand_in(feature, self._statistics), rtol=1e-6, atol=1e-7).sum())
        elif values.dtype.kind == "f":
            numbers = np.sqrt(np.einsum("rw,rw->r", values, values, dtype=np.float64))
            self.missing += int((numbers == 0).sum())
        else:  # row numbers of a frozen table
            self.missing += int((values.reshape(len(values), -1) == 0).all(axis=1).sum())
            return None
        self._moments.add(numbers)
        return numbers

    @property
    def _measure(self) -> str:
        return "norm" if isinstance(self._feature, DenseFeat) and self._feature.pre_embed is not None else "number"

    @property
    def _is_bucketised(self) -> bool:
        return isinstance(self._feature, SparseFeat) and self._feature.is_bucketised

    def _known(self) -> np.ndarray:
        assert self._ids is not None
        return self._ids.counts[FIRST_TOKEN_ID:]

    def profile(self, sample: np.ndarray | None) -> FeatureProfile:
        """Sums the counts up.

        Args:
          sample: of what `add` returned.
        """
        found = FeatureProfile(kind=self._feature.kind, side=self._feature.side, missing=self.missing)
        bins: dict[str, Bins] = {}
        changes: dict[str, Any] = {}
        if sample is not None and self._moments.count:
            changes["numbers"] = NumberSummary(
                count=self._moments.count,
                mean=self._moments.mean,
                deviation=self._moments.deviation,
                minimum=self._moments.minimum,
                maximum=self._moments.maximum,
                quantiles=np.quantile(sample, QUANTILES).tolist(),
            )
            bins[self._measure] = tenths(sample, np.ones(len(sample)))
        if self._ids is not None:
            assert isinstance(self._feature, (SparseFeat, VarLenSparseFeat))
            counts = self._ids.counts
            changes |= {"entries": int(counts[UNKNOWN_ID:].sum()), "unknown": int(counts[UNKNOWN_ID])}
            if self._is_bucketised:
                bins["bucket"] = bucket_tenths(self._known(), self._run.boundaries(self._feature.vocabulary))
            changes["ids"] = top_tokens(self._run, self._feature, counts)
        if self._lengths is not None:
            lengths = self._lengths.counts
            changes["lengths"] = lengths.tolist()
            bins["length"] = tenths(np.arange(len(lengths)), lengths)
        elif self._ids is not None:
            changes["missing"] = None
        return found.model_copy(update={**changes, "bins": bins})

    def drift(self, part: str, before: FeatureProfile, sample: np.ndarray | None) -> list[Drift]:
        """Compares with the feature in the same dataset of an earlier date."""
        name, found = self._feature.name, []
        if sample is not None and self._measure in before.bins:
            ones = np.ones(len(sample))
            found.append(number_drift(name, self._measure, part, before.bins[self._measure], sample, ones))
        if self._is_bucketised and "bucket" in before.bins:
            assert isinstance(self._feature, SparseFeat)
            values = spread(self._known(), self._run.boundaries(self._feature.vocabulary))
            found.append(number_drift(name, "bucket", part, before.bins["bucket"], *values))
        elif self._ids is not None and before.ids is not None:
            assert isinstance(self._feature, (SparseFeat, VarLenSparseFeat))
            counts = self._ids.counts
            places = self._run.ids(self._feature.vocabulary, before.ids.tokens)
            after = np.where(places >= 0, counts[places], 0)
            found.append(
                id_drift(name, part, before.ids, after, int(counts[UNKNOWN_ID:].sum()), int(counts[UNKNOWN_ID]))
            )
        if self._lengths is not None and "length" in before.bins:
            lengths = self._lengths.counts
            found.append(number_drift(name, "length", part, before.bins["length"], np.arange(len(lengths)), lengths))
        return found


def top_tokens(run: Run, feature: EmbeddedFeature, counts: np.ndarray) -> TokenCounts:
    """Returns the most frequent ids' words and counts; ties by id.

    Args:
      counts: (vocabulary's size,), by id.
    """
    known = counts[FIRST_TOKEN_ID:]
    top = np.argsort(-known, kind="stable")[:TOP_TOKENS]
    top = top[known[top] > 0] + FIRST_TOKEN_ID
    words = run.words(feature.vocabulary, top)
    return TokenCounts(
        tokens=[words[place] for place in top.tolist()],
        counts=counts[top].tolist(),
        others=int(known.sum() - counts[top].sum()),
        unknown=int(counts[UNKNOWN_ID]),
    )


# Samples -----------------------------------------------------------------------------------------------


class PartCounts:
    """What a dataset of samples holds in the batches seen so far."""

    def __init__(self, run: Run, part: str, groups: np.ndarray) -> None:
        """Reads nothing yet.

        Args:
          part: train or test.
          groups: (items,), each item's popularity group.
        """
        self._run, self.part, self._groups = run, part, groups
        self._dataset = run.part(part)
        columns = self._dataset.manifest.columns
        features = run.settings.features
        absent = [name for name in (*features, USER_KEY, ITEM_KEY, EVENT_TIME, LABEL, WEIGHT) if name not in columns]
        if absent:
            raise UserError(f"{self._dataset.folder}: no column '{absent[0]}'; run {MADE_BY} again")
        self._features = {name: FeatureCounts(run, feature) for name, feature in features.items()}
        self._targets = [name for name in run.settings.target_names if target_column(name) in columns]
        wanted = [*features, USER_KEY, ITEM_KEY, EVENT_TIME, LABEL, WEIGHT, *map(target_column, self._targets)]
        self._columns = {name: columns[name] for name in [*wanted, *([NEGATIVES] if NEGATIVES in columns else [])]}
        self._sample = RowSample(SAMPLE_ROWS, run.settings.seed)
        self._users, self._items = DistinctCount(), DistinctCount()
        self._rows = self._positives = self._candidates = 0
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
        self._candidates += int((positive & (columns[WEIGHT] > 0)).sum())
        self._weight += float(columns[WEIGHT].sum(dtype=np.float64))
        self._days.add(columns[EVENT_TIME], positive, {name: columns[target_column(name)] for name in self._targets})
        if self._negatives is not None:
            self._negatives.add(columns[NEGATIVES][positive])

    @property
    def candidates(self) -> int:
        """Rows that an item's share of the training positives is taken of."""
        return self._candidates

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
