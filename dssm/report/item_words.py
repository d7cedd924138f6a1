"""What items are called: titles, and categories in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dssm.features import PADDING_ID, VarLenSparseFeat
from dssm.manifest import ITEM_ID, ITEM_KEY, ITEM_POSITIVES, ITEM_TITLE
from dssm.packing import unpack
from dssm.report.dataset import Dataset, Run
from dssm.report.decoding import printable
from dssm.sections.reporting import Report, category_feature

NO_CATEGORY = "none"
LONGEST = 80  # letters of a name


@dataclass(frozen=True)
class ItemWords:
    """An item for a person."""

    item: str
    name: str
    category: str | None
    positives: int


class Items:
    """The catalogue of a run: which items there are, and what they are called.

    Raises: UserError where `report.category` names no feature.
    """

    def __init__(self, run: Run, report: Report) -> None:
        self._run, self._data = run, run.part("items")
        self.category = category_feature(report, run.settings.features, run.settings.catalogue.key)

    @property
    def rows(self) -> int:
        return self._data.manifest.rows

    @cached_property
    def keys(self) -> np.ndarray:
        """Hashes of the ids, (items,) uint64."""
        return _column(self._data, ITEM_KEY).view(np.uint64)

    @cached_property
    def positives(self) -> np.ndarray:
        """Training positives, (items,)."""
        return _column(self._data, ITEM_POSITIVES)

    def at(self, places: np.ndarray) -> list[ItemWords]:
        """Returns the items at these places, which ascend."""
        return self._words(self._data.take(places, self._columns))

    def named(self, ids: Sequence[str]) -> dict[str, ItemWords]:
        """Returns those of these ids that the catalogue has."""
        wanted = pa.array(sorted(set(ids)), pa.string())
        batches = self._data.batches(self._columns) if len(wanted) else iter(())
        found = [batch.filter(pc.is_in(batch.column(0), value_set=wanted)) for batch in batches]
        table = pa.Table.from_batches(found) if found else pa.table({})
        return {words.item: words for words in self._words(table)}

    @property
    def _columns(self) -> list[str]:
        titled = [ITEM_TITLE] if ITEM_TITLE in self._data.manifest.columns else []
        return [ITEM_ID, ITEM_POSITIVES, *titled, *([self.category.name] if self.category is not None else [])]

    def _words(self, table: pa.Table) -> list[ItemWords]:
        if not table.num_rows:
            return []
        ids, positives = table[ITEM_ID].to_pylist(), table[ITEM_POSITIVES].to_pylist()
        names = table[ITEM_TITLE].to_pylist() if ITEM_TITLE in table.column_names else ids
        categories: Sequence[str | None] = self._categories(table) or [None] * len(ids)
        return [
            ItemWords(item, shortened(name or item), category, count)
            for item, name, category, count in zip(ids, names, categories, positives, strict=True)
        ]

    def _categories(self, table: pa.Table) -> list[str] | None:
        """Returns each row's category: of a list its first entry."""
        feature = self.category
        if feature is None:
            return None
        values = table[feature.name].combine_chunks()
        spec = self._data.manifest.columns[feature.name]
        ids = unpack(values, spec)[:, 0] if isinstance(feature, VarLenSparseFeat) else values.to_numpy()
        words = self._run.words(feature.vocabulary, ids) | {PADDING_ID: NO_CATEGORY}
        return [shortened(words[number]) for number in ids.tolist()]


def _column(data: Dataset, name: str) -> np.ndarray:
    parts = [batch.column(0).to_numpy() for batch in data.batches([name])]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def shortened(text: str) -> str:
    """Returns a name on one line, without what would not show, and not too long."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
