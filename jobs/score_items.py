"""spark-submit entry point: see `./spark-submit.sh score_items --help`."""

from __future__ import annotations

from collections.abc import Sequence

from dssm.cli import each_date, exit_with
from dssm.scoring.items import score_items
from dssm.spark import spark_session
from dssm.usage import usage_reported


def main(argv: Sequence[str] | None = None) -> None:
    for settings in each_date(argv, "score_items"):
        with (
            spark_session(settings, "score_items", hive=True) as spark,
            usage_reported("score_items", settings.run_folder),
        ):
            score_items(spark, settings)


if __name__ == "__main__":
    exit_with(main)
