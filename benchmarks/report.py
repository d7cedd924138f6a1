"""What every benchmark does with its figures: one table, one JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from dssm.console import table

RESULTS = Path(__file__).parent / "results"


def report(
    name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], ratios: Mapping[str, float]
) -> None:
    """Prints a table and writes benchmarks/results/NAME.json, whose `ratios` are what may be quoted.

    Absolute figures depend on the machine and on what else it does; ratios of one run do so much less.
    """
    table(title, columns, rows)
    for ratio, value in ratios.items():
        print(f"{ratio}: {value:.2f}")
    RESULTS.mkdir(exist_ok=True)
    result = {
        "benchmark": name,
        "machine": {"cores": len(os.sched_getaffinity(0)), "architecture": platform.machine()},
        "columns": list(columns),
        "rows": [list(row) for row in rows],
        "ratios": {key: round(value, 3) for key, value in ratios.items()},
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
