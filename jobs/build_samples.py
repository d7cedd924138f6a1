"""spark-submit entry point: see `./spark-submit.sh build_samples --help`."""

from __future__ import annotations

from collections.abc import Sequence

from dssm.cli import each_date, exit_with, skips_complete
from dssm.console import out
from dssm.observe.job import observed
from dssm.samples.build import build_samples
from dssm.samples.earlier import came_late, is_complete, missing_days
from dssm.spark import needs_hive, spark_session
from dssm.usage import usage_reported

LEFT = "  complete with these settings: left as it is (--force builds it again)"


def main(argv: Sequence[str] | None = None) -> None:
    skip = skips_complete(argv)
    for settings in each_date(argv, "build_samples"):
        complete = skip and is_complete(settings)
        missing = missing_days(settings) if complete else []
        if complete and not missing:
            out.print(LEFT)
            continue
        with (
            observed(settings, "build_samples"),
            spark_session(settings, "build_samples", hive=needs_hive(settings)) as spark,
            usage_reported("build_samples", settings.run_folder),
        ):
            if complete and not any(came_late(spark, settings, table, day) for table, day in missing):
                out.print(LEFT)
                continue
            build_samples(spark, settings)


if __name__ == "__main__":
    exit_with(main)
