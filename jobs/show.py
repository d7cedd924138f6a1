"""Entry point, without Spark: see `./spark-submit.sh show --help`."""

from __future__ import annotations

from collections.abc import Sequence

from dssm.cli import exit_with, parse_view
from dssm.console import out
from dssm.report.dataset import open_run
from dssm.report.runs import find_run
from dssm.report.show import show


def main(argv: Sequence[str] | None = None) -> None:
    asked = parse_view(argv, "show")
    show(open_run(find_run(asked.run, asked.root)), out, asked.part, asked.rows, asked.user, asked.full)


if __name__ == "__main__":
    exit_with(main)
