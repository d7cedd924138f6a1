"""spark-submit entry point: see `./spark-submit.sh rollback --help`."""

from __future__ import annotations

from collections.abc import Sequence

from dssm.cli import exit_with, parse_settings, parser
from dssm.console import heading
from dssm.errors import UserError
from dssm.observe.job import observed
from dssm.report.run_report import reported
from dssm.scoring.publish import roll_back
from dssm.scoring.score import hive_of, section_of, table_of
from dssm.spark import spark_session


def main(argv: Sequence[str] | None = None) -> None:
    asked = parser("rollback").parse_args(argv)
    settings, *others = parse_settings(argv, "rollback")
    if others:
        raise UserError(f"--dates {asked.dates}: a version is of one date; expected --date")
    heading(f"rollback {settings.name} {settings.date.isoformat()}")
    with observed(settings, "rollback"), reported(settings, "rollback", track=False):
        if section_of(settings, asked.table).kind == "path":
            roll_back(table_of(settings, asked.table), asked.to)
            return
        with spark_session(settings, "rollback", hive=True) as spark:
            roll_back(table_of(settings, asked.table, hive_of(spark, settings, asked.table)), asked.to)


if __name__ == "__main__":
    exit_with(main)
