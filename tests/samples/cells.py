"""Values that hypothesis draws, good and bad, the tables that they make, and what has to hold of their rows."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dssm.manifest import SourceCounts
from tests.samples.feed import TinyFeed, quarantined_rows

if TYPE_CHECKING:
    from dssm.samples.sources import Quarantine


@dataclass(frozen=True)
class Cell:
    """A value, and whether it is one that the column may hold."""

    value: Any
    is_good: bool


def cells(good: st.SearchStrategy[Any], *bad: Any) -> st.SearchStrategy[Cell]:
    """Draws good values mostly, or else one of the bad ones."""
    right = good.map(lambda value: Cell(value, True))
    return st.one_of(right, right, right, right, st.sampled_from(bad).map(lambda value: Cell(value, False)))


def drawn(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """Returns values of a strategy, the same ones every time."""
    values: list[Any] = []

    @settings(
        max_examples=count, database=None, deadline=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def collect(value: Any) -> None:
        values.append(value)

    collect()
    assert len(values) > count / 2
    return values


# Ids that a careless reader would take for one another, and text that it would trip over.
ALIKE = ["7", "07", "7.0", "7e0", "+7", "７", "٧", "a", "A", "é", "e\u0301", "K", "\u212a", "7 ", " 7", "null", "NULL"]
AWKWARD = [
    '"',
    "'",
    "a,b",
    "a\\",
    "\\n",
    "{}",
    "日本",
    "🦊",
    "\u200b",
    "\u2028x",
    "=1+1",
    "-",
    "x" * 300,
    "\ufeff7",
    "$1",
]
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=8)
IDS = st.sampled_from(ALIKE) | st.sampled_from(AWKWARD) | TEXTS.filter(lambda text: text.strip(" ") != "")


def as_csv(rows: list[dict[str, Any]], raw: list[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue() + "".join(f"{line}\n" for line in raw)


def as_json(rows: list[dict[str, Any]], raw: list[str]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows) + "".join(f"{line}\n" for line in raw)


def write_parquet(path: Path, rows: list[dict[str, Any]], kinds: Mapping[str, pa.DataType]) -> None:
    """Writes rows as a file; columns hold text where their kind is not given."""
    columns = {name: pa.array([row[name] for row in rows], kinds.get(name, pa.string())) for name in rows[0]}
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)


def check_all_accounted(feed: TinyFeed, counts: SourceCounts, name: str, written: int) -> None:
    """Checks that the rows written are those used, filtered and quarantined, and that the latter have a reason."""
    assert counts.rows_read == written
    assert sum(sum(part.values()) for part in (counts.used, counts.filtered, counts.quarantined)) == written
    kept = quarantined_rows(feed.folder, name)
    assert Counter(row["reason"] for row in kept) == counts.quarantined
    assert all(row["reason"] and isinstance(json.loads(row["row"]), dict) for row in kept)
    assert 0.1 < len(kept) / written < 0.9


def open_feed(feed: TinyFeed) -> Quarantine:
    from dssm.samples.sources import Quarantine

    return Quarantine(f"{feed.folder}/quarantine", 1.0)


def plain(rows: list[dict[str, Cell]]) -> list[dict[str, Any]]:
    return [{name: cell.value for name, cell in row.items()} for row in rows]


def numbered(rows: list[dict[str, Cell]]) -> list[dict[str, Any]]:
    """Returns the values, with a column of which no two rows have the same number."""
    return [{**{name: cell.value for name, cell in row.items()}, "version": number} for number, row in enumerate(rows)]
