"""What every benchmark does with its figures: one table, one JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dssm import storage
from dssm.console import table

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"  # shows the kept tables, where it has marks for them


def report(
    name: str,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    ratios: Mapping[str, float],
    *,
    notes: Sequence[str] = (),
    figures: Mapping[str, Any] | None = None,
    keep: bool = True,
) -> None:
    """Prints a table, writes benchmarks/results/NAME.json, whose `ratios` are what may be quoted, and shows it in PAGE.

    Absolute figures depend on the machine and on what else it does; ratios of one run do so much less.

    Args:
      notes: what the table's rows mean, printed below it.
      figures: further figures for the file: numbers behind the table.
      keep: False for a part of the benchmark or another size: the file stays as it is.
    """
    table(title, columns, rows)
    for note in notes:
        print(note)
    for ratio, value in ratios.items():
        print(f"{ratio}: {value:.2f}")
    if not keep:
        return
    RESULTS.mkdir(exist_ok=True)
    result = {
        "benchmark": name,
        "machine": {"cores": len(os.sched_getaffinity(0)), "architecture": platform.machine()},
        "columns": list(columns),
        "rows": [list(row) for row in rows],
        **({"notes": list(notes)} if notes else {}),
        **({"figures": dict(figures)} if figures else {}),
        "ratios": {key: round(value, 3) for key, value in ratios.items()},
    }
    storage.write_text(str(RESULTS / f"{name}.json"), json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    if marks(name)[0] in PAGE.read_text(encoding="utf-8"):
        replace_table(PAGE, name, kept_markdown(result))


def kept_markdown(result: Mapping[str, Any]) -> str:
    """Returns a kept result as Markdown: its table, and its ratios by name."""
    columns, ratios = result["columns"], result["ratios"]
    made = markdown_table(columns, result["rows"])
    return f"{made}\n\nRatios: {' · '.join(f'`{name}` {value:.2f}' for name, value in ratios.items())}\n"


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], rules: Sequence[str] | None = None) -> str:
    """Returns a table as Markdown.

    Args: rules: below the heads, ---: of a column of numbers; None: all but the first are.
    """
    rules = rules or ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows))


def with_table(text: str, name: str, made: str) -> str | None:
    """Returns a text with the table between its marks, <!-- name --> … <!-- /name -->; None where it has no such."""
    begin_mark, end_mark = marks(name)
    before, begin, rest = text.partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    return f"{before}{begin}\n{made}\n{end}{after}" if begin and end else None


def replace_table(page: Path, name: str, made: str) -> None:
    """Puts a table into a page of the documents, in the place of the one that is there."""
    changed = with_table(page.read_text(encoding="utf-8"), name, made)
    if changed is None:
        print(
            f"{page.name}: no {' … '.join(marks(name))}, so the table is not there; put the two lines where it belongs"
        )
    else:
        page.write_text(changed, encoding="utf-8")


def marks(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->", f"<!-- /{name} -->"
