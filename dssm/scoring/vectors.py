"""Encoded rows through a tower on the executors: Arrow batches in, Arrow batches out."""

from __future__ import annotations

import functools
import gc
import os
import zipimport
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from dssm.errors import ReplacedError, UserError
from dssm.imports import uncollected
from dssm.manifest import ColumnSpec, Manifest, check_columns, data_files
from dssm.model.kept import version_in
from dssm.model.manifest import ModelManifest
from dssm.packing import unpack_all

if TYPE_CHECKING:
    from dssm.model.export import LoadedTower

VECTOR = "vector"


def task_threads(spark: SparkSession) -> int:
    """Returns the threads that a Spark task may use."""
    return int(spark.conf.get("spark.task.cpus", "1") or 1)


@functools.lru_cache(maxsize=2)
def load_tower(folder: str, version: str, threads: int) -> LoadedTower:
    """Loads a tower once for each Python worker process, which keeps two: each may hold tables of gigabytes.

    However many dates are scored side by side (`dates_at_once`), Spark's scheduler, which is FIFO, gives the tasks of
    one before those of the next: a worker goes on to another date's tower once, and where two dates meet has both.

    Args:
      folder: the SavedModel, in that of the model.
      version: of the model: another version in the same folder is loaded anew.
      threads: TensorFlow's threads, those of a Spark task.
    Raises: ReplacedError where the folder holds a model of another version, or does by the time that all is read.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with uncollected():
        import tensorflow as tf

        from dssm.model.export import LoadedTower

    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        pass  # a second tower in the same process: TensorFlow has started with these threads
    model = folder.rpartition("/")[0]
    check_not_replaced(model, version_in(model), version, "train")
    try:
        tower = LoadedTower(folder)
    finally:  # also where a file of it was gone
        check_not_replaced(model, version_in(model), version, "train")
    _spare_next_tasks()
    return tower


def _spare_next_tasks() -> None:
    """Takes two things off what Spark's Python worker does at each task, 0.35 s of a core with TensorFlow loaded.

    It collects garbage, among all that TensorFlow holds; and it has importlib forget what it knows of sys.path, where
    zipimport (of Python 3.10 and later) then reads the directories of Spark's jar and of pyspark.zip anew.
    """
    gc.collect()
    gc.freeze()
    zipimport.zipimporter.invalidate_caches = lambda self: None  # type: ignore[method-assign]


def check_not_replaced(folder: str, found: str | None, expected: str, made_by: str) -> None:
    """Checks that a folder holds what a job took up when it began.

    Args:
      found: version of what is there now; None where nothing can be read.
      expected: the version when the job began.
      made_by: the job that writes the folder.
    Raises: ReplacedError where it holds something else.
    """
    if found != expected:
        raise ReplacedError(
            f"{folder}: found {found or 'nothing that can be read'}, expected {expected}: {made_by} has replaced it "
            "since this job began; run the job again"
        )


def check_model_fits(model: ModelManifest, samples: Manifest, columns: Mapping[str, ColumnSpec], folder: str) -> None:
    """Checks that rows are encoded as the model was trained.

    Raises: UserError that names the first vocabulary, table of vectors or column that differs.
    """
    for name, spec in model.vocabularies.items():
        if samples.vocabularies.get(name) != spec:
            raise UserError(
                f"{folder}: vocabulary '{name}' is not the one that the model {model.model_version} was trained with; "
                "run train again on these samples"
            )
    if model.frozen_vectors and samples.build != model.samples_build:
        raise UserError(
            f"{folder}: build {samples.build} holds row numbers of its own table of vectors "
            f"'{model.frozen_vectors[0]}', but the model {model.model_version} was trained on those of build "
            f"{model.samples_build}; run train again on these samples"
        )
    check_columns(samples, columns, folder)


def with_vectors(
    spark: SparkSession,
    folder: str,
    manifest: Manifest,
    tower: str,
    version: str,
    columns: Mapping[str, ColumnSpec],
    kept: Sequence[str],
) -> DataFrame:
    """Passes a dataset through a tower.

    Args:
      folder: the dataset.
      manifest: its manifest.
      tower: folder of the SavedModel.
      version: of the model.
      columns: the tower's inputs.
      kept: columns to keep beside the vector.
    Grain: one row a row of the dataset, as (kept…, vector: array<float>).
    """
    rows = spark.read.parquet(*data_files(folder, manifest)).select(*kept, *columns)
    fields = [field for field in rows.schema.fields if field.name in kept]
    threads = task_threads(spark)

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            vectors = load_tower(tower, version, threads).vectors(unpack_all(batch, columns))
            lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1])
            arrays = [batch.column(field.name) for field in fields] + [lists.cast(pa.list_(pa.float32()))]
            yield pa.RecordBatch.from_arrays(arrays, names=[*(field.name for field in fields), VECTOR])

    return rows.mapInArrow(run, T.StructType([*fields, T.StructField(VECTOR, T.ArrayType(T.FloatType()))]))
