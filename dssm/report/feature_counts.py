"""What one feature holds in a dataset, counted batch by batch."""

from __future__ import annotations

from typing import Protocol

import numpy as np

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
from dssm.report.counting import IdCounts, Moments
from dssm.report.dataset import Run
from dssm.report.decoding import restored, stand_in
from dssm.report.drift import bucket_tenths, compared, id_drift, number_drift, spread, tenths
from dssm.report.figures import QUANTILES, Bins, Drift, FeatureProfile, NumberSummary, TokenCounts

TOP_TOKENS = 500


class FeatureCounts(Protocol):
    """The counts of one feature."""

    def add(self, values: np.ndarray) -> np.ndarray | None:
        """Takes a batch of the feature's column, (rows, …).

        Returns: a number of each row, (rows,), of which a sample is to be kept; None where there is none.
        """

    def profile(self, sample: np.ndarray | None) -> FeatureProfile:
        """Sums the counts up; `sample` is of what `add` returned."""

    def drift(self, part: str, before: FeatureProfile, sample: np.ndarray | None) -> list[Drift]:
        """Compares with the feature in the same dataset of an earlier date."""


def feature_counts(run: Run, feature: AnyFeature) -> FeatureCounts:
    """Returns counts of nothing yet."""
    if isinstance(feature, DenseFeat):
        is_table = feature.pre_embed is not None and run.settings.vectors[feature.pre_embed].storage == "table"
        return VectorRows(feature) if is_table else Numbers(run, feature)
    return Ids(run, feature)


class Ids:
    """Of a SparseFeat or a list."""

    def __init__(self, run: Run, feature: EmbeddedFeature) -> None:
        self._run, self._feature = run, feature
        self._ids = IdCounts(run.vocabulary(feature.vocabulary).size)
        self._lengths = IdCounts(feature.maxlen + 1) if isinstance(feature, VarLenSparseFeat) else None
        is_bucketised = isinstance(feature, SparseFeat) and feature.is_bucketised
        self._boundaries = run.boundaries(feature.vocabulary) if is_bucketised else None

    def add(self, values: np.ndarray) -> None:
        self._ids.add(values)
        if self._lengths is not None:
            self._lengths.add((values != PADDING_ID).sum(axis=1))

    @property
    def _entries(self) -> int:
        return int(self._ids.counts[UNKNOWN_ID:].sum())

    @property
    def _unknown(self) -> int:
        return int(self._ids.counts[UNKNOWN_ID])

    def profile(self, sample: np.ndarray | None) -> FeatureProfile:
        bins: dict[str, Bins] = {}
        lengths = self._lengths.counts if self._lengths is not None else None
        if lengths is not None:
            bins["length"] = tenths(np.arange(len(lengths)), lengths)
        if self._boundaries is not None:
            bins["bucket"] = bucket_tenths(self._ids.counts[FIRST_TOKEN_ID:], self._boundaries)
        return FeatureProfile(
            kind=self._feature.kind,
            side=self._feature.side,
            missing=None if lengths is None else int(lengths[0]),
            entries=self._entries,
            unknown=self._unknown,
            ids=top_tokens(self._run, self._feature, self._ids.counts),
            lengths=[] if lengths is None else lengths.tolist(),
            bins=bins,
        )

    def drift(self, part: str, before: FeatureProfile, sample: np.ndarray | None) -> list[Drift]:
        name, counts = self._feature.name, self._ids.counts
        found = []
        if self._boundaries is not None and "bucket" in before.bins:
            values = spread(counts[FIRST_TOKEN_ID:], self._boundaries)
            found.append(number_drift(name, "bucket", part, before.bins["bucket"], *values))
        elif before.ids is not None:
            places = self._run.ids(self._feature.vocabulary, before.ids.tokens)
            after = np.where(places >= 0, counts[places], 0)
            found.append(id_drift(name, part, before.ids, after, self._entries, self._unknown))
        if self._lengths is not None and "length" in before.bins:
            lengths = self._lengths.counts
            found.append(number_drift(name, "length", part, before.bins["length"], np.arange(len(lengths)), lengths))
        return found


class Numbers:
    """Of a number, as it was before its transform, or of the norms of vectors."""

    def __init__(self, run: Run, feature: DenseFeat) -> None:
        self._feature, self._statistics = feature, run.manifest.statistics.get(feature.name)
        self._measure = "number" if feature.is_number else "norm"
        self._null = stand_in(feature, self._statistics)
        self._missing, self._moments = 0, Moments()

    def add(self, values: np.ndarray) -> np.ndarray:
        if self._feature.is_number:
            numbers = restored(self._feature, values, self._statistics)
            self._missing += int(np.isclose(values, self._null, rtol=1e-6, atol=1e-7).sum())
        else:
            numbers = np.sqrt(np.einsum("rw,rw->r", values, values, dtype=np.float64))
            self._missing += int((numbers == 0).sum())
        self._moments.add(numbers)
        return numbers

    def profile(self, sample: np.ndarray | None) -> FeatureProfile:
        found = FeatureProfile(kind=self._feature.kind, side=self._feature.side, missing=self._missing)
        if sample is None or len(sample) == 0:
            return found
        moments = self._moments
        numbers = NumberSummary(
            count=moments.count,
            mean=moments.mean,
            deviation=moments.deviation,
            minimum=moments.minimum,
            maximum=moments.maximum,
            quantiles=np.quantile(sample, QUANTILES).tolist(),
        )
        bins = {self._measure: tenths(sample, np.ones(len(sample)))}
        return found.model_copy(update={"numbers": numbers, "bins": bins})

    def drift(self, part: str, before: FeatureProfile, sample: np.ndarray | None) -> list[Drift]:
        bins = before.bins.get(self._measure)
        if bins is None or sample is None:
            return []
        return [number_drift(self._feature.name, self._measure, part, bins, sample, np.ones(len(sample)))]


class VectorRows:
    """Of row numbers of a frozen table of vectors, which say only whether there is one."""

    def __init__(self, feature: DenseFeat) -> None:
        self._feature, self._rows, self._missing = feature, 0, 0

    def add(self, values: np.ndarray) -> None:
        self._rows += len(values)
        self._missing += int((values.reshape(len(values), -1) == 0).all(axis=1).sum())

    @property
    def _bins(self) -> Bins:
        return Bins(edges=[0.5], counts=[self._rows - self._missing, self._missing])  # of 1 where a vector is missing

    def profile(self, sample: np.ndarray | None) -> FeatureProfile:
        bins = {"missing": self._bins}
        return FeatureProfile(kind=self._feature.kind, side=self._feature.side, missing=self._missing, bins=bins)

    def drift(self, part: str, before: FeatureProfile, sample: np.ndarray | None) -> list[Drift]:
        if "missing" not in before.bins:
            return []
        was, now = (np.array(bins.counts) for bins in (before.bins["missing"], self._bins))
        return [compared(self._feature.name, "missing", part, ["a vector", "no vector"], was, now)]


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
