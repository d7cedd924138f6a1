"""A plain job on Spark, a yardstick: python -m benchmarks.samples.spark_alone FEED OUT positives|all.

No peer: nothing is joined, encoded, drawn, checked or shuffled among the samples. Spark counts the training window's
events of each item, sends the log's rows to their users once, and hands them to Python, which writes them as they
come: what build_samples takes beyond that, it takes for all the rest. The session is build_samples' own, with its
options of Java.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from benchmarks.samples.feed import EVENTS
from benchmarks.samples.pipeline import write_settings
from benchmarks.samples.task import ITEM_ID, POSITIVES, SPLIT_MS, THREADS, USER_ID
from dssm.config import Settings, load_settings
from dssm.spark import spark_session
from dssm.submitting.command import session_environment

PROJECT = Path(__file__).resolve().parents[2]


def count_and_send(spark: SparkSession, feed: Path, out: Path, clicks_only: bool) -> int:
    """Writes the log's rows below `out`, all of a user in one file. Returns the number of training rows."""
    log = spark.read.parquet(str(feed / EVENTS)).select(USER_ID, ITEM_ID, "time_ms", "is_click")
    if clicks_only:
        log = log.where("is_click = 1")
    items = log.where(f"time_ms < {SPLIT_MS}").groupBy(ITEM_ID).count().collect()

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        first = next(batches, None)
        if first is None:
            return
        with pq.ParquetWriter(f"{out}/{uuid.uuid4().hex}.parquet", first.schema) as writer:
            for batch in itertools.chain([first], batches):
                writer.write_batch(batch)
                yield pa.RecordBatch.from_pydict({"trained": [pc.sum(pc.less(batch["time_ms"], SPLIT_MS)).as_py()]})

    out.mkdir()
    sent = sum(row.trained for row in log.repartition(USER_ID).mapInArrow(write, "trained long").collect())
    if sent != (counted := sum(row["count"] for row in items)):
        raise RuntimeError(f"of {counted} training rows {sent} were sent")
    return sent


def environment(settings: Settings) -> dict[str, str]:
    """Returns the variables with which a session of this process is what build_samples' is."""
    java_home = subprocess.run(
        [PROJECT / "scripts" / "java_home.sh", sys.executable], stdout=subprocess.PIPE, check=True
    )
    return {
        "JAVA_HOME": java_home.stdout.decode().strip(),
        **session_environment("build_samples", settings, {**os.environ, "MASTER": f"local[{THREADS}]"}),
    }


def main() -> None:
    feed, out, rows = sys.argv[1:]
    config = write_settings(Path(feed), Path(f"{out}.run"), rows)
    settings = load_settings(str(config))
    os.environ |= environment(settings)
    with spark_session(settings, "spark alone") as spark:
        started = time.perf_counter()
        count = count_and_send(spark, Path(feed), Path(out), rows == POSITIVES)
        seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "train_rows": count}))


if __name__ == "__main__":
    main()
