"""The page of a model card: one file that needs nothing else, in the style of the data report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dssm.evaluation import VIEWS
from dssm.report.card_parts import predictions, samples, signature, vocabularies
from dssm.report.html import Html, document, figure_text, join, note, number_cell, table, tag
from dssm.report.style import STYLE

if TYPE_CHECKING:
    from dssm.model.card import ModelCard


def card_html(card: ModelCard) -> str:
    """Returns the whole page."""
    parts = card.towers | ({} if card.scorer is None else {"scorer": card.scorer})
    sections: list[tuple[str, str, Html]] = [
        ("metrics", "Metrics", _metrics(card)),
        ("evaluation", "Evaluation", _evaluation(card)),
        ("predictions", "Predictions", predictions(card)),
        ("samples", "Samples", samples(card)),
        ("vocabularies", "Vocabularies", vocabularies(card)),
        *[(name, name.replace("_", " "), signature(name, called)) for name, called in parts.items()],
        ("settings", "Settings", _json("All but Spark's own", card.settings)),
    ]
    title = f"{card.name} · {card.date}"
    body = join(
        [
            tag("header", tag("h1", title), note(f"Model card. Weights {card.model_version}.")),
            _tiles(card),
            tag("nav", *[tag("a", name, href=f"#{key}") for key, name, _ in sections]),
            *[tag("section", tag("h2", name, id=key), content) for key, name, content in sections],
        ]
    )
    return document(title, "model card", STYLE, body)


def _tiles(card: ModelCard) -> Html:
    train = card.parts.get("train")
    last = card.epochs[-1] if card.epochs else {}
    tiles = [
        (f"{train.rows:,}" if train is not None else "–", "training rows"),
        (f"{len(card.epochs)}", "epochs"),
        (f"{card.steps:,}", "steps"),
        (f"{card.ranks}", "ranks"),
        (f"{card.rows_per_s:,.0f}", "rows/s"),
        (f"{card.vector_dim}", "numbers in a vector"),
        *[(_figure(value), f"{name}, last epoch") for name, value in last.items()],
    ]
    drawn = [tag("div", tag("b", value), tag("span", what), class_="tile") for value, what in tiles]
    return tag("div", *drawn, class_="tiles")


def _metrics(card: ModelCard) -> Html:
    names = list(dict.fromkeys(name for epoch in card.epochs for name in epoch))
    rows = [
        (f"{number}", [number_cell(_figure(epoch.get(name))) for name in names])
        for number, epoch in enumerate(card.epochs, start=1)
    ]
    return join([note("Loss of the training rows; all else of the test samples."), table(["epoch ", *names], rows)])


def _evaluation(card: ModelCard) -> Html:
    if card.evaluation is None:
        return note("The model has not been evaluated over the catalogue yet: run evaluate.")
    parts = []
    for view in VIEWS:
        measured: Mapping[str, Mapping[str, float | None]] = card.evaluation.get(view, {})
        metrics = list(dict.fromkeys(name for found in measured.values() for name in found))
        rows = [(name, [number_cell(_figure(found.get(name))) for found in measured.values()]) for name in metrics]
        parts += [tag("h3", view.replace("_", " ")), table(["metric ", *measured], rows)]
    return join([*parts, _json("evaluation.json", card.evaluation)])


def _json(summary: str, values: Mapping[str, Any]) -> Html:
    text = json.dumps(values, indent=1, ensure_ascii=False)
    return tag("details", tag("summary", summary), tag("pre", text))


def _figure(value: float | None) -> str:
    return "–" if value is None else figure_text(value)
