"""The Hive side of a published table: where its partitions point."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dssm import storage
from dssm.errors import UserError
from dssm.published import MODEL_VERSION, SCALE, VECTOR, PublishedManifest, VectorType, scale_column

PARTITION = "dt"
EMPTY = "empty"  # a table's own folder
PLACE = "Location"  # as DESCRIBE calls it
URI = re.compile(r"(?P<scheme>[\w+.-]+):(//(?P<host>[^/:]*)(:\d+)?)?(?P<path>/.*)")
NOT_THERE = frozenset({"TABLE_OR_VIEW_NOT_FOUND", "SCHEMA_NOT_FOUND", "PARTITIONS_NOT_FOUND"})  # Spark's error classes
HIVE_TYPES: dict[VectorType, str] = {"float32": "ARRAY<FLOAT>", "float16": "BINARY", "int8": "ARRAY<TINYINT>"}
COMMENTS = {
    "item_id": "id in the catalogue",
    "user_id": "id in the log",
    VECTOR: "of the tower; of several objectives their shares combined",
    SCALE: "what the row of int8 is multiplied by",
    MODEL_VERSION: "digest of the weights",
}


class Metastore(Protocol):
    """What publishing asks of a metastore."""

    def check(self, columns: Mapping[str, str], dtype: VectorType) -> None:
        """Raises: UserError where a table of this name is of another place, or has partitions of another dtype."""

    def prepare(self, columns: Mapping[str, str], dtype: VectorType) -> None:
        """Makes the table where there is none, and the columns that it lacks. Raises: UserError as `check` does."""

    def location(self, date: str) -> str | None:
        """Returns where a partition points, None where there is no such table or partition."""

    def move(self, date: str, data: str) -> None:
        """Points a partition at a folder of files: one call, whether it is new or not."""

    def restore(self, date: str, place: str | None) -> None:
        """Points a partition where it did before. Args: place: of `location`; None: there was no such partition."""

    def describe(self, date: str, manifest: PublishedManifest) -> None:
        """Notes at the table and the partition what the version was made of."""

    def rows(self, date: str) -> int:
        """Returns the rows that a reader of the partition sees."""


def table_columns(side: str, vectors: Sequence[str], dtype: VectorType) -> dict[str, str]:
    """Returns the columns of a table with their types in Hive.

    Args: vectors: names of the vector columns.
    """
    columns = {f"{side}_id": "STRING", **dict.fromkeys(vectors, HIVE_TYPES[dtype])}
    if dtype == "int8":
        columns |= {scale_column(name): "FLOAT" for name in vectors}
    return {**columns, MODEL_VERSION: "STRING"}


def comment_of(manifest: PublishedManifest) -> str:
    """Returns what the table's comment says of the version that was published last."""
    users = f" of users {manifest.users}" if manifest.users else ""
    return (
        f"{manifest.side} vectors{users}, {manifest.dtype}, {manifest.vector_dim} wide. Last published: "
        f"dt={manifest.date}, version {manifest.version}, model {manifest.model_version}, settings "
        f"{manifest.settings_digest}, samples' manifest {manifest.samples_digest}, model's manifest "
        f"{manifest.model_digest}"
    )


def properties_of(manifest: PublishedManifest) -> dict[str, str]:
    """Returns what is noted at a partition."""
    return {
        "dssm.version": manifest.version,
        "dssm.model_version": manifest.model_version,
        "dssm.settings": manifest.settings_digest,
        "dssm.samples_manifest": manifest.samples_digest,
        "dssm.model_manifest": manifest.model_digest,
        "dssm.forced": str(manifest.forced).lower(),
    }


