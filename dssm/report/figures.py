"""The numbers of a run's data report, as profile.json holds them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from dssm.features import Side
from dssm.manifest import JoinCounts, NullCounts, SourceCounts

PROFILE_VERSION: Literal[1] = 1
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Verdict = Literal["stable", "moderate", "large", "within chance"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TokenCounts(_Frozen):
    """How often each of the most frequent ids stands in a column, most frequent first, and the rest in one."""

    tokens: list[str]
    counts: list[int]
    others: int
    unknown: int

    @property
    def total(self) -> int:
        return sum(self.counts) + self.others + self.unknown


class Bins(_Frozen):
    """Counts between edges: bin k holds the values with k edges at or below them."""

    edges: list[float]
    counts: list[float] = Field(description="One more than there are edges.")


class NumberSummary(_Frozen):
    """Of values as they were before their transform; of vectors, of their norms."""

    count: int
    mean: float
    deviation: float
    minimum: float
    maximum: float
    quantiles: list[float] = Field(description="At QUANTILES; of a sample of the rows where those are many.")


class FeatureProfile(_Frozen):
    """A feature in one dataset."""

    kind: str
    side: Side
    missing: int | None = Field(
        description="Rows with an empty list or without a vector; of a number, those at its stand-in for null. "
        "None: null and unknown are one id."
    )
    entries: int = Field(0, description="Ids in all rows, without padding.")
    unknown: int = Field(0, description="Those that are unknown or null.")
    ids: TokenCounts | None = None
    lengths: list[int] = Field(default_factory=list, description="Rows by number of entries, from 0.")
    numbers: NumberSummary | None = None
    bins: dict[str, Bins] = Field(default_factory=dict, description="What later dates are compared with.")


class DayProfile(_Frozen):
    day: str
    rows: int
    positives: int
    known: dict[str, int] = Field(default_factory=dict, description="Rows on which a target is known.")
    sums: dict[str, float] = Field(default_factory=dict, description="Sum of the target over them.")


class NegativesProfile(_Frozen):
    """What was drawn of one kind of negatives."""

    asked: int
    found: int
    by_popularity: list[int] = Field(description="Drawn items by POPULARITY_GROUPS.")


class PartProfile(_Frozen):
    """A dataset of samples."""

    rows: int
    files: int
    users: int
    items: int
    counts_are_exact: bool = Field(description="Of users and items; else they are estimates.")
    positives: int
    weight: float = Field(description="Sum of the sample weights.")
    days: list[DayProfile]
    features: dict[str, FeatureProfile]
    negatives: dict[str, NegativesProfile] = Field(default_factory=dict)


class Popularity(_Frozen):
    """Training positives of the catalogue's items."""

    items: int
    never: int = Field(description="Items without a training positive.")
    half: int = Field(description="The most popular items that have half of the positives together.")
    top_1_percent: float = Field(description="Share of the positives that the most popular 1 % of the items have.")
    top_10_percent: float
    ranks: list[int] = Field(description="Points of the curve, from 1.")
    counts: list[int]
    items_by_group: list[int] = Field(description="By POPULARITY_GROUPS.")
    positives_by_group: list[int]


POPULARITY_GROUPS = ("top 1 %", "1 to 10 %", "10 to 50 %", "50 to 100 %", "no positive")


class Coverage(_Frozen):
    """A vocabulary, over all features that use it. Shares are of ids in the rows; None where there is no row."""

    rule: str
    size: int
    features: list[str]
    train: float | None
    test: float | None


class Drift(_Frozen):
    """How far a feature's distribution moved: the population stability index Σ (p − q) ln(p/q)."""

    feature: str
    measure: str = Field(description="ids, bucket, number, norm, length or missing.")
    part: str
    psi: float
    chance: float = Field(description="Exceeded in one of twenty cases by chance, were all rows independent.")
    moved: str = Field(description="The bucket that moved most, with its share before and after.")

    @property
    def verdict(self) -> Verdict:
        if self.psi <= self.chance:
            return "within chance"
        return "stable" if self.psi < 0.1 else "moderate" if self.psi < 0.25 else "large"


class Profile(_Frozen):
    """All that the report shows but the settings."""

    profile_version: Literal[1] = PROFILE_VERSION
    name: str
    date: str
    build: str
    previous: str | None = Field(description="Date that the drift is against.")
    rows: dict[str, int] = Field(description="Of each dataset.")
    sources: dict[str, SourceCounts]
    joins: list[JoinCounts]
    quarantine: dict[str, dict[str, list[str]]] = Field(description="Examples by source and reason.")
    nulls: dict[str, NullCounts] = Field(default_factory=dict, description="By feature, as in the samples' manifest.")
    parts: dict[str, PartProfile]
    vocabularies: dict[str, Coverage]
    popularity: Popularity
    drift: list[Drift] = Field(description="The largest index first.")
