"""make bench-engines RUN=folder: recall and speed of each engine that `index_items` filled for a run.

    python -m benchmarks.engines runs/kuairand/2022-05-01 --keep

The figures are those of the run's index.json. The table goes to the terminal, and with --keep, as the make rule says,
to benchmarks/results/engines.json and, as Markdown, between two markers in README.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.jobs import PROJECT
from benchmarks.report import markdown_table, replace_table, report
from dssm.retrieval.index import REPORT, IndexReport

README = PROJECT / "README.md"
COUNTS = (10, 100)
COLUMNS = ["", *(f"recall@{k}" for k in COUNTS), *(f"top {k}, queries/s" for k in COUNTS), "built in, s"]
HOW = {"index": "", "fetch": ", by fetching"}


def rows_of(found: IndexReport) -> list[list[str]]:
    """Returns a row an engine."""
    return [
        [
            f"{sink.kind}{HOW[sink.how]}",
            *(f"{sink.recall[k]:.4f}" for k in COUNTS),
            *(f"{sink.queries_per_s[k]:,.0f}" for k in COUNTS),
            "" if sink.build_seconds is None else f"{sink.build_seconds:.1f}",
        ]
        for sink in found.sinks
    ]  # fmt: skip


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Returns the table for README.md."""
    return markdown_table(COLUMNS, rows)


def show(found: IndexReport, keep: bool) -> None:
    """Prints the table. Args: keep: whether it goes into README.md and results/ as well."""
    rows = rows_of(found)
    exact = found.exact_queries_per_s
    ratios = {f"{sink.kind}_vs_exact": sink.queries_per_s[COUNTS[0]] / exact for sink in found.sinks}
    notes = [f"{found.queries:,} queries; vs_exact: queries/s of the top {COUNTS[0]} by those of exact search."]
    report("engines", f"{found.rows:,} vectors of {found.date}", COLUMNS, rows, ratios, notes=notes, keep=keep)
    if keep:
        replace_table(README, "engines", markdown(rows))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("run", help="folder of a run with an index.json")
    parser.add_argument("--keep", action="store_true", help="put the table into README.md and results/")
    given = parser.parse_args(argv)
    path = Path(given.run, REPORT)
    if not path.exists():
        raise SystemExit(f"bench-engines: {path} is not there; index_items of that run writes it.")
    found = IndexReport.model_validate_json(path.read_text(encoding="utf-8"))
    if unmeasured := [sink.sink for sink in found.sinks if not set(COUNTS) <= set(sink.recall)]:
        raise SystemExit(f"bench-engines: recall of {COUNTS} is not known of {', '.join(unmeasured)} in {path}.")
    show(found, given.keep)


if __name__ == "__main__":
    main()
