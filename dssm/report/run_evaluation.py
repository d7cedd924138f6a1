"""The report's sections on the training and on the evaluation over the whole catalogue."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dssm.evaluation import BEST_REACHABLE, HEADLINE, KEPT, MODEL, POPULARITY, TEST_ROWS, VIEWS, headline, recalls
from dssm.report.decoding import listed, percent
from dssm.report.html import Html, join, note, table, tag
from dssm.report.run_facts import RunFacts, TrainedModel
from dssm.report.run_plots import Bounds, by_epoch, rankers, tenths
from dssm.units import bytes_shown

EPOCH_PARTS = {"test": "test rows", "validation": "rows kept back from training"}

Evaluation = Mapping[str, Any]


# Training ----------------------------------------------------------------------------------------------


def training(facts: RunFacts) -> Html | None:
    """Draws loss and metrics by epoch."""
    model = facts.model
    if model is None:
        return None
    figures = [
        _figure(name.replace("_", " "), by_epoch(f"{name} by epoch", curves, model.best_epoch))
        for name, curves in _curves(model).items()
    ]
    told = [f"Loss is of the training rows; other metrics are of the {EPOCH_PARTS['test']}"]
    if model.validation:
        told.append(f", and of the {EPOCH_PARTS['validation']}")
    if model.best_epoch is not None:
        told.append(f". The weights are those of epoch {model.best_epoch} (dashed), the best by validation")
        if len(model.loss) > len(model.validation):  # the passes of train.recent have no validation
            told.append(", trained further on the newest rows")
    used = [part for part in ("train", *EPOCH_PARTS) if any(part in curves for curves in _curves(model).values())]
    drawn = tag("div", *figures, class_="plots three")
    return join([_facts_of(model), note("".join(told), "."), _legend(used), drawn])


def _curves(model: TrainedModel) -> dict[str, dict[str, list[float | None]]]:
    """Returns of each metric its curves: metric → part → values by epoch."""
    found: dict[str, dict[str, list[float | None]]] = {}
    if model.loss:
        found["loss"] = {"train": list(model.loss)}
    for part, epochs in (("test", model.metrics), ("validation", model.validation)):
        for name in dict.fromkeys(itertools.chain.from_iterable(epochs)):
            values = [epoch.get(name) for epoch in epochs]
            if any(value is not None for value in values):
                found.setdefault(name, {})[part] = values
    return found


def _facts_of(model: TrainedModel) -> Html:
    given = [
        ("rows an epoch", f"{model.rows_per_epoch:,}"),
        ("steps", f"{model.steps:,}"),
        ("ranks", f"{model.ranks}"),
        ("rows/s", f"{model.rows_per_s:,.0f}"),
        ("waiting for input", percent(model.input_wait) if model.input_wait is not None else None),
        ("received a step", _received(model)),
        ("model", model.model_version),
    ]
    return facts_list([(what, value) for what, value in given if value is not None])


def _received(model: TrainedModel) -> str | None:
    """Returns what rank 0 received a step, beside the bound by the plan of the exchange."""
    if model.bytes_per_step is None:
        return None
    told, expected = bytes_shown(model.bytes_per_step), model.expected_bytes_per_step
    return told if expected is None else f"{told}; planned: {bytes_shown(expected)} at most on average"


def facts_list(given: Sequence[tuple[str, str]]) -> Html:
    return tag("dl", *[tag("div", tag("dt", what), tag("dd", value)) for what, value in given], class_="facts")


# Evaluation --------------------------------------------------------------------------------------------


def evaluation(facts: RunFacts) -> Html | None:
    """Draws recall@K against the baselines, and by groups of items and users."""
    found = facts.evaluation
    if found is None:
        return None
    return join(
        [
            note(_told(found)),
            *[_view(found, view, title) for view, title in VIEWS.items() if view in found],
            *_groups(found, cutoff_of(facts)),
            *_cold(found),
            *_test_rows(found.get(TEST_ROWS, {})),
        ]
    )


def _told(found: Evaluation) -> str:
    text = (
        f"The whole catalogue of {found['items']:,} items ranked for {found['users']:,} users of the test window "
        f"who have an event before it; {found.get('users_filtered', 0):,} of them clicked an item that was new to them."
    )
    if found.get("intervals", {}).get(KEPT):
        bootstrap = found["bootstrap"]
        text += (
            f" Whiskers are {100 * bootstrap['level']:.0f} % intervals of a bootstrap over the users, "
            f"{bootstrap['replicates']:,} replicates."
        )
    return text


def _view(found: Evaluation, view: str, title: str) -> Html:
    values, bounds = found[view], found.get("intervals", {}).get(view, {})
    figures = []
    for metric in recalls(found[KEPT][MODEL]):
        shown = {name: of.get(metric) for name, of in values.items()}
        whiskers = {name: of.get(metric) for name, of in bounds.items()}
        drawn = rankers(f"{metric}, {title}", shown, whiskers, MODEL, BEST_REACHABLE)
        figures.append(_figure(metric, drawn))
    return join(
        [tag("h3", title.capitalize()), tag("div", *figures, class_="plots three"), _all_metrics(values, bounds)]
    )


def cutoff_of(facts: RunFacts) -> str:
    """Returns the recall@K that groups are told apart by: the evaluation's own headline; an older one has none."""
    found = facts.evaluation or {KEPT: {MODEL: {}}}
    shown: str = found.get(HEADLINE) or headline(facts.settings.item_table.gate.metric, found[KEPT][MODEL])
    return shown


