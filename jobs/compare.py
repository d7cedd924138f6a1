"""Entry point, without Spark: see `./spark-submit.sh compare --help`."""

from __future__ import annotations

from collections.abc import Sequence

from dssm.cli import exit_with, parse_view
from dssm.console import out
from dssm.report.runs import find_run
from dssm.retrieval.compare import compare


def main(argv: Sequence[str] | None = None) -> None:
    asked = parse_view(argv, "compare")
    compare([(run, find_run(run, asked.root)) for run in asked.run], out, asked.metric, asked.filtered)


if __name__ == "__main__":
    exit_with(main)
