"""spark-submit entry point: see `./spark-submit.sh build_samples --help`."""

from __future__ import annotations

from collections.abc import Sequence

from dssm.cli import each_date, exit_with, skips_complete
from dssm.console import out
from dssm.samples.build import build_samples, is_complete, lacks_days, late_days
from dssm.spark import needs_hive, spark_session
from dssm.usage import usage_reported

LEFT = "  complete with these settings: left as it is (--force builds it again)"


def main(argv: Sequence[str] | None = None) -> None:
    skip = skips_complete(argv)
    for settings in each_date(argv, "build_samples"):
        complete = skip and is_complete(settings)
        if complete and not lacks_days(settings):
            out.print(LEFT)
            continue
        with (
            spark_session(settings, "build_samples", hive=needs_hive(settings)) as spark,
            usage_reported("build_samples"),
        ):
            if complete and not late_days(spark, settings):
                out.print(LEFT)
                continue
            build_samples(spark, settings)


if __name__ == "__main__":
    exit_with(main)
