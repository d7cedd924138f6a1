"""Entry point, without Spark: see `./spark-submit.sh status --help`."""

from __future__ import annotations

from collections.abc import Sequence

from dssm.cli import exit_with, parse_view
from dssm.report.runs import find_run
from dssm.report.status import show_status


def main(argv: Sequence[str] | None = None) -> None:
    asked = parse_view(argv, "status")
    show_status(find_run(asked.run, asked.root, begun=True))


if __name__ == "__main__":
    exit_with(main)
