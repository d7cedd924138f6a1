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


def test_the_kept_result_reaches_what_was_asked_and_beats_every_baseline():
    evaluations = json.loads((RESULTS / "quality.json").read_text(encoding="utf-8"))["figures"]["evaluations"]
    asked = {
        ("seen_kept", 50): 0.275,
        ("seen_kept", 100): 0.415,
        ("seen_filtered", 50): 0.32,
        ("seen_filtered", 100): 0.455,
    }
    for (view, k), least in asked.items():
        means = {
            ranker: sum(of[view][ranker][f"recall@{k}"] for of in evaluations) / len(evaluations)
            for ranker in evaluations[0][view]
        }
        model = means.pop("model")
        means.pop("best_reachable", None)
        assert model >= least
        assert len(means) == 6
        assert model > max(means.values())
