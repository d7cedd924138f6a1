"""spark-submit entry point: see `./spark-submit.sh train --help`."""

from __future__ import annotations

from collections.abc import Sequence

from dssm.cli import each_date, exit_with
from dssm.train.launch import train


def main(argv: Sequence[str] | None = None) -> None:
    for settings in each_date(argv, "train"):
        if settings.train.launch != "spark":
            train(settings)
            continue
        from dssm.spark import spark_session

        with spark_session(settings, "train"):
            train(settings)


if __name__ == "__main__":
    exit_with(main)
