"""What a reader of the report should look at first."""

from __future__ import annotations

from collections.abc import Iterator

from dssm.config import Settings
from dssm.report.decoding import percent
from dssm.report.figures import FeatureProfile, Profile
from dssm.report.html import few, ratio

LOW_MATCH, LOW_COVERAGE, LOW_FOUND, MISSING_GAP = 0.5, 0.8, 0.9, 0.1
DRIFTS_TOLD = 5


def remarks(profile: Profile, settings: Settings) -> Iterator[tuple[str, str]]:
    """Yields what a reader should look at first, as (section, sentence)."""
    for name, counts in profile.sources.items():
        if counts.missing_days:
            yield "rows", f"{name}: no files for {few(counts.missing_days)}"
        quarantined = sum(counts.quarantined.values())
        if quarantined:
            of_read = percent(ratio(quarantined, counts.rows_read))
            yield "quarantine", f"{name}: {quarantined:,} rows can't be read ({of_read})"
    for join_counts in profile.joins:
        matched = ratio(join_counts.matched, join_counts.rows)
        if matched is not None and matched < LOW_MATCH:
            yield "rows", f"join {join_counts.name}: only {percent(matched)} of the rows found a partner"
    empty = [day.day for day in profile.parts["train"].days if not day.rows]
    if empty:
        yield "labels", f"no train rows on {few(empty)}"
    for name in settings.features:
        shares = [
            lost_share(profile.parts[part].features[name], profile.parts[part].rows) for part in ("train", "test")
        ]
        if shares[0] is not None and shares[1] is not None and abs(shares[1] - shares[0]) > MISSING_GAP:
            yield (
                "missing",
                f"{name}: missing or unknown in {percent(shares[1])} of test, {percent(shares[0])} of train",
            )
    for name, coverage in profile.vocabularies.items():
        if coverage.rule == "tokens" and coverage.test is not None and coverage.test < LOW_COVERAGE:
            yield "vocabularies", f"vocabulary {name}: knows {percent(coverage.test)} of the ids in test"
    for name, negatives in profile.parts["train"].negatives.items():
        share = ratio(negatives.found, negatives.asked)
        if share is not None and share < LOW_FOUND:
            yield "negatives", f"negatives {name}: {percent(share)} of those asked for were found"
    large = [drift for drift in profile.drift if drift.verdict == "large"]
    for drift in large[:DRIFTS_TOLD]:
        yield "drift", f"{drift.feature} ({drift.measure}, {drift.part}) drifted: {drift.psi:.2f}, {drift.moved}"
    if len(large) > DRIFTS_TOLD:
        yield "drift", f"{len(large) - DRIFTS_TOLD} more large drifts"


def lost_share(feature: FeatureProfile, rows: int) -> float | None:
    """Returns how much of a dataset a feature says nothing in: a share of its ids, or of the rows where it has none."""
    if feature.ids is not None:
        return ratio(feature.unknown, feature.entries)
    return ratio(feature.missing or 0, rows)
