"""Raw columns to encoded ones in Spark: where each comes from, joins, histories, vocabularies' counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm.config import Settings
from dssm.errors import UserError, did_you_mean
from dssm.features import AnyFeature, DenseFeat, VarLenSparseFeat, embedded, of_side
from dssm.manifest import (
    EVENT_TIME,
    ITEM_ID,
    ITEM_INDEX,
    ITEM_KEY,
    ITEM_PROBABILITY,
    LABEL,
    SOURCE,
    USER_ID,
    USER_KEY,
    WEIGHT,
    ColumnSpec,
    encoded_columns,
)
from dssm.samples.encoding import encode_features
from dssm.samples.events import FATE, IN_LOG, TEST, TRAIN
from dssm.samples.lookups import Lookups
from dssm.samples.point_in_time import EMIT, flag_column, with_histories
from dssm.samples.sources import ID, list_entries, quoted
from dssm.samples.vocabulary import token_counts

RAW = "raw__"  # prefix of raw columns between join and encoding: they can't clash with our own
QUERY = "query"  # fate of the rows that stand for a user at the test window's start


@dataclass(frozen=True)
class Profile:
    """A readable profile table: `frame` one row a user, with `ID`; seen by events from `from_ms` on."""

    frame: DataFrame
    key: str
    from_ms: int


def check_item_columns(catalogue: DataFrame, features: Sequence[AnyFeature]) -> None:
    for feature in features:
        if feature.source_column not in catalogue.columns:
            known = [column for column in catalogue.columns if column != ID]
            raise UserError(
                f"features.{feature.name}.column: the catalogue has no column '{feature.source_column}'"
                + did_you_mean(feature.source_column, known)
            )


def user_columns(settings: Settings, profiles: Mapping[str, Profile]) -> dict[str, str]:
    """Finds where each column that the user features and histories read comes from.

    Returns: column → name of a profile, or `history`, or `user` for the user id itself.
    Raises: UserError where nothing has the column, or two tables have it.
    """
    ids = {source.user for source in settings.sources.values()} | {profile.key for profile in profiles.values()}
    wanted = {f"features.{f.name}.column": f.source_column for f in of_side(settings.features, "user")}
    wanted |= {f"histories.{name}.then": h.then for name, h in settings.histories.items() if h.then is not None}
    providers = {}
    for key, column in wanted.items():
        found = [f"profiles.{name}" for name, profile in profiles.items() if column in profile.frame.columns]
        if column in settings.histories:
            found = [*found, "history"]
        if column in ids:
            found = ["user"]
        if len(found) > 1:
            raise UserError(f"{key}: column '{column}' stands in {' and '.join(found)}; rename it in one of them")
        if not found:
            known = {*settings.histories, *ids, *(c for p in profiles.values() for c in p.frame.columns if c != ID)}
            raise UserError(f"{key}: no profile or history has a column '{column}'" + did_you_mean(column, known))
        providers[column] = found[0].removeprefix("profiles.")
    return providers


def feature_token_counts(
    settings: Settings,
    train_events: DataFrame,
    profiles: Mapping[str, Profile],
    catalogue: DataFrame,
    providers: Mapping[str, str],
) -> list[DataFrame]:
    """Counts, for each feature with an embedding, the training events that carry each token."""
    by_item = train_events.groupBy(F.col(ITEM_ID).alias(ID)).agg(F.count("*").alias("__events")).cache()
    by_user = train_events.groupBy(F.col(USER_ID).alias(ID)).agg(F.count("*").alias("__events")).cache()
    counts = []
    for feature in embedded(settings.features):
        column = feature.source_column
        provider = "catalogue" if feature.side == "item" else providers[column]
        if provider == "catalogue":
            frame = catalogue.join(by_item, ID)
        elif provider == "user":
            frame = by_user.withColumn(column, F.col(ID))
        elif provider == "history":
            if feature.share_embedding is not None:
                continue  # its tokens are events themselves: the table's owner counts them
            frame = by_item.withColumn(column, F.col(ID))
        else:
            profile = profiles[provider]
            seen = train_events.filter(F.col(EVENT_TIME) >= profile.from_ms).groupBy(F.col(USER_ID).alias(ID))
            events = by_user if profile.from_ms == 0 else seen.agg(F.count("*").alias("__events"))
            frame = profile.frame.join(events, ID)
        counts.append(token_counts(frame, feature, "__events"))
    return counts


def with_item_index(catalogue: DataFrame) -> DataFrame:
    """Adds ITEM_INDEX, the place of each item by id. Only the ids pass through the one task that numbers them."""
    place = (F.row_number().over(Window.orderBy(ID)) - 1).cast("int")
    return catalogue.join(catalogue.select(ID, place.alias(ITEM_INDEX)), ID).persist(StorageLevel.DISK_ONLY)


def encoded_items(
    catalogue: DataFrame,
    train_events: DataFrame,
    features: Sequence[AnyFeature],
    lookups: Lookups,
    settings: Settings,
) -> DataFrame:
    """Encodes the catalogue.

    Grain: one row an item, with its place by id and its share of the training rows that an in-batch
    candidate can come from: positives of a weight above 0.
    """
    candidates = train_events.filter((F.col(LABEL) > 0) & (F.col(WEIGHT) > 0))
    drawn = candidates.groupBy(F.col(ITEM_ID).alias(ID)).agg(F.count("*").alias("__rows"))
    share = (F.coalesce("__rows", F.lit(0)) / max(candidates.count(), 1)).cast("float")
    raw = catalogue.join(drawn, ID, "left").select(
        F.col(ID).alias(ITEM_ID),
        ITEM_INDEX,
        F.xxhash64(ID).alias(ITEM_KEY),
        share.alias(ITEM_PROBABILITY),
        *_raw(features),
    )
    return _encode(raw, features, lookups, settings)


def with_user_features(
    settings: Settings,
    events: DataFrame,
    profiles: Mapping[str, Profile],
    providers: Mapping[str, str],
    features: Sequence[AnyFeature],
    lookups: Lookups,
) -> DataFrame:
    """Grain: one row a train or test sample, and one a user to recommend for (fate query, at the window's start)."""
    start = settings.day_start_ms(0)
    queries = events.filter((F.col(FATE) == TEST) & (F.col(LABEL) > 0)).select(USER_ID).distinct()
    columns = [USER_ID, ITEM_ID, EVENT_TIME, SOURCE, LABEL, WEIGHT, FATE, IN_LOG]
    asked = queries.select(
        USER_ID,
        F.lit(None).cast("string").alias(ITEM_ID),
        F.lit(start).alias(EVENT_TIME),
        F.lit("").alias(SOURCE),
        F.lit(0.0).cast("float").alias(LABEL),
        F.lit(0.0).cast("float").alias(WEIGHT),
        F.lit(QUERY).alias(FATE),
        F.lit(False).alias(IN_LOG),
    )
    rows = events.select(columns).unionByName(asked).withColumn(EMIT, F.col(FATE).isin(TRAIN, TEST, QUERY))
    flags = {
        flag_column(f"{RAW}{name}"): F.col(IN_LOG)
        & F.col(SOURCE).isin(list(history.sources))
        & ((F.col(LABEL) > 0) if history.positives else F.lit(True))
        for name, history in settings.histories.items()
    }
    rows = (
        rows.withColumns(flags)
        .drop(IN_LOG)
        .filter(reduce(lambda either, other: either | other, map(F.col, flags), F.col(EMIT)))
    )
    rows = _add_histories(rows, {f"{RAW}{name}": history.last for name, history in settings.histories.items()})
    for name, profile in profiles.items():
        wanted = [column for column, provider in providers.items() if provider == name]
        if wanted:
            visible = F.col(EVENT_TIME) >= profile.from_ms
            chosen = profile.frame.select(F.col(ID).alias(USER_ID), *[quoted(c).alias(f"{RAW}{c}") for c in wanted])
            rows = rows.join(chosen, USER_ID, "left")
            rows = rows.withColumns({f"{RAW}{c}": F.when(visible, F.col(f"`{RAW}{c}`")) for c in wanted})
    rows = rows.withColumns({f"{RAW}{c}": F.col(USER_ID) for c, provider in providers.items() if provider == "user"})
    for name, history in settings.histories.items():
        if history.then is not None:
            kind = rows.schema[f"{RAW}{history.then}"].dataType
            then = list_entries(quoted(f"{RAW}{history.then}"), kind, history.separator)
            both = F.concat(f"{RAW}{name}", F.coalesce(then, F.array().cast("array<string>")))
            rows = rows.withColumn(f"{RAW}{name}", F.slice(both, 1, history.last))
    raw = rows.select(
        USER_ID, ITEM_ID, EVENT_TIME, SOURCE, F.xxhash64(USER_ID).alias(USER_KEY), LABEL, WEIGHT, FATE,
        *[F.col(f"`{RAW}{column}`") for column in dict.fromkeys(f.source_column for f in features)],
    )  # fmt: skip
    return _encode(raw, features, lookups, settings)


def _add_histories(rows: DataFrame, lengths: Mapping[str, int]) -> DataFrame:
    """Runs `with_histories` on each user's rows, sorted by time; other columns order equal times."""
    flags = [flag_column(name) for name in lengths]
    order = [USER_ID, EVENT_TIME, ITEM_ID, SOURCE, LABEL, WEIGHT, FATE]
    ordered = rows.repartition(USER_ID).sortWithinPartitions(*order)
    kept = [field for field in rows.schema.fields if field.name not in (EMIT, *flags)]
    lists = [T.StructField(name, T.ArrayType(T.StringType())) for name in lengths]
    return ordered.mapInArrow(lambda batches: with_histories(batches, lengths), T.StructType([*kept, *lists]))


def _raw(features: Sequence[AnyFeature]) -> list[Column]:
    columns = dict.fromkeys(feature.source_column for feature in features)
    return [quoted(column).alias(f"{RAW}{column}") for column in columns]


def _encode(rows: DataFrame, features: Sequence[AnyFeature], lookups: Lookups, settings: Settings) -> DataFrame:
    """Replaces the raw columns by the features' encoded ones."""
    kinds = {"int32": T.IntegerType(), "float32": T.FloatType()}
    specs = feature_columns(settings, features)
    sparse = [f.source_column for f in features if not isinstance(f, (VarLenSparseFeat, DenseFeat))]
    sparse += [
        f.source_column for f in features if isinstance(f, DenseFeat) and f.reduce_type == "none" and f.pre_embed
    ]
    rows = rows.withColumns({f"{RAW}{c}": F.col(f"`{RAW}{c}`").cast("string") for c in dict.fromkeys(sparse)})
    kept = [field for field in rows.schema.fields if not field.name.startswith(RAW)]
    encoded = [
        T.StructField(name, T.BinaryType() if spec.encoding == "packed" else kinds[spec.dtype])
        for name, spec in specs.items()
    ]

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        vocabularies, vectors = lookups.load()
        for batch in batches:
            columns = {name: batch.column(name) for name in batch.schema.names}
            raw = {name.removeprefix(RAW): column for name, column in columns.items() if name.startswith(RAW)}
            arrays = encode_features(raw, features, vocabularies, vectors)
            yield pa.RecordBatch.from_arrays(
                [columns[field.name] for field in kept] + [arrays[name] for name in specs],
                names=[field.name for field in kept] + list(specs),
            )

    return rows.mapInArrow(run, T.StructType([*kept, *encoded]))


def feature_columns(settings: Settings, features: Sequence[AnyFeature]) -> dict[str, ColumnSpec]:
    widths = {name: table.width for name, table in settings.vectors.items()}
    return {name: spec for feature in features for name, spec in encoded_columns(feature, widths).items()}
