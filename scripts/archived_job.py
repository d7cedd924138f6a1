"""Does in one session of Spark what its jobs do, so that Java loads what they load: for scripts/spark_classes.sh.

    scripts/archived_job.py OVERRIDE…    of conf/demo.yaml, whose feed is written already

Samples are built, and a partition of a Hive table is made and read as `score_items` does. Ends when Java has.
"""

from __future__ import annotations

import os
import sys

from pyspark import SparkContext

from dssm.config import load_settings
from dssm.paths import RunPaths
from dssm.samples.build import build_samples
from dssm.scoring.metastore import HiveMetastore, table_columns
from dssm.spark import spark_session
from dssm.submitting.command import session_environment

JAVA_ENDS_S = 300  # Java writes the archive when it ends


def main() -> None:
    settings = load_settings("conf/demo.yaml", sys.argv[1:])
    os.environ.update(session_environment("build_samples", settings, os.environ))
    with spark_session(settings, "classes", hive=True) as spark:
        build_samples(spark, settings)
        table, columns = f"{RunPaths(settings.run_folder).folder}/table", table_columns("item", ["vector"], "float32")
        rows = spark.createDataFrame([("i", [1.0], "m")], ", ".join(f"`{name}` {of}" for name, of in columns.items()))
        rows.write.parquet(f"{table}/rows")
        hive = HiveMetastore(spark, "classes", table, "item_table")
        hive.prepare(columns, "float32")
        hive.move(str(settings.date), f"{table}/rows")
        print(f"{hive.rows(str(settings.date))} row in {hive.location(str(settings.date))}")
    gateway = SparkContext._gateway
    assert gateway is not None
    gateway.shutdown()
    gateway.proc.stdin.close()
    try:
        raise SystemExit(gateway.proc.wait(JAVA_ENDS_S))
    finally:
        gateway.proc.kill()  # which does nothing where it has ended


if __name__ == "__main__":
    main()
