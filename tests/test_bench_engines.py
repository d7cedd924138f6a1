from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import engines as bench
from benchmarks.report import RESULTS, with_table


def sink(kind: str, recall: float, queries_per_s: float, how: str = "index") -> dict[str, Any]:
    return {
        "sink": f"my_{kind}", "kind": kind, "objective": None, "version": "v", "place": "p", "count": 60, "how": how,
        "build_seconds": 1.0 if how == "index" else None, "queries_per_s": {10: queries_per_s, 100: queries_per_s / 2},
        "recall": {10: recall, 100: recall - 0.5}, "min_recall": {10: 0.9}, "failures": [],
    }  # fmt: skip


def test_the_table_is_of_the_runs_index(tmp_path: Path, kept_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- engines -->\n<!-- /engines -->\n")
    monkeypatch.setattr(bench, "README", readme)
    report = {
        "date": "2024-01-08", "table": "t", "version": "v", "model_version": "m", "rows": 60, "queries": 100,
        "queries_of": "users", "exact_queries_per_s": 4000.0,
        "sinks": [sink("faiss", 1.0, 12345.6), sink("redis", 0.9876, 800.0, "fetch")],
    }  # fmt: skip
    (tmp_path / "index.json").write_text(json.dumps(report))
    bench.main([str(tmp_path)])
    assert not (kept_in / "engines.json").exists()
    bench.main([str(tmp_path), "--keep"])
    assert readme.read_text() == (
        "before\n<!-- engines -->\n"
        "|  | recall@10 | recall@100 | top 10, queries/s | top 100, queries/s | built in, s |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| faiss | 1.0000 | 0.5000 | 12,346 | 6,173 | 1.0 |\n"
        "| redis, by fetching | 0.9876 | 0.4876 | 800 | 400 |  |\n"
        "<!-- /engines -->\n"
    )
    kept = json.loads((kept_in / "engines.json").read_text())
    assert kept["ratios"] == {"faiss_vs_exact": 3.086, "redis_vs_exact": 0.2}


def test_the_readmes_table_is_that_of_the_kept_result() -> None:
    kept = json.loads((RESULTS / "engines.json").read_text(encoding="utf-8"))
    page = bench.README.read_text(encoding="utf-8")
    assert with_table(page, "engines", bench.markdown(kept["rows"])) == page
    assert [row[0].split(",")[0] for row in kept["rows"]] == ["faiss", "annoy", "milvus", "redis"]
    assert min(float(recall) for row in kept["rows"] for recall in row[1:3]) > 0.99