def _all_metrics(values: Mapping[str, Any], bounds: Mapping[str, Any]) -> Html:
    names = sorted(values[MODEL], key=lambda name: (name.split("@")[0], int(re.sub(r"\D", "", name) or 0)))
    rows = [
        (name, [_with_interval(of.get(name), bounds.get(ranker, {}).get(name)) for ranker, of in values.items()])
        for name in names
    ]
    drawn = table(["metric ", *[name.replace("_", " ") for name in values]], rows)
    return tag("details", tag("summary", "All metrics"), drawn, class_="printed")


def _with_interval(value: float | None, bounds: Bounds) -> Html:
    told = interval_text(bounds)
    return tag("td", _number(value), *([tag("small", told)] if told else []), class_="number")


def interval_text(bounds: Bounds) -> str:
    """Returns an interval for reading; nothing where it is not known.

    >>> interval_text([0.12345, 0.2]), interval_text(None)
    ('0.123–0.200', '')
    """
    if bounds is None or bounds[0] is None or bounds[1] is None:
        return ""
    return f"{bounds[0]:.3f}–{bounds[1]:.3f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def best_baseline(found: Evaluation, metric: str, view: str = KEPT) -> tuple[str, float] | None:
    """Returns the baseline with the highest metric; what only an oracle reaches is none."""
    values = [
        (of[metric], name)
        for name, of in found[view].items()
        if name not in (MODEL, BEST_REACHABLE) and of.get(metric) is not None
    ]
    return (max(values)[1], max(values)[0]) if values else None


# Groups ------------------------------------------------------------------------------------------------


def _groups(found: Evaluation, metric: str) -> Iterator[Html]:
    """Yields recall by tenth of the items' popularity and of the users' activity."""
    given = found.get("popularity_tenths")
    if given is not None:
        yield tag("h3", f"{metric} by popularity of the item")
        yield note(
            "Tenths of the catalogue, 1 the most popular. Of all clicks on items of a tenth, the share in the user's "
            "top K; below, the clicks."
        )
        baselines = [name for name in found[KEPT] if name not in (MODEL, BEST_REACHABLE)]
        yield from _tenths(given, metric, baselines, "the items", "clicks")
    given = found.get("activity_tenths")
    if given is not None:
        best = best_baseline(found, metric)
        yield tag("h3", f"{metric} by activity of the user")
        yield note(
            "Tenths of the users, 1 the most active. Activity is how many items a user has an event with before the "
            f"test window: {_ranges(given['items'])}. Below, the users."
        )
        yield from _tenths(given, metric, [best[0] if best is not None else POPULARITY], "the users", "users")


