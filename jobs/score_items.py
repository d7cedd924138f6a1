"""spark-submit entry point: see `./spark-submit.sh score_items --help`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from dssm.cli import exit_with, parse_settings, parser
from dssm.observe.job import starting
from dssm.scoring.dates import publish_dates
from dssm.scoring.items import score_items
from dssm.spark import spark_session


def main(argv: Sequence[str] | None = None) -> None:
    force = parser("score_items").parse_args(argv).force
    dates = parse_settings(argv, "score_items")
    table = dates[0].item_table
    with contextlib.ExitStack() as stack:
        with starting(dates, "score_items"):
            spark = stack.enter_context(spark_session(dates[0], "score_items", hive=table.kind == "hive"))
        publish_dates("score_items", dates, table.dates_at_once, lambda settings: score_items(spark, settings, force))


if __name__ == "__main__":
    exit_with(main)
