"""spark-submit entry point: see `./spark-submit.sh train --help`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from dssm.cli import each_date, exit_with
from dssm.config import Settings
from dssm.observe.job import observed
from dssm.report.run_report import reported
from dssm.train.launch import train
from dssm.usage import usage_reported


def main(argv: Sequence[str] | None = None) -> None:
    for settings in each_date(argv, "train"):
        with (
            observed(settings, "train"),
            reported(settings, "train"),
            _session(settings),
            usage_reported("train", settings.run_folder),
        ):
            train(settings)


def _session(settings: Settings) -> AbstractContextManager[object]:
    if not settings.train.by_spark:
        return nullcontext()
    from dssm.spark import spark_session

    return spark_session(settings, "train")


if __name__ == "__main__":
    exit_with(main)
