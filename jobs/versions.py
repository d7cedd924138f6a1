"""Entry point, without Spark: see `./spark-submit.sh versions --help`."""

from __future__ import annotations

from collections.abc import Sequence

from dssm.cli import exit_with, parse_view
from dssm.report.runs import find_run, published_table
from dssm.scoring.listing import show_versions


def main(argv: Sequence[str] | None = None) -> None:
    asked = parse_view(argv, "versions")
    show_versions(find_run(asked.run, asked.root, need=published_table(asked.table)), asked.table)


if __name__ == "__main__":
    exit_with(main)