def _ranges(items: Sequence[Sequence[int] | None]) -> str:
    known = [found for found in items if found is not None]
    if not known:
        return "none"
    return f"{known[0][1]:,} to {known[0][0]:,} in the first tenth, {known[-1][1]:,} to {known[-1][0]:,} in the last"


def _tenths(given: Mapping[str, Any], metric: str, others: Sequence[str], grouped: str, counted: str) -> Iterator[Html]:
    """Draws the model and those of the others that the groups know: an older evaluation has but one."""
    known = [name for name in (MODEL, *others) if any(metric in given.get(view, {}).get(name, {}) for view in VIEWS)]
    figures = []
    for view, title in VIEWS.items():
        of = given.get(view, {})
        series = {name: of[name][metric] for name in known if metric in of.get(name, {})}
        if not series:
            continue
        all_bounds = given.get("intervals", {}).get(view, {})
        bounds = {name: all_bounds.get(name, {}).get(metric) or () for name in series}
        said = f"{metric} by tenth of {grouped}, {title}: {listed(list(series))}"
        drawn = tenths(said, series, bounds, of[counted], counted)
        figures.append(_figure(title, drawn))
    yield _legend(known)
    yield tag("div", *figures, class_="plots")


def _cold(found: Evaluation) -> Iterator[Html]:
    """Yields the recall of users without an event before the window, and of items that no row that weighs has."""
    cold = found.get("cold")
    if cold is None:
        yield from [note(f"{found['cold_users']:,} cold users are left out.")] if found.get("cold_users") else ()
        return
    users, items = cold["users"], cold["items"]
    kept, metrics = items.get(KEPT, {}), recalls(found[KEPT][MODEL])
    clicks = kept.get("clicks", 0)
    yield tag("h3", "Cold users and items")
    if not users["users"] and not clicks:
        yield note("Every user has an event before the test window, and every clicked item a training row.")
        return
    groups = []
    if users["users"]:
        told = f"{users['users']:,} users without an event before the test window, by rankers that need none."
        groups.append((told, users["metrics"], users.get("intervals", {})))
    if clicks:
        told = (
            f"{items['items']:,} items without a training row that weighs, with {clicks:,} clicks in the test window."
        )
        by_ranker = {name: of for name, of in kept.items() if name != "clicks"}
        groups.append((told, by_ranker, items.get("intervals", {}).get(KEPT, {})))
    drawn = [tag("div", note(told), _by_ranker(of, bounds, metrics)) for told, of, bounds in groups]
    yield tag("div", *drawn, class_="plots")


def _by_ranker(values: Mapping[str, Any], bounds: Mapping[str, Any], metrics: Sequence[str]) -> Html:
    rows = [
        (name.replace("_", " "), [_with_interval(of.get(m), bounds.get(name, {}).get(m)) for m in metrics])
        for name, of in values.items()
    ]
    return table(["ranker ", *metrics], rows)


def _test_rows(found: Mapping[str, float | None]) -> Iterator[Html]:
    """Yields what train measured of the test rows, where that is known."""
    if found:
        yield tag("h3", "Test rows")
        yield note("Of single rows, not of rankings: as train measured them with the weights that were kept.")
        yield facts_list([(name.replace("_", " "), _number(value)) for name, value in found.items()])


# Pieces ------------------------------------------------------------------------------------------------


def _figure(caption: str, drawn: str) -> Html:
    return tag("figure", tag("figcaption", caption), Html(drawn))


DOTS = {"train": "train", "test": "test", "validation": "validation", MODEL: "train"}


def _legend(names: Sequence[str]) -> Html:
    """Draws dots in the colours of the plots; of what has none of its own, one is grey, several are as of `tenths`."""
    others = len([name for name in names if name not in DOTS])
    classes = [DOTS.get(name, "other" if others == 1 else f"c{place}") for place, name in enumerate(names)]
    dots = [
        tag("span", Html('<span class="dot"></span>'), name.replace("_", " "), class_=colour)
        for name, colour in zip(names, classes, strict=True)
    ]
    return tag("p", *dots, class_="faint")
