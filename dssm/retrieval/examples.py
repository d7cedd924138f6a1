"""examples.json: some users with what they did before, what they clicked and what they would have been shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dssm import storage
from dssm.manifest import ITEM_ID, ITEM_INDEX, ITEM_TITLE, LAST_TIME, POSITIVE, SEEN, USER_ID, Manifest
from dssm.paths import RunPaths
from dssm.retrieval.ranking import Example, Found

EXAMPLES = "examples.json"
HISTORY_ITEMS = 20


def write_examples(
    paths: RunPaths, header: Mapping[str, Any], found: Found, parts: Mapping[str, DataFrame], items: Manifest
) -> None:
    """Writes the examples, the most active user first.

    Args:
      parts: the datasets `items` and `interactions`.
      items: the manifest of the first.
    """
    examples = [example for _, example in sorted(found.examples.items())]
    histories = _histories(parts["interactions"], [example.user for example in examples])
    wanted = {item for items_ in histories.values() for item in items_}
    wanted |= {item for example in examples for item in (*example.clicked, *example.recommended)}
    named = _named(parts["items"], sorted(wanted), ITEM_TITLE in items.columns)
    shown = [_shown(example, histories[example.user], named) for example in examples]
    storage.write_text(f"{paths.folder}/{EXAMPLES}", json.dumps({**header, "users": shown}, indent=1) + "\n")


def _shown(example: Example, history: Sequence[int], named: Mapping[int, dict[str, str]]) -> dict[str, Any]:
    hits = set(example.clicked)
    return {
        "user": example.user,
        "items_before": example.seen,
        "history": [named[item] for item in history],
        "clicked": [
            {**named[item], "seen": seen} for item, seen in zip(example.clicked, example.clicked_seen, strict=True)
        ],
        "recommended": [
            {**named[item], "score": score, "hit": item in hits}
            for item, score in zip(example.recommended, example.scores, strict=True)
        ],
    }


def _histories(interactions: DataFrame, users: Sequence[str]) -> dict[str, list[int]]:
    """Returns the last items that each user acted on, newest first; of one who acted on none, those seen."""
    found: dict[str, list[int]] = {user: [] for user in users}
    rows = interactions.where(F.col(USER_ID).isin(list(users))).select(USER_ID, SEEN, POSITIVE, LAST_TIME)
    for row in rows.collect() if users else ():
        newest = sorted(
            zip(row[LAST_TIME], row[SEEN], row[POSITIVE], strict=True), key=lambda entry: (-entry[0], entry[1])
        )
        acted = [item for _, item, positive in newest if positive > 0]
        found[row[USER_ID]] = (acted or [item for _, item, _ in newest])[:HISTORY_ITEMS]
    return found


def _named(items: DataFrame, indexes: Sequence[int], with_title: bool) -> dict[int, dict[str, str]]:
    """Returns `item`, the id, and where there is one its `title`, by item index."""
    columns = {"item": ITEM_ID, **({"title": ITEM_TITLE} if with_title else {})}
    rows = items.where(F.col(ITEM_INDEX).isin(list(indexes))).select(ITEM_INDEX, *columns.values())
    found = rows.collect() if indexes else []
    return {row[ITEM_INDEX]: {name: row[column] for name, column in columns.items()} for row in found}