class HiveMetastore:
    """A table of Spark's catalog.

    Args:
      name: [database.]table.
      location: folder of its versions; the table's own place is an empty folder in it.
      setting: the table's section of the settings, for messages.
    """

    def __init__(self, spark: SparkSession, name: str, location: str, setting: str) -> None:
        self._spark, self._name, self._location, self._setting = spark, name, storage.url(location), setting

    def check(self, columns: Mapping[str, str], dtype: VectorType) -> None:
        self._checked(columns, dtype)

    def _checked(self, columns: Mapping[str, str], dtype: VectorType) -> tuple[dict[str, str], bool]:
        """Returns what the catalog says of the table, and whether it is to be made anew, with other types."""
        told = self._told()
        if told:
            self._check_place(told)
        others = [name for name, kind in columns.items() if told.get(name, kind).upper() != kind]
        partitions = self._answer(f"SHOW PARTITIONS {self._name}") if others else None
        if partitions is not None and partitions.take(1):
            name = others[0]
            raise UserError(
                f"{self._setting}.dtype: {self._name} holds {name} as {told[name].upper()}, {dtype} vectors are "
                f"{columns[name]}; expected one dtype for all dates of a table: set it back, or name another table and "
                "location"
            )
        return told, bool(others)

    def prepare(self, columns: Mapping[str, str], dtype: VectorType) -> None:
        told, anew = self._checked(columns, dtype)
        if anew:  # nothing was published to it: a first version was refused, or taken back
            self._spark.sql(f"DROP TABLE {self._name}")
        if anew or not told:
            self._create(columns)
            told = self._told()
            self._check_place(told)  # another pipeline may have made it just now
        for name, kind in columns.items():
            if name not in told:
                self._spark.sql(f"ALTER TABLE {self._name} ADD COLUMNS (`{name}` {kind})")

    def _create(self, columns: Mapping[str, str]) -> None:
        if "." in self._name:
            self._spark.sql(f"CREATE DATABASE IF NOT EXISTS {self._name.split('.')[0]}")
        described = ", ".join(
            f"`{name}` {kind} COMMENT '{_quoted(COMMENTS.get(name, 'of one objective'))}'"
            for name, kind in columns.items()
        )
        self._spark.sql(
            f"CREATE EXTERNAL TABLE IF NOT EXISTS {self._name} ({described}) PARTITIONED BY ({PARTITION} STRING) "
            f"STORED AS PARQUET LOCATION '{_quoted(self._location)}/{EMPTY}'"
        )

    def _check_place(self, told: Mapping[str, str]) -> None:
        found = told.get(PLACE, "no folder").removesuffix(f"/{EMPTY}")
        if not is_same_place(found, self._location):
            raise UserError(
                f"{self._setting}.name: {self._name} is a table of {found}, and this pipeline publishes to "
                f"{self._location}; expected a table of its own: set another name, or the root or location that the "
                "table has; or drop the table, whose files stay"
            )

    def location(self, date: str) -> str | None:
        return self._told(_partition(date)).get(PLACE)

    def _told(self, partition: str = "") -> dict[str, str]:
        """Returns what the catalog says of the table or a partition, such as each column's type; nothing of none."""
        answer = self._answer(f"DESCRIBE FORMATTED {self._name} {partition}")
        rows = answer.collect() if answer is not None else []
        # The columns come first, and a partition's own place before the table's.
        return {str(row["col_name"]).strip().rstrip(":"): str(row["data_type"]) for row in reversed(rows)}

    def move(self, date: str, data: str) -> None:
        self._point(date, storage.url(data))

    def restore(self, date: str, place: str | None) -> None:
        if place is not None:
            self._point(date, place)
            return
        self._spark.sql(f"ALTER TABLE {self._name} DROP IF EXISTS {_partition(date)}")  # external: its files stay
        self._spark.catalog.refreshTable(self._name)

    def _point(self, date: str, place: str) -> None:
        partition, location = _partition(date), f"LOCATION '{_quoted(place)}'"
        if self._answer(f"ALTER TABLE {self._name} {partition} SET {location}") is None:
            self._spark.sql(f"ALTER TABLE {self._name} ADD {partition} {location}")
        self._spark.catalog.refreshTable(self._name)

    def describe(self, date: str, manifest: PublishedManifest) -> None:
        pairs = ", ".join(f"'{key}'='{_quoted(value)}'" for key, value in properties_of(manifest).items())
        self._spark.sql(f"ALTER TABLE {self._name} {_partition(date)} SET SERDEPROPERTIES ({pairs})")
        comment = _quoted(comment_of(manifest))
        self._spark.sql(f"ALTER TABLE {self._name} SET TBLPROPERTIES ('comment'='{comment}')")

    def rows(self, date: str) -> int:
        return self._spark.table(self._name).filter(F.col(PARTITION) == date).count()

    def _answer(self, statement: str) -> DataFrame | None:
        """Runs a statement. Returns: None where there is no such table or partition."""
        try:
            return self._spark.sql(statement)
        except AnalysisException as error:
            if error.getErrorClass() not in NOT_THERE:
                raise
            return None


def is_same_place(one: str, other: str) -> bool:
    """Whether two URIs name one folder: Hive writes file:/x for file:///x, and adds the host that a URI leaves out.

    >>> is_same_place("hdfs://name:8020/runs/", "hdfs:///runs"), is_same_place("file:/runs", "file:///other")
    (True, False)
    """
    found, expected = URI.fullmatch(one), URI.fullmatch(other)
    if found is None or expected is None:
        return one == other
    hosts = {host for host in (found["host"], expected["host"]) if host}
    paths = {
        os.path.realpath(uri["path"]) if uri["scheme"] == "file" else os.path.normpath(uri["path"])
        for uri in (found, expected)
    }
    return found["scheme"] == expected["scheme"] and len(hosts) < 2 and len(paths) == 1


def _partition(date: str) -> str:
    return f"PARTITION ({PARTITION}='{date}')"


def _quoted(text: str) -> str:
    r"""Escapes a text for a literal of Spark's SQL.

    >>> _quoted("it's")
    "it\\'s"
    """
    return text.replace("\\", "\\\\").replace("'", "\\'")
