"""score_items: a vector for every item of the catalogue, checked, then published by moving a partition."""

from __future__ import annotations

import json

from pydantic import BaseModel, ConfigDict
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dssm import storage
from dssm.config import Settings
from dssm.console import out, step
from dssm.errors import GateError, UserError
from dssm.manifest import ITEM_ID, MANIFEST, Manifest, read_manifest
from dssm.model.manifest import ModelManifest, read_model_manifest
from dssm.paths import RunPaths
from dssm.scoring.vectors import VECTOR, check_model_fits, with_vectors

TABLE_COLUMNS = (
    "item_id STRING COMMENT 'id in the catalogue', "
    "vector ARRAY<FLOAT> COMMENT 'of the item tower, unit norm', "
    "model_version STRING COMMENT 'digest of the weights'"
)


class ScoredManifest(BaseModel):
    """What a version's folder holds, beside data/*.parquet; written last."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    table: str
    version: str
    date: str
    model_version: str
    samples_build: str
    rows: int
    vector_dim: int


def score_items(spark: SparkSession, settings: Settings) -> None:
    """Publishes the partition dt = date of the item table.

    The rows go to a folder of their own that is never changed again; when they have passed the checks,
    one metastore call points the partition there. Readers see the old rows or the new ones. The folder's
    name is a digest of what it is made of, so that a rerun makes nothing new.

    Raises: GateError where evaluation.json says that the model is not good enough; UserError where
      the samples, the model or the evaluation are missing or do not belong together.
    """
    paths = RunPaths(settings.run_folder)
    model = read_model_manifest(paths.model)
    items = read_manifest(paths.part("items"), "build_samples")
    check_model_fits(model, items, model.item_columns, paths.part("items"))
    _check_gate(settings, paths, model, items)
    date = settings.date.isoformat()
    version = storage.digest(date, model.model_version, items.build)
    folder = storage.absolute(f"{settings.table_location}/dt={date}/version={version}")
    if storage.exists(f"{folder}/{MANIFEST}"):
        out.print(f"  version {version} is there already: {folder}")
    else:
        with step("vectors") as remarks, storage.committed_folder(folder) as temporary:
            rows = _write_version(spark, paths, items, model, f"{temporary}/data")
            manifest = ScoredManifest(
                table=settings.table_name,
                version=version,
                date=date,
                model_version=model.model_version,
                samples_build=items.build,
                rows=rows,
                vector_dim=model.vector_dim,
            )
            _check_version(spark.read.parquet(f"{temporary}/data"), items.rows, model, settings)
            storage.write_text(f"{temporary}/{MANIFEST}", manifest.model_dump_json(indent=1) + "\n")
            remarks.append(f"{rows:,} items")
    with step(f"partition dt={date} of {settings.table_name}") as remarks:
        _publish(spark, settings, f"{folder}/data")
        published = spark.table(settings.table_name).filter(F.col("dt") == date).count()
        if published != items.rows:
            raise RuntimeError(f"{settings.table_name} dt={date}: {published:,} rows read back, {items.rows:,} written")
        remarks.append(f"{published:,} rows read back")
    out.print(f"  {settings.table_name} dt={date} → {folder}/data")


def _write_version(spark: SparkSession, paths: RunPaths, items: Manifest, model: ModelManifest, folder: str) -> int:
    vectors = with_vectors(
        spark,
        paths.part("items"),
        items,
        f"{paths.model}/item_tower",
        model.model_version,
        model.item_columns,
        [ITEM_ID],
    )
    table = vectors.select(
        F.col(ITEM_ID).alias("item_id"), F.col(VECTOR), F.lit(model.model_version).alias("model_version")
    )
    table.write.parquet(folder)
    return spark.read.parquet(folder).count()


def _check_version(rows: DataFrame, expected: int, model: ModelManifest, settings: Settings) -> None:
    """Checks what is about to be published: one row a catalogue item, all numbers finite, norms of the model's.

    Raises: GateError that names the first check that fails.
    """
    norm = F.sqrt(F.aggregate(VECTOR, F.lit(0.0), lambda total, x: total + x.cast("double") * x))
    numbers = F.forall(VECTOR, lambda x: x.isNotNull() & ~F.isnan(x) & (F.abs(x) < float("inf")))
    found = rows.agg(
        F.count("*").alias("rows"),
        F.countDistinct("item_id").alias("items"),
        F.sum((~numbers | (F.size(VECTOR) != model.vector_dim)).cast("int")).alias("broken"),
        F.max(F.abs(norm - (model.vector_norm or 0))).alias("off"),
    ).first()
    assert found is not None
    if not found["rows"] == found["items"] == expected:
        raise GateError(
            f"item table: {found['rows']:,} rows of {found['items']:,} items, expected one row "
            f"for each of {expected:,} catalogue items; nothing was published"
        )
    if found["broken"]:
        raise GateError(
            f"item table: {found['broken']:,} vectors are not {model.vector_dim} finite numbers; nothing was published"
        )
    if model.vector_norm is not None and found["off"] > settings.item_table.norm_tolerance:
        raise GateError(
            f"item table: a vector's norm is off {model.vector_norm:.4g} by {found['off']:.2g}, "
            f"item_table.norm_tolerance is {settings.item_table.norm_tolerance:.2g}; nothing was published"
        )


def _check_gate(settings: Settings, paths: RunPaths, model: ModelManifest, items: Manifest) -> None:
    """Raises: GateError where the model's recall is not above the baseline's, seen items kept."""
    gate = settings.item_table.gate
    if gate.better_than == "none":
        return
    if not storage.exists(paths.evaluation):
        raise UserError(
            f"{paths.evaluation}: not found; run evaluate first, or set item_table.gate.better_than to none"
        )
    evaluation = json.loads(storage.read_text(paths.evaluation))
    if evaluation.get("model_version") != model.model_version:
        raise UserError(
            f"{paths.evaluation}: of model {evaluation.get('model_version')}, but {paths.model} holds "
            f"{model.model_version}; run evaluate again"
        )
    if evaluation.get("samples_build") != items.build:
        raise UserError(f"{paths.evaluation}: of other samples than {paths.samples}; run evaluate again")
    kept = evaluation["seen_kept"]
    if gate.better_than not in kept:
        raise UserError(
            f"item_table.gate.better_than: {paths.evaluation} has no '{gate.better_than}'; "
            f"expected one of {', '.join(kept)}"
        )
    found, bar = kept["model"].get(gate.metric), kept[gate.better_than].get(gate.metric)
    if found is None or bar is None:
        raise UserError(f"item_table.gate.metric: {paths.evaluation} has no '{gate.metric}'; run evaluate again")
    if found <= bar:
        raise GateError(
            f"gate: the model's {gate.metric} is {found:.4f}, {gate.better_than} has {bar:.4f}; "
            "the table keeps what it had (item_table.gate.better_than: none publishes anyway)"
        )


def _publish(spark: SparkSession, settings: Settings, data: str) -> None:
    """Points the partition at the folder: one metastore call, whether it is new or not."""
    name, date = settings.table_name, settings.date.isoformat()
    location = storage.url(settings.table_location)
    if "." in name:
        spark.sql(f"CREATE DATABASE IF NOT EXISTS {name.split('.')[0]}")
    spark.sql(
        f"CREATE EXTERNAL TABLE IF NOT EXISTS {name} ({TABLE_COLUMNS}) PARTITIONED BY (dt STRING) "
        f"STORED AS PARQUET LOCATION '{location}/empty'"
    )
    exists = spark.sql(f"SHOW PARTITIONS {name} PARTITION (dt='{date}')").count() > 0
    if exists:
        spark.sql(f"ALTER TABLE {name} PARTITION (dt='{date}') SET LOCATION '{storage.url(data)}'")
    else:
        spark.sql(f"ALTER TABLE {name} ADD PARTITION (dt='{date}') LOCATION '{storage.url(data)}'")
    spark.catalog.refreshTable(name)
