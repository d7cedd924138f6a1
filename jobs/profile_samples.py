"""Entry point, without Spark: see `./spark-submit.sh profile --help`."""

from __future__ import annotations

from collections.abc import Sequence

from dssm.cli import exit_with, parse_view
from dssm.console import heading
from dssm.report.dataset import open_run
from dssm.report.profile import profile
from dssm.report.runs import find_run
from dssm.usage import usage_reported


def main(argv: Sequence[str] | None = None) -> None:
    asked = parse_view(argv, "profile")
    run = open_run(find_run(asked.run, asked.root))
    heading(f"profile {run.title}")
    with usage_reported("profile"):
        profile(run)


if __name__ == "__main__":
    exit_with(main)
