"""spark-submit entry point: see `./spark-submit.sh build_samples --help`."""

from __future__ import annotations

from collections.abc import Sequence

from dssm.cli import each_date, exit_with
from dssm.samples.build import build_samples
from dssm.spark import needs_hive, spark_session
from dssm.usage import usage_reported


def main(argv: Sequence[str] | None = None) -> None:
    for settings in each_date(argv, "build_samples"):
        with (
            spark_session(settings, "build_samples", hive=needs_hive(settings)) as spark,
            usage_reported("build_samples"),
        ):
            build_samples(spark, settings)


if __name__ == "__main__":
    exit_with(main)
