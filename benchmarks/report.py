"""What every benchmark does with its figures: one table, one JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dssm.console import table

RESULTS = Path(__file__).parent / "results"


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
    """Prints a table and writes benchmarks/results/NAME.json, whose `ratios` are what may be quoted.

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
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
