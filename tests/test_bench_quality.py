"""The table of the recipe's quality: means over seeds for the model, one figure for a baseline."""

from __future__ import annotations

import json

import pytest

from benchmarks import quality as bench
from benchmarks.report import RESULTS, with_table

FIRST = {
    view: {
        "model": dict.fromkeys(bench.METRICS, 0.2),
        "ease": dict.fromkeys(bench.METRICS, 0.25),
        "popularity": dict.fromkeys(bench.METRICS, 0.1),
    }
    for view in bench.VIEWS
}
SECOND = {view: {**of, "model": dict.fromkeys(bench.METRICS, 0.4)} for view, of in FIRST.items()}


def test_rows_have_the_models_spread_and_mark_the_best():
    rows = bench.rows_of([FIRST, SECOND], "seen_kept")
    assert rows[0] == ["model", *["**0.3000 ± 0.1414**"] * 4]
    assert rows[1] == ["ease", *["0.2500"] * 4]


def test_ratios_are_by_the_best_baseline():
    assert bench.ratios_of([FIRST, SECOND]) == {
        f"{view} {metric}": pytest.approx(0.3 / 0.25) for view in bench.VIEWS for metric in bench.JUDGED
    }


def test_the_readmes_tables_are_those_of_the_kept_result():
    kept = json.loads((RESULTS / "quality.json").read_text(encoding="utf-8"))
    page = bench.README.read_text(encoding="utf-8")
    assert with_table(page, "quality", bench.markdown(kept["figures"]["evaluations"])) == page
