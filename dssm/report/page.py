"""The page of a run's data report: one file that needs nothing else, not even a network."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dssm.config import Settings
from dssm.report.decoding import percent
from dssm.report.figures import (
    POPULARITY_GROUPS,
    QUANTILES,
    DayProfile,
    FeatureProfile,
    NumberSummary,
    PartProfile,
    Profile,
)
from dssm.report.html import (
    Html,
    count_cell,
    document,
    few,
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
from dssm.report.plots import popularity_curve, rate_by_day
from dssm.report.remarks import remarks
from dssm.report.style import STYLE

HISTOGRAM_BARS = 20
TOP_WORDS = 5


def page(profile: Profile, settings: Settings) -> str:
    """Returns the whole page."""
    sections: list[tuple[str, str, Html]] = [
        ("rows", "Rows", _rows(profile)),
        ("quarantine", "Quarantine", _quarantine(profile)),
        ("labels", "Labels", _labels(profile, settings)),
        ("missing", "Missing values", _missing(profile)),
        ("lists", "Lists", _lists(profile)),
        ("numbers", "Numbers", _numbers(profile, settings)),
        ("vocabularies", "Vocabularies", _vocabularies(profile)),
        ("popularity", "Popularity", _popularity(profile)),
        ("negatives", "Negatives", _negatives(profile)),
        ("drift", "Drift", _drift(profile)),
        ("settings", "Settings", _settings(settings)),
    ]
    title = f"{profile.name} · {profile.date}"
    body = join(
        [
            tag("header", tag("h1", title), _subtitle(profile, settings)),
            _tiles(profile),
            _remarks(profile, settings),
            tag("nav", *[tag("a", name, href=f"#{key}") for key, name, _ in sections]),
            *[tag("section", tag("h2", name, id=key), content) for key, name, content in sections],
        ]
    )
    return document(title, "data report", STYLE, body)


LEGEND = tag(
    "p",
    tag("span", Html('<span class="dot"></span>'), "train", class_="train"),
    tag("span", Html('<span class="dot"></span>'), "test", class_="test"),
    class_="faint",
)


# The top -----------------------------------------------------------------------------------------------


def _subtitle(profile: Profile, settings: Settings) -> Html:
    days = settings.window_days()
    test = [day for day in days if day >= settings.date]
    train = [day for day in days if day < settings.date]
    against = f"compared with {profile.previous}" if profile.previous else "no earlier date to compare with"
    return note(
        f"Data report of the samples. Train on {_span(train)}, test on {_span(test)}, days of {settings.timezone}. "
        f"Build {profile.build}; {against}."
    )


def _span(days: Sequence[dt.date]) -> str:
    return days[0].isoformat() if len(days) == 1 else f"{days[0].isoformat()} to {days[-1].isoformat()}"


def _tiles(profile: Profile) -> Html:
    train, test = profile.parts["train"], profile.parts["test"]
    about = "" if train.counts_are_exact else "about "
    worst = profile.drift[0] if profile.drift else None
    tiles = [
        (f"{train.rows:,}", "train rows"),
        (f"{test.rows:,}", "test rows"),
        (f"{about}{train.users:,}", "users in train"),
        (f"{profile.popularity.items:,}", "items in the catalogue"),
        (percent(ratio(train.positives, train.rows)), "of train rows are positive"),
        (percent(ratio(test.positives, test.rows)), "of test rows are positive"),
    ]
    if worst is not None:
        tiles.append((f"{worst.psi:.2f}", f"largest drift: {worst.feature}"))
    return tag(
        "div", *[tag("div", tag("b", value), tag("span", what), class_="tile") for value, what in tiles], class_="tiles"
    )


def _remarks(profile: Profile, settings: Settings) -> Html:
    found = list(remarks(profile, settings))
    if not found:
        return tag("p", "Nothing stands out.", class_="good")
    listed = tag("ul", *[tag("li", tag("a", text, href=f"#{section}")) for section, text in found])
    return join([tag("h3", "Look at first"), listed])


# Sections ----------------------------------------------------------------------------------------------


def _rows(profile: Profile) -> Html:
    sources, reasons = [], []
    for name, counts in profile.sources.items():
        used, filtered, quarantined = (sum(c.values()) for c in (counts.used, counts.filtered, counts.quarantined))
        told = ", ".join(f"{what} {rows:,}" for what, rows in counts.used.items())
        cells = [count_cell(counts.rows_read), count_cell(quarantined), count_cell(filtered), count_cell(used)]
        sources.append((name, [*cells, share_cell(ratio(used, counts.rows_read)), words_cell(told)]))
        for what, by_reason in (("filtered", counts.filtered), ("quarantined", counts.quarantined)):
            for reason, rows in by_reason.items():
                share = share_cell(ratio(rows, counts.rows_read))
                reasons.append((name, [text_cell(what), words_cell(reason), count_cell(rows), share]))
    parts = [
        note("Every row read is used, filtered or quarantined."),
        table(["source ", "read", "quarantined", "filtered", "used", "share used", "used as "], sources),
    ]
    if reasons:
        parts += [tag("h3", "Left out, by reason"), table(["source ", "what ", "reason ", "rows", "share"], reasons)]
    days = [f"{name}: {few(counts.missing_days)}" for name, counts in profile.sources.items() if counts.missing_days]
    if days:
        parts += [tag("h3", "Days without files"), tag("ul", *[tag("li", text) for text in days])]
    if profile.joins:
        joins = [
            (
                j.name,
                [count_cell(j.rows), count_cell(j.rows), count_cell(j.matched), share_cell(ratio(j.matched, j.rows))],
            )
            for j in profile.joins
        ]
        parts += [
            tag("h3", "Joins"),
            note(
                "A join drops no row: what finds no partner gets nulls. Events of items that the catalogue lacks are "
                "filtered after it, and counted above."
            ),
            table(["join ", "rows in", "rows out", "matched", "share matched"], joins),
        ]
    written = [(name, [count_cell(rows)]) for name, rows in profile.rows.items()]
    parts += [tag("h3", "Datasets written"), table(["dataset ", "rows"], written)]
    return join(parts)


def _quarantine(profile: Profile) -> Html:
    if not profile.quarantine:
        return tag("p", "No row was quarantined.", class_="good")
    parts = [note("Rows that can't be read, by reason, each with up to three of them.")]
    for name, by_reason in profile.quarantine.items():
        counts = profile.sources[name]
        parts.append(tag("h3", name))
        for reason, examples in by_reason.items():
            rows = counts.quarantined[reason]
            share = percent(ratio(rows, counts.rows_read))
            shown = [tag("li", tag("code", example)) for example in examples]
            parts.append(tag("p", tag("b", reason), f": {rows:,} rows, {share} of those read"))
            parts.append(tag("ul", *shown) if shown else note("No example is kept."))
    return join(parts)


def _labels(profile: Profile, settings: Settings) -> Html:
    def points(measure: Callable[[DayProfile], float | None]) -> dict[str, tuple[list[dt.date], list[float | None]]]:
        return {
            part: ([dt.date.fromisoformat(day.day) for day in found.days], [measure(day) for day in found.days])
            for part, found in profile.parts.items()
        }

    rows = points(lambda day: day.rows)
    plots = [("share of rows with a label above 0", points(lambda day: ratio(day.positives, day.rows)), rows)]
    for name in settings.target_names:
        rates = points(lambda day, name=name: ratio(day.sums.get(name, 0.0), day.known.get(name, 0)))  # type: ignore[misc]
        known = points(lambda day, name=name: day.known.get(name, 0))  # type: ignore[misc]
        plots.append((f"mean of {name} where it is known", rates, known))
    positives_only = settings.samples.train_rows == "positives"
    return join(
        [
            note(
                f"By day of {settings.timezone}; below each rate the rows that it is of. "
                + ("Train holds positives only (samples.train_rows)." if positives_only else "")
            ),
            LEGEND,
            tag(
                "div",
                *[
                    tag("figure", tag("figcaption", title), Html(rate_by_day(f"{title}, by day", rates, of)))
                    for title, rates, of in plots
                ],
                class_="plots",
            ),
        ]
    )


def _both(profile: Profile, name: str, measure: Callable[[FeatureProfile, PartProfile], float | None]) -> list[Html]:
    return [share_cell(measure(part.features[name], part)) for part in profile.parts.values()]


def _missing(profile: Profile) -> Html:
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
        rows.append((name, [text_cell(feature.side), *missing, *unknown, text_cell(what)]))
    heads = ["missing, train", "missing, test", "unknown ids, train", "unknown ids, test", "missing means "]
    return join(
        [
            note("Missing is a share of the rows; unknown ids are a share of all ids, of a list's entries too."),
            table(["feature ", "tower ", *heads], rows),
        ]
    )


def _lists(profile: Profile) -> Html:
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


def _numbers(profile: Profile, settings: Settings) -> Html:
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


def _vocabularies(profile: Profile) -> Html:
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


def _popularity(profile: Profile) -> Html:
    found = profile.popularity
    if not found.ranks:
        return note("No item has a training positive.")
    facts = [
        f"The most popular 1 % of the {found.items:,} items have {percent(found.top_1_percent)} of the training "
        f"positives, 10 % have {percent(found.top_10_percent)}.",
        f"Half of the positives are of {found.half:,} items; {found.never:,} items "
        f"({percent(ratio(found.never, found.items))}) have none.",
    ]
    plot = Html(popularity_curve("training positives of each item by rank", found.ranks, found.counts))
    caption = tag("figcaption", "training positives of each item, by rank")
    return tag("div", tag("figure", caption, plot), tag("div", *[tag("p", text) for text in facts]), class_="plots")


def _negatives(profile: Profile) -> Html:
    kinds = profile.parts["train"].negatives
    if not kinds:
        return note("None are drawn when samples are built (samples.negatives).")
    popular, total = profile.popularity, sum(profile.popularity.positives_by_group)
    dash = [number_cell("–"), number_cell("–")]
    rows = [
        ("all items", [*dash, *[share_cell(ratio(count, popular.items)) for count in popular.items_by_group]]),
        ("positives", [*dash, *[share_cell(ratio(count, total)) for count in popular.positives_by_group]]),
    ]
    for name, found in kinds.items():
        drawn = [share_cell(ratio(count, found.found)) for count in found.by_popularity]
        rows.append((name, [count_cell(found.asked), share_cell(ratio(found.found, found.asked)), *drawn]))
    return join(
        [
            note(
                "Of the negatives asked for, how many were found; then how popular they are: the shares of those drawn "
                "from the most popular items of the catalogue downwards, beside all items and the positives."
            ),
            table(["kind ", "asked", "found", *POPULARITY_GROUPS], rows),
        ]
    )


COLOURS = {"stable": "good", "within chance": "good", "moderate": "warn", "large": "bad"}


def _drift(profile: Profile) -> Html:
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


def _settings(settings: Settings) -> Html:
    given = settings.model_dump(mode="json", exclude_defaults=True, exclude={"spark"})
    text = json.dumps(given, indent=1, ensure_ascii=False)
    return tag("details", tag("summary", "What differs from the defaults, as read from the YAML"), tag("pre", text))
