"""The published tables: where they lie, how vectors are stored, and what must hold before a version goes out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, FiniteFloat

from dssm.evaluation import DEFAULT_METRIC
from dssm.strict import StrictModel

TABLE_NAME = r"^([A-Za-z_]\w*\.)?[A-Za-z_]\w*$"


class Gate(StrictModel):
    """What `evaluate` must have found before the table moves; exit code 3 otherwise."""

    metric: str = Field(
        DEFAULT_METRIC,
        description="A metric of evaluation.json, seen items kept. That of the item table, where it is a recall, is "
        "also what evaluate's and the report's breakdowns show, and what compare orders by.",
    )
    better_than: Literal[
        "popularity", "popularity_recent", "itemcf", "itemcf_impressions", "ease", "ease_recent", "none"
    ] = Field("popularity", description="The baseline that the model must beat; none: publish without an evaluation.")
    margin: FiniteFloat | None = Field(
        0.1,
        ge=0,
        description="How far the metric may be below that of the version published last, as a share of it; null: any "
        "distance. The two were measured on the test windows of their own dates.",
    )


class PublishedTable(StrictModel):
    """A table of vectors, a partition a date: `kind: hive` moves a partition of the metastore, `path` a pointer alone.

    Each version is a folder of its own, {location}/dt=DATE/version=V/, whose rows never change; its manifest takes
    what is measured later. The file {location}/dt=DATE/_current names the one that readers of the path take; it is
    written for both kinds.
    """

    kind: Literal["hive", "path"] = Field("hive", description="How readers find the current version.")
    name: str | None = Field(None, pattern=TABLE_NAME, description="Of the table, as [database.]table.")
    location: str = Field(description="Folder of the table's versions.")
    dtype: Literal["float32", "float16", "int8"] = Field(
        "float32",
        description="Of the stored numbers: float32, lists; float16, binaries of little-endian halves, as Spark has "
        "none; int8, lists, times the row's `scale`. The same for all dates of a table. What rounding costs in recall "
        "is not measured: evaluate ranks by the model's own numbers, and index_items holds each search against the "
        "exact one over the rounded numbers.",
    )
    incremental: bool = Field(
        False,
        description="Keep digests of the rows' features; where those of the version published last are there and its "
        "model is the same, take the vectors of rows that have not changed from it. They are found also where the "
        "number of files, a power of two, has doubled or halved with the rows; with another seed all are scored anew.",
    )
    gate: Gate = Gate()
    norm_tolerance: FiniteFloat = Field(
        1e-3,
        gt=0,
        description="How far a vector's norm may be from the model's vector_norm, before it is rounded to `dtype`; the "
        "norms of an objective's own vectors are measured at the same scale.",
    )
    max_quarantine_share: FiniteFloat = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of the rows that may be unreadable, of the samples and likewise of the catalogue as "
        "build_samples read it; they are left out of the table. A vector that is not finite is another matter: there "
        "may be none.",
    )
    min_drift_cosine: FiniteFloat | None = Field(
        None,
        ge=-1,
        le=1,
        description="Least mean cosine of the vectors to those published last, of rows in both, and of each "
        "objective's own; null: it is measured only. A limit makes sense between models of one line: the same one, or "
        "each warm-started from the last.",
    )
    keep_versions: int = Field(
        3, ge=1, description="Newest versions of a date that are kept; the current one always is."
    )
    keep_days: int = Field(
        1,
        ge=0,
        description="Older versions are removed so many days, an hour at least, after they were current last: whoever "
        "began to read one before can finish.",
    )
    dates_at_once: int = Field(1, ge=1, description="With --dates: dates that are scored and published side by side.")


class ItemTable(PublishedTable):
    name: str | None = Field(
        None,
        pattern=TABLE_NAME,
        description="Of the table, as [database.]table; default: the pipeline's name and _items.",
    )
    location: str = Field("{root}/{name}/item_table", description="Folder of the table's versions.")
    metastore: str | None = Field(
        "{root}/metastore_db",
        description="Folder of the embedded Derby metastore, of all tables; a service, thrift://host:9083; a database, "
        "jdbc:…, with its password in spark.secrets; null: the cluster's own Hive.",
    )


class UserTable(PublishedTable):
    """The vectors of samples/users: those that `samples.users` says, as of the test window's start."""

    name: str | None = Field(
        None,
        pattern=TABLE_NAME,
        description="Of the table, as [database.]table; default: the pipeline's name and _users.",
    )
    location: str = Field("{root}/{name}/user_table", description="Folder of the table's versions.")
