"""What the data report says of the features: missing values, lists, numbers, vocabularies, drift."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from dssm.config import Settings
from dssm.report.decoding import percent
from dssm.report.figures import (
    QUANTILES,
    FeatureProfile,
    NumberSummary,
    PartProfile,
    Profile,
)
from dssm.report.html import (
    Html,
    count_cell,
    figure_text,
    join,
    note,
    number_cell,
    ratio,
    share_cell,
    table,
    tag,
    text_cell,
    words_cell,
)

HISTOGRAM_BARS = 20
TOP_WORDS = 5


def _both(profile: Profile, name: str, measure: Callable[[FeatureProfile, PartProfile], float | None]) -> list[Html]:
    return [share_cell(measure(part.features[name], part)) for part in profile.parts.values()]


def missing_values(profile: Profile) -> Html:
    rows = []
    for name, feature in profile.parts["train"].features.items():
        what = (
            "null and unknown are one id" if feature.missing is None
            else "empty list" if feature.lengths
            else "no vector" if "norm" in feature.bins or feature.numbers is None
            else "at most: rows at the stand-in for null"
        )  # fmt: skip
        missing = _both(profile, name, lambda f, part: None if f.missing is None else ratio(f.missing, part.rows))
        unknown = _both(profile, name, lambda f, _: None if f.ids is None else ratio(f.unknown, f.entries))
        nulls = profile.nulls.get(name)
        null = share_cell(None if nulls is None else ratio(nulls.nulls, nulls.rows))
        rows.append((name, [text_cell(feature.side), null, *missing, *unknown, text_cell(what)]))
    heads = ["null in its table", "missing, train", "missing, test"]
    heads += ["unknown or null ids, train", "unknown or null ids, test", "missing means "]
    return join(
        [
            note(
                "Null in its table is the share of the profile's or the catalogue's rows that have nothing in the "
                "feature's column; what is above it in the samples is unknown, or of users without a row. Missing is a "
                "share of the samples' rows; unknown or null ids are a share of all ids, of a list's entries too."
            ),
            table(["feature ", "tower ", *heads], rows),
        ]
    )


def list_lengths(profile: Profile) -> Html:
    rows, classes = [], []
    for name, part, feature, found in _by_part(profile):
        if not feature.lengths:
            continue
        lengths = np.array(feature.lengths)
        cells = [number_cell(str(length)) for length in length_quantiles(lengths)]
        empty, full = ratio(int(lengths[0]), found.rows), ratio(int(lengths[-1]), found.rows)
        mean = number_cell(figure_text(feature.entries / found.rows) if found.rows else "–")
        rows.append(
            (name, [text_cell(part), mean, *cells, share_cell(empty), share_cell(full), text_cell(_histogram(lengths))])
        )
        classes.append(part)
    if not rows:
        return note("No feature is a list.")
    quantiles = [f"{q:.0%}" for q in QUANTILES]
    return join(
        [
            note("Entries of each list; one that is full may have been cut at maxlen."),
            table(["feature ", "part ", "mean", *quantiles, "empty", "full", "lengths "], rows, classes),
        ]
    )


def length_quantiles(counts: np.ndarray) -> list[int]:
    """Returns at QUANTILES the smallest length that so many of the lists have or stay below.

    Args:
      counts: (maxlen + 1,), lists by length.
    """
    reached = np.cumsum(counts)
    return [int(np.searchsorted(reached, q * reached[-1] * (1 - 1e-12))) for q in QUANTILES]


def _histogram(counts: np.ndarray) -> Html:
    """Draws counts by length, some lengths together where they are many."""
    width = -(-len(counts) // HISTOGRAM_BARS)
    sums = np.add.reduceat(counts, np.arange(0, len(counts), width))
    heights = 24 * sums / max(sums.max(), 1)
    step = 100 / len(sums)
    bars = [
        tag("rect", x=f"{place * step:.2f}", y=f"{24 - height:.2f}", width=f"{0.85 * step:.2f}", height=f"{height:.2f}")
        for place, height in enumerate(heights)
    ]
    label = f"histogram of the lengths 0 to {len(counts) - 1}"
    return tag(
        "svg", *bars, class_="lengths", viewBox="0 0 100 24", preserveAspectRatio="none", role="img", aria_label=label
    )


def _by_part(profile: Profile) -> Iterator[tuple[str, str, FeatureProfile, PartProfile]]:
    for name in profile.parts["train"].features:
        for part, found in profile.parts.items():
            yield name, part, found.features[name], found


def number_summaries(profile: Profile, settings: Settings) -> Html:
    rows, classes = [], []
    for name, part, feature, _ in _by_part(profile):
        if feature.numbers is not None:
            rows.append((name, [text_cell(part), text_cell(_unit(settings, name)), *_summary(feature.numbers)]))
            classes.append(part)
    if not rows:
        return note("No feature is a number.")
    heads = ["feature ", "part ", "as ", "mean", "deviation", "minimum", *[f"{q:.0%}" for q in QUANTILES], "maximum"]
    return join(
        [
            note(
                "Before the transform, null as its stand-in; of a vector its norm. Quantiles are of a sample of rows."
            ),
            table(heads, rows, classes),
        ]
    )


def _unit(settings: Settings, name: str) -> str:
    feature = settings.features[name]
    if getattr(feature, "pre_embed", None) is not None:
        return "norm"
    return str(getattr(feature, "transform", "raw"))


def _summary(numbers: NumberSummary) -> list[Html]:
    values = [numbers.mean, numbers.deviation, numbers.minimum, *numbers.quantiles, numbers.maximum]
    return [number_cell(figure_text(value)) for value in values]


def vocabularies(profile: Profile) -> Html:
    rows = []
    for name, found in profile.vocabularies.items():
        ids = profile.parts["train"].features[found.features[0]].ids
        top = "" if ids is None else ", ".join(
            f"{token} ({percent(ratio(count, ids.total))})"
            for token, count in zip(ids.tokens[:TOP_WORDS], ids.counts, strict=False)
        )  # fmt: skip
        cells = [text_cell(found.rule), count_cell(found.size), share_cell(found.train), share_cell(found.test)]
        rows.append((name, [*cells, words_cell(", ".join(found.features)), words_cell(top)]))
    if not rows:
        return note("No feature has a vocabulary.")
    heads = ["vocabulary ", "rule ", "ids", "known, train", "known, test", "used by ", "most frequent in train "]
    return join(
        [
            note(
                "Known: the share of the ids in train and test rows, over all features of the vocabulary, that it has. "
                "Hashed ids are all known, and shown as #17; ids count padding and unknown."
            ),
            table(heads, rows),
        ]
    )


COLOURS = {"stable": "good", "within chance": "good", "moderate": "warn", "large": "bad"}


def drift(profile: Profile) -> Html:
    if profile.previous is None:
        return note("There is no earlier date of this pipeline to compare with.")
    rows = [
        (
            drift.feature,
            [
                text_cell(drift.measure),
                text_cell(drift.part),
                tag("td", f"{drift.psi:.3f}", class_="bar", style=f"--share:{min(drift.psi / 0.5, 1):.0%}"),
                tag("td", drift.verdict, class_=COLOURS[drift.verdict]),
                words_cell(drift.moved),
                number_cell(f"{drift.chance:.3f}"),
            ],
        )
        for drift in profile.drift
    ]
    heads = ["feature ", "measure ", "part ", "index", "reading ", "moved most ", "by chance"]
    return join(
        [
            note(
                f"Population stability index against {profile.previous}, train with train and test with test, over its "
                "tenths: of numbers by value, of ids by how frequent they were. Below 0.1 stable, to 0.25 moderate, "
                "above large. Up to “by chance” it may be nothing: one of twenty exceeds that where nothing moved. "
                "Train windows overlap, so test shows a change first."
            ),
            table(heads, rows),
        ]
    )
