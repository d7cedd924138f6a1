"""What `recommend` prints."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from dssm.paths import RunPaths
from dssm.report.decoding import printable
from dssm.report.show import WIDE, local_time
from dssm.serving.catalogue import item_names
from dssm.serving.people import History
from dssm.serving.recommend import Answer, Recommender, open_recommender
from dssm.serving.search import Best

LIKED, SEEN = "✓", "·"
LAST_SEEN = 3  # of a user of an audience


def recommend(paths: RunPaths, asked: argparse.Namespace, console: Console) -> None:
    """Prints what the view's arguments ask for.

    Raises: UserError where nothing is published, the item is unknown or the request does not fit the tower.
    """
    recommender = open_recommender(paths, asked.objective, asked.rescore)
    if asked.user is not None or asked.request is not None:
        if asked.user is not None:
            answer = recommender.for_user(asked.user, asked.rows, asked.seen)
        else:
            answer = recommender.for_request(asked.request, asked.rows)
        _head(recommender, console, f"top items for {answer.asked}", answer.remark)
        for drawn in _answer(recommender, answer, asked.rows, console.width):
            console.print(drawn, soft_wrap=False)
    elif asked.item is not None:
        best, source, histories = recommender.audience(asked.item, asked.rows)
        names = item_names(recommender.run, [asked.item])
        _head(recommender, console, f"top users for item {_called(asked.item, names)}", f"{source}")
        console.print(_audience(best, histories, asked.item), soft_wrap=False)
    else:
        best = recommender.similar(asked.like, asked.rows)
        names = item_names(recommender.run, [asked.like, *best.ids])
        _head(recommender, console, f"items like {_called(asked.like, names)}", "")
        console.print(_items(best, names, "cosine"), soft_wrap=False)


def _head(recommender: Recommender, console: Console, title: str, remark: str) -> None:
    made = recommender.items.manifest
    objective = f", objective {recommender.objective}" if recommender.objective is not None else ""
    console.print(Text(printable(title), style="bold"))
    rescore = recommender.rescore
    rescored = f", the first {rescore:,} by score ordered by the scorer's probability" if rescore is not None else ""
    where = f"{recommender.run.title} · {made.rows:,} items of version {made.version}{objective}{rescored}"
    console.print(Text(where, style="dim"))
    if remark:
        console.print(Text(printable(remark), style="yellow"))


def _called(item: str, names: Mapping[str, str]) -> str:
    name = names.get(item, "")
    return f"{item} ({name})" if name else item


def _answer(recommender: Recommender, answer: Answer, rows: int, width: int) -> Iterator[RenderableType]:
    """Yields the items with the history beside them, where the terminal is wide enough, and what the tower saw."""
    items = _items(answer.best, answer.names, "score", answer.history)
    if not answer.history.items:
        yield items
    else:
        history = _history(answer.history, answer.names, rows, recommender.run.settings.timezone)
        if width >= WIDE:
            grid = Table.grid(padding=(0, 2))
            grid.add_column(ratio=1, overflow="fold")
            grid.add_column(ratio=1, overflow="fold")
            grid.add_row(items, history)
            yield grid
        else:
            yield items
            yield history
    if answer.features:
        yield _features(answer.features)


def _items(best: Best, names: Mapping[str, str], score: str, history: History | None = None) -> Table:
    columns = [best.scores] if best.probabilities is None else [best.scores, best.probabilities]
    drawn = _table("", "item", "name", *(score, "probability")[: len(columns)])
    if history is not None and history.items:
        drawn.title = "recommended"
    seen = set(history.items) if history is not None else set()
    for place, (item, *values) in enumerate(zip(best.ids, *columns, strict=True), 1):
        name = Text(names.get(item, "")) + Text(" seen" if item in seen else "", style="dim")
        drawn.add_row(str(place), Text(printable(item)), name, *(f"{value:.4f}" for value in values))
    return drawn


def _history(history: History, names: Mapping[str, str], rows: int, timezone: str) -> Table:
    drawn = _table("", "item", "name", "last")
    drawn.title = f"history: {len(history.items):,} items, {int(history.positive.sum()):,} positive {LIKED}"
    shown = zip(history.items[:rows], history.times.tolist(), history.positive.tolist(), strict=False)
    for item, time, positive in shown:
        when = local_time(time, timezone).rsplit(" ", 1)[0]
        drawn.add_row(LIKED if positive else SEEN, Text(printable(item)), Text(names.get(item, "")), when)
    if len(history.items) > rows:
        drawn.add_row("", Text(f"… {len(history.items) - rows:,} more", style="dim"), "", "")
    return drawn


def _audience(best: Best, histories: list[History], item: str) -> Table:
    drawn = _table("", "user", "score", "has seen it", "last liked items")
    for place, (user, value, history) in enumerate(zip(best.ids, best.scores.tolist(), histories, strict=True), 1):
        liked = [name for name, is_liked in zip(history.items, history.positive, strict=True) if is_liked]
        last = ", ".join(map(printable, liked[:LAST_SEEN])) or "none"
        seen = "yes" if item in history.items else "no"
        drawn.add_row(str(place), Text(printable(user)), f"{value:.4f}", seen, Text(last))
    return drawn


def _features(features: Mapping[str, str]) -> Table:
    drawn = Table(box=box.SIMPLE, pad_edge=False)
    drawn.add_column("what the user tower saw", style="cyan", overflow="fold")
    drawn.add_column("value", overflow="fold")
    for name, value in features.items():
        drawn.add_row(Text(name), Text(printable(value)))
    return drawn


def _table(*columns: str) -> Table:
    drawn = Table(box=box.SIMPLE, pad_edge=False, title_justify="left", title_style="bold")
    for column in columns:
        number = column in ("", "score", "cosine", "probability")
        drawn.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=number)
    return drawn
