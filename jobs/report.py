"""Entry point, without Spark: see `./spark-submit.sh report --help`."""

from __future__ import annotations

from collections.abc import Sequence

from dssm.cli import exit_with, parse_view
from dssm.console import heading, out
from dssm.report.run_report import write_report
from dssm.report.runs import find_run


def main(argv: Sequence[str] | None = None) -> None:
    asked = parse_view(argv, "report")
    paths = find_run(asked.run, asked.root)
    heading(f"report {paths.folder}")
    out.print(write_report(paths), markup=False)


if __name__ == "__main__":
    exit_with(main)
