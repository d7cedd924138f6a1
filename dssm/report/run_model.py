"""The report's section on the model: its card, as far as no other section shows it."""

from __future__ import annotations

from dssm.report.card_parts import predictions, samples, signature, vocabularies
from dssm.report.html import Html, join, note, tag
from dssm.report.run_facts import RunFacts

PAGE = "model/model.html"  # in the run's folder
RAW = "_raw"  # ends the names of towers that take what a service has


def model(facts: RunFacts) -> Html | None:
    """Draws what the model was made of and how to call it, what a service calls first."""
    card = facts.card
    if card is None:
        return None
    towers = sorted(card.towers, key=lambda name: not name.endswith(RAW))
    told = note(
        f"Weights {card.model_version}. Metrics and settings have sections of their own; all of it is on the page ",
        tag("code", PAGE),
        " beside the towers.",
    )
    return join(
        [
            told,
            _folded("Samples that it was trained on", samples(card)),
            _folded("Vocabularies and statistics", vocabularies(card)),
            _folded("What two vectors predict", predictions(card)),
            *[_folded(f"{title(name)}: how to call it", signature(name, card.towers[name])) for name in towers],
            *([] if card.scorer is None else [_folded("scorer: how to call it", signature("scorer", card.scorer))]),
        ]
    )


def title(tower: str) -> str:
    """Returns a tower's name for reading.

    >>> title("user_tower_raw"), title("item_tower")
    ('user tower, raw inputs', 'item tower, encoded inputs')
    """
    name = tower.removesuffix(RAW).replace("_", " ")
    return f"{name}, {'raw' if tower.endswith(RAW) else 'encoded'} inputs"


def _folded(summary: str, *content: Html) -> Html:
    return tag("details", tag("summary", summary), *content)
