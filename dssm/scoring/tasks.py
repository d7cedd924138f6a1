"""All files of a dataset through a tower, each in one of Spark's tasks, and what they came to."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from dssm import published, storage
from dssm.errors import UserError
from dssm.manifest import Manifest
from dssm.published import DATA, DIGESTS, QUARANTINE, VECTOR
from dssm.scoring.earlier import KEY, content_of
from dssm.scoring.files import UNFINISHED, FileResult, Scoring, score_file
from dssm.spark import most_tasks

TASKS_PER_CORE = 4  # so that none waits long for the last
KEYS_AT_ONCE = 2**24  # that the driver counts, 8 bytes each


def run_files(spark: SparkSession, scoring: Scoring, samples: Manifest) -> list[FileResult]:
    """Scores the files of a dataset, each in one task, which may have several. Returns: in the manifest's order.

    Only names go to the tasks and only counts come back: the rows never pass through the JVM.

    Raises: UserError where a file can't be read, or has not the rows that the manifest names.
    """
    names = [file.name for file in samples.files]
    context = spark.sparkContext
    slices = max(1, min(len(names), most_tasks(spark, TASKS_PER_CORE)))
    ended = context.parallelize(names, slices).mapPartitions(functools.partial(_score_files, scoring)).collect()
    results = []
    for file, result in zip(samples.files, ended, strict=True):
        if isinstance(result, UserError):
            raise result
        if result.read != file.rows:
            raise UserError(
                f"{scoring.source}/{file.name}: {result.read:,} rows, its manifest says {file.rows:,}; run "
                "build_samples again"
            )
        results.append(result)
    return results


def _score_files(scoring: Scoring, names: Iterable[str]) -> Iterator[FileResult | UserError]:
    for name in names:
        try:
            yield score_file(scoring, name)
        except UserError as error:  # another try would end the same way: it goes to the driver as it is
            yield error


def commit_files(folder: str, results: Sequence[FileResult]) -> None:
    """Gives the files that tasks told of their names, and removes those of tasks that were killed or ran twice."""
    for result in results:
        for part, temporary in result.temporary.items():
            storage.rename(f"{folder}/{part}/{temporary}", f"{folder}/{part}/{result.name}")
    for part in (DATA, DIGESTS, QUARANTINE):
        if storage.exists(f"{folder}/{part}"):
            for name in storage.file_names(f"{folder}/{part}", UNFINISHED):
                storage.remove(f"{folder}/{part}/{name}")


def measured_rows(folder: str, results: Sequence[FileResult], norm: float | None) -> dict[str, Any]:
    """Returns the manifest's fields on the rows; they are counted in the files as they lie there."""
    widths = results[0].widths if results else {}
    rows = sum(published.footer_rows(f"{folder}/{DATA}/{result.name}") for result in results)
    drift_rows = sum(result.drift_rows for result in results)
    drift = {
        column: sum(result.drift.get(column, 0.0) for result in results) / drift_rows
        for column in (widths if drift_rows else ())
        if any(column in result.drift for result in results)
    }
    quarantined: Counter[str] = sum((result.quarantined for result in results), Counter())
    return {
        "rows": rows,
        "distinct": distinct_keys([f"{folder}/{DIGESTS}/{result.name}" for result in results], rows),
        "vector_dim": widths.get(VECTOR, 0),
        "objectives": {name.removeprefix(f"{VECTOR}_"): width for name, width in widths.items() if name != VECTOR},
        "scored": sum(result.scored for result in results),
        "copied": sum(result.copied for result in results),
        "quarantined": dict(quarantined),
        "broken": sum(result.broken for result in results),
        "zeros": sum(result.zeros for result in results),
        "zero_example": next((result.zero_example for result in results if result.zeros), None),
        "norm_off": max((result.norm_off for result in results), default=0.0) if norm is not None else None,
        "drift": drift.pop(VECTOR, None),
        "objective_drift": {name.removeprefix(f"{VECTOR}_"): cosine for name, cosine in drift.items()},
        "drift_rows": drift_rows,
        "files": [{"name": result.name, "rows": result.rows, "size": result.size} for result in results],
    }


def distinct_keys(paths: Sequence[str], rows: int) -> int:
    """Returns how many different keys files hold, in passes over a range of the keys each: memory is bounded.

    Args: rows: about how many there are.
    """
    passes = max(1, -(-rows // KEYS_AT_ONCE))
    bounds = np.linspace(-(2.0**63), 2.0**63, passes + 1)[1:-1]
    total = 0
    for number in range(passes):
        found = []
        for path in paths:
            file = pq.ParquetFile(pa.BufferReader(content_of(path)))  # half the cost of read_table
            keys = file.read([KEY], use_threads=False).column(KEY).to_numpy()
            found.append(keys if passes == 1 else keys[np.searchsorted(bounds, keys, side="right") == number])
        total += len(np.unique(np.concatenate(found))) if found else 0
    return total
