"""What items are called: titles, and the words of their category."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa

from dssm.manifest import ITEM_ID, ITEM_TITLE
from dssm.report.dataset import Run
from dssm.report.item_words import Items
from dssm.samples.lookup_tables import places_in


def item_names(run: Run, ids: Collection[str]) -> dict[str, str]:
    """Returns what some items are called: title and category; "" where the samples have neither."""
    items = Items(run, run.settings.report)
    names = {}
    for item, words in items.named(list(ids)).items():
        title = words.name if words.name != item else ""
        feature = "" if title or items.category is None else f"{items.category.name} "
        names[item] = ", ".join(filter(None, (title, words.category and f"{feature}{words.category}")))
    return names


def titles(run: Run, ids: pa.Array) -> pa.Array | None:
    """Returns the title of each of some items, (ids,) text; None where the samples have none."""
    items = run.part("items")
    if ITEM_TITLE not in items.manifest.columns:
        return None
    table = pa.Table.from_batches(list(items.batches([ITEM_ID, ITEM_TITLE]))).combine_chunks()
    places = places_in(ids, table[ITEM_ID].combine_chunks())
    return table[ITEM_TITLE].combine_chunks().take(pa.array(places, mask=places < 0))
