"""Published vectors as hard negatives read them: which version's files, and their numbers whatever their dtype is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm import published, storage
from dssm.config import DAY, Settings
from dssm.errors import UserError
from dssm.manifest import JoinCounts
from dssm.samples.dated_paths import LOOK_BACK_DAYS, newest_day, on_day
from dssm.samples.sources import ID, damage_explained, is_finite, is_not_utf8, need_columns, need_ids, quoted
from dssm.samples.vectors import need_vectors, write_vectors
from dssm.sections import HardNegatives
from dssm.spark import explained, matches

TABLE, PARTITION = "table:", "dt"


@dataclass(frozen=True)
class ModelVectors:
    """A model's vectors: one row an id, as (id: string, values: array<float>), their width and number.

    Attributes: ids: as ID, without reading a vector.
    """

    frame: DataFrame
    ids: DataFrame
    width: int
    rows: int


@dataclass(frozen=True)
class PublishedVectors:
    """The vectors of a build's hard negatives.

    Attributes:
      items: file of the items' vectors, by name of the negatives.
      users: the users' vectors, by name of the negatives that have them.
      joins: of the catalogue with the items' vectors.
    """

    items: Mapping[str, str]
    users: Mapping[str, ModelVectors]
    joins: Sequence[JoinCounts]


def copy_published(
    spark: SparkSession, settings: Settings, catalogue: DataFrame, rows: int, folder: str
) -> PublishedVectors:
    """Copies the published item vectors of hard negatives, which lie anywhere, into the build's folder.

    Args:
      rows: of the catalogue.
    """
    copies: dict[str, str] = {}
    of_users: dict[str, ModelVectors] = {}
    joins = []
    for name, kind in settings.samples.negatives.items():
        if not isinstance(kind, HardNegatives):
            continue
        where = f"samples.negatives.{name}"
        items = read_published(spark, settings, f"{where}.items", kind.items, kind.id, kind.values)
        joins.append(count_published(settings, name, catalogue, rows, items.ids))
        copies[name] = f"{folder}/.lookups/published_{name}/vectors.parquet"
        write_vectors(items.frame, copies[name], items.width)
        if kind.users is not None:
            of_users[name] = read_published(
                spark, settings, f"{where}.users", kind.users, kind.user_id, kind.values, items.width
            )
    return PublishedVectors(copies, of_users, joins)


def count_published(settings: Settings, name: str, catalogue: DataFrame, rows: int, ids: DataFrame) -> JoinCounts:
    """Counts the items of the catalogue that have a published vector.

    Args:
      ids: of the vectors, as ID.
    Raises: UserError where no item has one.
    """
    matched = catalogue.select(ID).join(ids, ID, "left_semi").count()
    if matched == 0:
        kind = settings.samples.negatives[name]
        assert isinstance(kind, HardNegatives)
        raise UserError(
            f"samples.negatives.{name}.items: none of the ids in '{kind.id}' of {kind.items} is one of the "
            f"catalogue's {rows:,}; expected the ids of catalogue.key: check samples.negatives.{name}.id"
        )
    return JoinCounts(name=f"catalogue ⋈ samples.negatives.{name}", rows=rows, matched=matched)


def count_published_users(
    settings: Settings, vectors: Mapping[str, ModelVectors], trained: DataFrame
) -> list[JoinCounts]:
    """Counts the users of the training window that have a published vector.

    Args:
      vectors: the users', by name of the negatives.
      trained: the users with training rows, by ID.
    Raises: UserError where no user has one: each would be searched for by the mean of what it clicked.
    """
    joins, rows = [], trained.count() if vectors else 0
    for name, of_users in vectors.items():
        matched = trained.select(ID).join(of_users.ids, ID, "left_semi").count()
        if rows and matched == 0:
            kind = settings.samples.negatives[name]
            assert isinstance(kind, HardNegatives)
            raise UserError(
                f"samples.negatives.{name}.users: none of the ids in '{kind.user_id}' of {kind.users} is one of the "
                f"{rows:,} users with training rows; expected the ids that the sources' user columns hold: check "
                f"samples.negatives.{name}.user_id, or remove users"
            )
        joins.append(JoinCounts(name=f"users ⋈ samples.negatives.{name}.users", rows=rows, matched=matched))
    return joins


def read_published(
    spark: SparkSession,
    settings: Settings,
    name: str,
    place: str,
    key: str,
    values: str,
    width: int | None = None,
) -> ModelVectors:
    """Reads a model's published vectors.

    Args:
      name: the setting that names them, samples.negatives.NAME.items or .users.
      place: a Parquet folder; that of a published table or of one of its dates, whose current version is read; or
        `table:NAME`, whose newest partition before the run's date is read. {date} in the folder stands for the newest
        day before the run's date that is there.
      width: of the vectors that these are compared with, where it is known.
    Returns: the vectors; of float16 and int8, too.
    Raises: UserError where there are none, an id stands twice, or the vectors differ in width or are not finite.
    """
    frame, where = _published_rows(spark, settings, name, place)
    kind, _, part = name.rpartition(".")
    settings_of_columns = {"user_id" if part == "users" else "id": key}
    need_columns(kind, frame, {**settings_of_columns, "values": values})
    need_ids(kind, frame, settings_of_columns)
    if not isinstance(frame.schema[values].dataType, T.BinaryType):
        need_vectors(kind, frame, values)
    rows = decoded_vectors(frame, key, values)
    vector = F.col("values")
    bad = vector.isNull() | F.exists(vector, lambda value: ~is_finite(value))
    with damage_explained(name, where):
        found = rows.agg(
            F.count("*").alias("rows"),
            F.countDistinct("id").alias("ids"),
            F.min(F.size(vector)).alias("least"),
            F.max(F.size(vector)).alias("most"),
            F.sum(bad.cast("int")).alias("bad"),
        ).first()
        no_texts = frame.filter(is_not_utf8(frame, key)).count()
    assert found is not None  # an aggregate over no rows is a row
    if no_texts:
        raise UserError(f"{name}: {no_texts:,} ids in '{key}' of {where} are not UTF-8 text; expected text or integers")
    one_width = found["least"] == found["most"] != 0
    if not found["rows"] or found["ids"] != found["rows"] or not one_width or found["bad"]:
        raise UserError(
            f"{name}: {where} holds {found['rows']:,} rows of {found['ids']:,} ids, "
            f"{found['least']} to {found['most']} numbers each, {found['bad'] or 0:,} of them null or not finite; "
            "expected one vector an id, of one width"
        )
    if width is not None and found["most"] != width:
        raise UserError(
            f"{name}: the vectors of {where} are {found['most']} wide, the items' {width}; expected those of one model"
        )
    ids = frame.select(quoted(key).cast("string").alias(ID))
    return ModelVectors(rows, ids, found["most"], found["rows"])


def _published_rows(spark: SparkSession, settings: Settings, name: str, place: str) -> tuple[DataFrame, str]:
    """Returns published vectors as they are, and where they lie."""
    day = settings.date.isoformat()
    if place.startswith(TABLE):
        table = place.removeprefix(TABLE)
        with explained(name):
            frame = spark.table(table)
        need_columns(name, frame, {"table": PARTITION})
        newest = frame.filter(F.col(PARTITION) < day).agg(F.max(PARTITION)).first()
        if newest is None or newest[0] is None:
            raise UserError(f"{name}: {table} has no partition before {day}; publish one first")
        return frame.filter(F.col(PARTITION) == newest[0]), f"{place}, {PARTITION}={newest[0]}"
    if "{date" in place:
        found = newest_day(spark, settings, name, place, settings.date)
        if found is None:
            first, last = (on_day(settings, place, settings.date - days * DAY) for days in (LOOK_BACK_DAYS, 1))
            raise UserError(
                f"{name}: nothing found at {first} … {last} ({LOOK_BACK_DAYS} days); expected a folder of Parquet "
                f"files of a day before {day}; publish one first"
            )
        folder = on_day(settings, place, found)
    else:
        folder = storage.absolute(settings.expand(place)[0])
        if not matches(spark, name, folder):
            raise UserError(f"{name}: nothing found at {folder}; expected a folder of Parquet files")
    folder = current_data(name, folder, day)
    with explained(name), damage_explained(name, folder):
        return spark.read.parquet(folder), folder


def current_data(name: str, folder: str, day: str) -> str:
    """Returns the files' folder of a published table's current version: of a date, or the newest before a day.

    A folder of Parquet files is returned as it is, and so is one on a file system that Spark alone knows.

    Args: name: the setting of the folder.
    Raises: UserError where no version of the table, or of its date, is current.
    """
    try:
        below = [] if "*" in folder else storage.folder_names(folder)
    except (ImportError, ValueError):  # fsspec has no such scheme
        return folder
    if any(entry.startswith(published.VERSION_FOLDER) for entry in below):
        location, _, date = folder.rstrip("/").rpartition(f"/{published.DATE_FOLDER}")
    else:
        dates = published.dates(folder) if any(entry.startswith(published.DATE_FOLDER) for entry in below) else []
        if not dates:
            return folder
        location, date = folder, max((d for d in dates if d < day), default="")
        if not date:
            raise UserError(f"{name}: {folder} has no version of a date before {day}; publish one first")
    current = published.current(location, date)
    if current is None:
        raise UserError(f"{name}: {folder} holds versions of which none is current; publish one again, or roll back")
    return current.data


def decoded_vectors(frame: DataFrame, key: str, values: str) -> DataFrame:
    """Returns stored vectors as (id: string, values: array<float>); see `dssm.published` for how they are stored.

    Args:
      key: column of the id.
      values: column of lists of numbers, which a column `scale` beside lists of int8 multiplies, or of binaries.
    """
    column, kind = quoted(values), frame.schema[values].dataType
    vector_id = quoted(key).cast("string").alias("id")
    if isinstance(kind, T.BinaryType):
        return frame.select(vector_id, column.alias("values")).mapInArrow(_halves, "id string, values array<float>")
    scale = published.scale_column(values)
    if isinstance(kind, T.ArrayType) and isinstance(kind.elementType, T.ByteType) and scale in frame.columns:
        column = F.transform(column, lambda number: number * quoted(scale))
    return frame.select(vector_id, column.cast("array<float>").alias("values"))


def _halves(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Binaries of little-endian float16 → lists of float32; null where the bytes are odd."""
    for batch in batches:
        given = batch.column(1)
        odd = pc.fill_null(pc.equal(pc.bit_wise_and(pc.binary_length(given), 1), 1), True)
        stored = pc.if_else(odd, pa.scalar(b"", given.type), given)
        _, offsets, data = stored.buffers()
        bounds = np.frombuffer(offsets, np.int32)[stored.offset : stored.offset + len(stored) + 1]
        size = int(bounds[-1] - bounds[0])
        halves = np.frombuffer(data, "<f2", size // 2, int(bounds[0])) if size else np.empty(0, np.float16)
        places = pa.array((bounds - bounds[0]) // 2, pa.int32())
        lists = pa.ListArray.from_arrays(places, pa.array(halves.astype(np.float32)), mask=odd)
        yield pa.RecordBatch.from_arrays([batch.column(0), lists], names=["id", "values"])
