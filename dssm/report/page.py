"""The page of a run's data report: one file that needs nothing else, not even a network."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence

from dssm.config import Settings
from dssm.report import page_features
from dssm.report.decoding import percent
from dssm.report.figures import (
    POPULARITY_GROUPS,
    DayProfile,
    Profile,
)
from dssm.report.html import (
    Html,
    count_cell,
    document,
    few,
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


def page(profile: Profile, settings: Settings) -> str:
    """Returns the whole page."""
    sections: list[tuple[str, str, Html]] = [
        ("rows", "Rows", _rows(profile)),
        ("quarantine", "Quarantine", _quarantine(profile)),
        ("labels", "Labels", _labels(profile, settings)),
        ("missing", "Missing values", page_features.missing_values(profile)),
        ("lists", "Lists", page_features.list_lengths(profile)),
        ("numbers", "Numbers", page_features.number_summaries(profile, settings)),
        ("vocabularies", "Vocabularies", page_features.vocabularies(profile)),
        ("popularity", "Popularity", _popularity(profile)),
        ("negatives", "Negatives", _negatives(profile)),
        ("drift", "Drift", page_features.drift(profile)),
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
            (j.name, [count_cell(j.rows), count_cell(j.matched), share_cell(ratio(j.matched, j.rows))])
            for j in profile.joins
        ]
        parts += [
            tag("h3", "Joins"),
            note(
                "A join drops no row: what finds no partner gets nulls. Events of items that the catalogue lacks are "
                "filtered after it, and counted above."
            ),
            table(["join ", "rows", "matched", "share matched"], joins),
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


def _settings(settings: Settings) -> Html:
    given = settings.model_dump(mode="json", exclude_defaults=True, exclude={"spark"})
    text = json.dumps(given, indent=1, ensure_ascii=False)
    return tag("details", tag("summary", "What differs from the defaults, as read from the YAML"), tag("pre", text))
