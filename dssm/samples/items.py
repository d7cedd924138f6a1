"""The rows of the catalogue, encoded once each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm.config import Settings
from dssm.features import AnyFeature
from dssm.manifest import (
    ITEM_ID,
    ITEM_INDEX,
    ITEM_KEY,
    ITEM_POSITIVES,
    ITEM_PROBABILITY,
    ITEM_ROWS,
    ITEM_TITLE,
    NO_ITEM,
    UPLOAD_TIME,
    ColumnSpec,
    changing_item_features,
)
from dssm.samples.datasets import item_columns
from dssm.samples.encoding import encode_features
from dssm.samples.files import Encoder
from dssm.samples.log import CANDIDATES, WEIGHED
from dssm.samples.lookups import Lookups, group_column, groups_of
from dssm.samples.raw_columns import RAW, as_raw, ids_as_text, raw_item_features, universe_features
from dssm.samples.sources import ID, is_not_utf8, quoted


def with_item_index(catalogue: DataFrame, end: int | None = None) -> DataFrame:
    """Adds ITEM_INDEX, the place of each item by id. Only the ids pass through the one task that numbers them.

    Args:
      end: Unix ms; items uploaded from then on are not numbered and get NO_ITEM.
    """
    later = F.lit(False) if end is None else F.col(UPLOAD_TIME) >= end
    place = F.row_number().over(Window.orderBy(later, ID)) - 1
    numbers = catalogue.select(ID, F.when(later, NO_ITEM).otherwise(place).cast("int").alias(ITEM_INDEX))
    return catalogue.join(numbers, ID).persist(StorageLevel.DISK_ONLY)


def event_encoder(settings: Settings, lookups: Lookups) -> Encoder:
    return Encoder(
        features=settings.features,
        histories=tuple(settings.histories),
        counters=settings.counters,
        timezone=settings.timezone,
        lookups=lookups,
        universe=universe_features(settings),
    )


def encoded_items(
    catalogue: DataFrame, counts: DataFrame, candidates: int, lookups: Lookups, settings: Settings
) -> DataFrame:
    """Encodes the catalogue.

    Args:
      counts: of `Log.item_counts`.
      candidates: sum of its CANDIDATES.
    Grain: one row an item, with its place by id and its share of the training rows that an in-batch
    candidate can come from. Features that change with the event's time are as of the start of the run's date.
    """
    given = (ITEM_POSITIVES, CANDIDATES, WEIGHED)
    positives, drawn, trained = (F.coalesce(column, F.lit(0)).cast("long") for column in given)
    total = max(candidates, 1)
    groups = {
        group_column(name): F.when(
            F.trim(quoted(column).cast("string")) != "", F.xxhash64(F.trim(quoted(column).cast("string")))
        ).otherwise(0)
        for name, column in groups_of(settings.samples.negatives).items()
    }
    features = raw_item_features(settings)
    raw = catalogue.join(counts, ITEM_INDEX, "left").select(
        F.col(ID).alias(ITEM_ID),
        *_title(catalogue, settings.catalogue.title),
        ITEM_INDEX,
        F.xxhash64(ID).alias(ITEM_KEY),
        (drawn / total).cast("float").alias(ITEM_PROBABILITY),
        trained.alias(ITEM_ROWS),
        positives.alias(ITEM_POSITIVES),
        UPLOAD_TIME,
        *[column.alias(name) for name, column in groups.items()],
        *as_raw(features),
    )
    changing = changing_item_features(settings.features, settings.counters)
    encoder, moment = event_encoder(settings, lookups), settings.day_start_ms(0)

    def as_of_start(batch: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
        upload, items = batch[UPLOAD_TIME].to_numpy(), batch[ITEM_INDEX].to_numpy()
        times = np.full(len(items), moment)
        return {f.name: pa.array(encoder.changing_of(f, items, upload, times)) for f in changing}

    specs = {name: spec for name, spec in item_columns(settings).items() if name not in raw.columns}
    return _encoded(raw, features, specs, lookups, as_of_start)


def _title(catalogue: DataFrame, column: str | None) -> list[Column]:
    """Returns ITEM_TITLE where a column is named; the id stands in for a blank or an unreadable one."""
    if column is None:
        return []
    text = F.trim(quoted(column).cast("string"))
    readable = (text != "") & ~is_not_utf8(catalogue, column)
    return [F.when(readable, text).otherwise(F.col(ID)).alias(ITEM_TITLE)]


def _encoded(
    rows: DataFrame,
    features: Sequence[AnyFeature],
    specs: Mapping[str, ColumnSpec],
    lookups: Lookups,
    more: Callable[[Mapping[str, pa.Array]], Mapping[str, pa.Array]],
) -> DataFrame:
    """Replaces the raw columns by those of `specs`; `more` makes the ones that are no feature of a raw column."""
    kinds = {"int32": T.IntegerType(), "float32": T.FloatType()}
    rows = ids_as_text(rows, features)
    kept = [field for field in rows.schema.fields if not field.name.startswith(RAW)]
    encoded = [
        T.StructField(name, T.BinaryType() if spec.encoding == "packed" else kinds[spec.dtype])
        for name, spec in specs.items()
    ]

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            columns = {name: batch.column(name) for name in batch.schema.names}
            raw = {name.removeprefix(RAW): column for name, column in columns.items() if name.startswith(RAW)}
            arrays = {**encode_features(raw, features, lookups.tables()), **more(columns)}
            yield pa.RecordBatch.from_arrays(
                [columns[field.name] for field in kept] + [arrays[name] for name in specs],
                names=[field.name for field in kept] + list(specs),
            )

    return rows.mapInArrow(run, T.StructType([*kept, *encoded]))
