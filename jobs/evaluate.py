"""spark-submit entry point: see `./spark-submit.sh evaluate --help`."""

from __future__ import annotations

from collections.abc import Sequence

from dssm.cli import each_date, exit_with
from dssm.observe.job import observed
from dssm.report.run_report import reported
from dssm.retrieval.evaluate import evaluate
from dssm.spark import spark_session
from dssm.usage import usage_reported


def main(argv: Sequence[str] | None = None) -> None:
    for settings in each_date(argv, "evaluate"):
        with (
            observed(settings, "evaluate"),
            reported(settings, "evaluate"),
            spark_session(settings, "evaluate") as spark,
            usage_reported("evaluate", settings.run_folder),
        ):
            evaluate(spark, settings)


if __name__ == "__main__":
    exit_with(main)
