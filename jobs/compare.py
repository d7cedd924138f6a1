"""Entry point, without Spark: see `./spark-submit.sh compare --help`."""

from __future__ import annotations

from collections.abc import Sequence

from dssm.cli import exit_with, parse_view
from dssm.console import out
from dssm.report.runs import EVALUATED, find_run
from dssm.retrieval.compare import compare


def main(argv: Sequence[str] | None = None) -> None:
    asked = parse_view(argv, "compare")
    runs = [(run, find_run(run, asked.root, need=EVALUATED)) for run in asked.run]
    compare(runs, out, asked.metric, asked.filtered)


if __name__ == "__main__":
    exit_with(main)
