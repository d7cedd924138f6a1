"""spark-submit entry point, which needs no Spark: see `./spark-submit.sh index_items --help`."""

from __future__ import annotations

from collections.abc import Sequence

from dssm.cli import each_date, exit_with
from dssm.observe.job import observed
from dssm.report.run_report import reported
from dssm.retrieval.index import index_items
from dssm.usage import usage_reported


def main(argv: Sequence[str] | None = None) -> None:
    for settings in each_date(argv, "index_items"):
        with (
            observed(settings, "index_items"),
            reported(settings, "index_items"),
            usage_reported("index_items", settings.run_folder),
        ):
            index_items(settings)


if __name__ == "__main__":
    exit_with(main)
