"""Where each raw column comes from, and the rows of items and profiles, encoded once each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm.config import Settings
from dssm.errors import UserError, did_you_mean
from dssm.features import (
    AnyFeature,
    DenseFeat,
    EmbeddedFeature,
    SparseFeat,
    TextFeat,
    VarLenSparseFeat,
    embedded,
    of_side,
)
from dssm.manifest import (
    EVENT_TIME,
    ITEM_ID,
    ITEM_INDEX,
    ITEM_KEY,
    ITEM_POSITIVES,
    ITEM_PROBABILITY,
    ITEM_ROWS,
    ITEM_TITLE,
    NO_ITEM,
    UPLOAD_TIME,
    USER_ID,
    USER_KEY,
    ColumnSpec,
    Statistics,
    changing_item_features,
    encoded_columns,
)
from dssm.packing import pack
from dssm.samples.encoding import encode_features
from dssm.samples.exchange import Batches
from dssm.samples.files import Encoder
from dssm.samples.log import BUCKETED, CANDIDATES, EVENTS, LAST, Log, bucketed
from dssm.samples.lookups import Lookups, group_column
from dssm.samples.pass_columns import KIND, WORDS
from dssm.samples.profiles import OlderList, ProfileEncoder, PublishedUsers, UserVocabulary
from dssm.samples.sources import ID, is_not_utf8, need_columns, quoted
from dssm.samples.tables import VALID_FROM
from dssm.samples.vocabulary import has_tokens, needs_statistics, number_statistics, token_counts
from dssm.sections import GroupNegatives

RAW = "raw__"  # prefix of raw columns between join and encoding: they can't clash with our own
HISTORY, COUNTER, USER = "history", "counter", "user"  # providers of columns beside the profiles


# Where columns come from --------------------------------------------------------------------------------


def user_columns(settings: Settings, profiles: Mapping[str, DataFrame]) -> dict[str, str]:
    """Finds where each column that the user features and histories read comes from.

    Returns: column → `profiles.NAME`, or `history`, `counter`, or `user` for the user id itself.
    Raises: UserError where nothing has the column, or two tables have it.
    """
    ids = {source.user for source in settings.sources.values()} | {table.key for table in settings.profiles.values()}
    of_user = [f for f in of_side(settings.features, "user") if getattr(f, "time", None) is None]
    wanted = {f"features.{f.name}.column": f.source_column for f in of_user}
    wanted |= {f"histories.{name}.then": h.then for name, h in settings.histories.items() if h.then is not None}
    providers = {}
    for key, column in wanted.items():
        found = [f"profiles.{name}" for name, profile in profiles.items() if column in profile.columns]
        if column in settings.histories:
            found = [*found, HISTORY]
        if column in settings.counters:
            found = [*found, COUNTER]
        if column in ids:
            found = [USER]
        if len(found) > 1:
            raise UserError(f"{key}: column '{column}' stands in {' and '.join(found)}; rename it in one of them")
        if not found:
            ours = (ID, VALID_FROM)
            known = {*settings.histories, *settings.counters, *ids}
            known |= {c for p in profiles.values() for c in p.columns if c not in ours}
            raise UserError(f"{key}: no profile or history has a column '{column}'" + did_you_mean(column, known))
        providers[column] = found[0]
    return providers


def check_item_columns(settings: Settings, catalogue: DataFrame) -> None:
    """Checks that the catalogue has what the item features and the grouped negatives read.

    Raises: UserError that names the key.
    """
    known = [column for column in catalogue.columns if column not in (ID, UPLOAD_TIME)]
    for feature in raw_item_features(settings):
        if feature.source_column not in known:
            raise UserError(
                f"features.{feature.name}.column: the catalogue has no column '{feature.source_column}'"
                + did_you_mean(feature.source_column, known)
            )
    title = settings.catalogue.title
    if title is not None and title not in known:
        raise UserError(f"catalogue.title: no column is named '{title}'" + did_you_mean(title, known))
    for name, kind in settings.samples.negatives.items():
        if isinstance(kind, GroupNegatives):
            need_columns(f"samples.negatives.{name}", catalogue.select(*map(quoted, known)), {"column": kind.column})
            group = catalogue.schema[kind.column].dataType
            if isinstance(group, (T.ArrayType, T.MapType, T.StructType)):
                raise UserError(
                    f"samples.negatives.{name}.column: '{kind.column}' holds {group.simpleString()}; "
                    "expected a column with one value an item"
                )


def raw_item_features(settings: Settings) -> list[AnyFeature]:
    """Returns the item features that are read from the catalogue: the others change with the event's time."""
    changing = {feature.name for feature in changing_item_features(settings.features, settings.counters)}
    return [feature for feature in of_side(settings.features, "item") if feature.name not in changing]


def provided_features(settings: Settings, providers: Mapping[str, str], provider: str) -> list[AnyFeature]:
    """Returns the user features whose column comes from one provider."""
    return [
        f
        for f in of_side(settings.features, "user")
        if getattr(f, "time", None) is None and providers[f.source_column] == provider
    ]


def feature_columns(settings: Settings, features: Sequence[AnyFeature]) -> dict[str, ColumnSpec]:
    return {name: spec for f in features for name, spec in encoded_columns(f, settings.vectors).items()}


def _raw_names(features: Sequence[AnyFeature]) -> list[str]:
    columns = [f.source_column for f in features]
    columns += [f.weight_column for f in features if isinstance(f, VarLenSparseFeat) and f.weight_column is not None]
    return list(dict.fromkeys(columns))


# What the training window says --------------------------------------------------------------------------


class TrainingWindow:
    """Tables and columns weighted by the training events that carry them."""

    def __init__(
        self,
        settings: Settings,
        log: Log,
        tasks: int,
        catalogue: DataFrame,
        profiles: Mapping[str, DataFrame],
        providers: Mapping[str, str],
    ) -> None:
        self._settings, self._providers, self._log = settings, providers, log
        self.items = log.item_counts().cache()
        trained = self.items.filter(F.col(EVENTS) > 0).select(ITEM_INDEX, EVENTS)
        self._by_item = catalogue.select(ID, ITEM_INDEX).join(trained, ITEM_INDEX)
        self._by_user = log.train_users(tasks).cache()
        self._frames: dict[str, DataFrame] = {"catalogue": catalogue.join(trained, ITEM_INDEX)}
        for name, profile in profiles.items():
            self._frames[f"profiles.{name}"] = self._of_profile(name, profile)

    def _of_profile(self, name: str, profile: DataFrame) -> DataFrame:
        """A user's events count for its newest snapshot among those that its events see."""
        if self._settings.profiles[name].has_snapshots:
            seen = profile.join(self._by_user, ID).filter(F.col(VALID_FROM) <= F.col(LAST))
            newest = Window.partitionBy(ID).orderBy(F.desc(VALID_FROM))
            return seen.withColumn("__rank", F.row_number().over(newest)).filter("__rank = 1").drop("__rank")
        if self._settings.profiles[name].available_from is None:
            return profile.join(self._by_user, ID)
        rows = profile.select(ID, VALID_FROM).join(self._log.train_events(), ID)
        counts = rows.filter(F.col(EVENT_TIME) >= F.col(VALID_FROM)).groupBy(ID).agg(F.count("*").alias(EVENTS))
        return profile.join(counts, ID)

    def _frame(self, feature: AnyFeature) -> DataFrame:
        if feature.side == "item":
            return self._frames["catalogue"]
        provider = self._providers[feature.source_column]
        if provider == USER:
            return self._by_user.withColumn(feature.source_column, F.col(ID))
        if provider == HISTORY:
            return self._by_item.withColumn(feature.source_column, F.col(ID))
        return self._frames[provider]

    def token_counts(self) -> list[DataFrame]:
        """Counts, for each feature with tokens, the training events that carry each token."""
        of_table: dict[str, list[EmbeddedFeature]] = {}
        owners = {feature.name: feature for feature in embedded(self._settings.features)}
        for feature in embedded(self._settings.features):
            if not has_tokens(feature) or not has_tokens(owners[feature.vocabulary]):
                continue
            provider = "catalogue" if feature.side == "item" else self._providers[feature.source_column]
            if provider == HISTORY and feature.share_embedding is not None:
                continue  # its tokens are events themselves: the table's owner counts them
            # The user's own column, and that of a history, take the feature's name: one table a column.
            own = provider in (USER, HISTORY)
            of_table.setdefault(f"{provider}.{feature.source_column}" if own else provider, []).append(feature)
        return [token_counts(self._frame(features[0]), features, EVENTS) for features in of_table.values()]

    def statistics_needed(self) -> list[str]:
        return [feature.name for feature in self._settings.features.values() if needs_statistics(feature)]

    def statistics(self) -> dict[str, Statistics]:
        """Returns the statistics of the numbers whose features ask for them."""
        asked: dict[str, list[AnyFeature]] = {}
        for feature in self._settings.features.values():
            if needs_statistics(feature):
                provider = "catalogue" if feature.side == "item" else self._providers[feature.source_column]
                asked.setdefault(provider, []).append(feature)
        found: dict[str, Statistics] = {}
        for features in asked.values():
            found |= number_statistics(self._frame(features[0]), features, EVENTS)
        return {name: found[name] for name in self._settings.features if name in found}


# Items --------------------------------------------------------------------------------------------------


def with_item_index(catalogue: DataFrame, end: int | None = None) -> DataFrame:
    """Adds ITEM_INDEX, the place of each item by id. Only the ids pass through the one task that numbers them.

    Args:
      end: Unix ms; items uploaded from then on are not numbered and get NO_ITEM.
    """
    later = F.lit(False) if end is None else F.col(UPLOAD_TIME) >= end
    place = F.row_number().over(Window.orderBy(later, ID)) - 1
    numbers = catalogue.select(ID, F.when(later, NO_ITEM).otherwise(place).cast("int").alias(ITEM_INDEX))
    return catalogue.join(numbers, ID).persist(StorageLevel.DISK_ONLY)


def item_columns(settings: Settings) -> dict[str, ColumnSpec]:
    """Returns the columns of the items' dataset."""
    number, key = ColumnSpec(dtype="float32"), ColumnSpec(dtype="int64")
    text = ColumnSpec(dtype="string", encoding="text")
    groups = [name for name, kind in settings.samples.negatives.items() if isinstance(kind, GroupNegatives)]
    return {
        ITEM_ID: text,
        **({ITEM_TITLE: text} if settings.catalogue.title is not None else {}),
        ITEM_INDEX: ColumnSpec(dtype="int32"),
        ITEM_KEY: key,
        ITEM_PROBABILITY: number,
        ITEM_ROWS: key,
        ITEM_POSITIVES: key,
        UPLOAD_TIME: key,
        **{group_column(name): key for name in groups},
        **feature_columns(settings, of_side(settings.features, "item")),
    }


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
    given = (ITEM_POSITIVES, CANDIDATES, EVENTS)
    positives, drawn, trained = (F.coalesce(column, F.lit(0)).cast("long") for column in given)
    total = max(candidates, 1)
    groups = {
        group_column(name): F.when(
            F.trim(quoted(kind.column).cast("string")) != "", F.xxhash64(F.trim(quoted(kind.column).cast("string")))
        ).otherwise(0)
        for name, kind in settings.samples.negatives.items()
        if isinstance(kind, GroupNegatives)
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
        *_raw(features),
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


# Profiles -----------------------------------------------------------------------------------------------


def universe_features(settings: Settings) -> tuple[AnyFeature, ...]:
    """Returns the features of histories that go on with a profile's list: its items may lack in the catalogue."""
    longer = [name for name, history in settings.histories.items() if history.then is not None]
    return tuple(f for f in settings.features.values() if f.source_column in longer and getattr(f, "of", None) is None)


def profile_encoder(settings: Settings, providers: Mapping[str, str], name: str, lookups: Lookups) -> ProfileEncoder:
    features = provided_features(settings, providers, f"profiles.{name}")
    lists = {
        history: OlderList(options.then, options.separator, options.last)
        for history, options in settings.histories.items()
        if options.then is not None and providers[options.then] == f"profiles.{name}"
    }
    columns = feature_columns(settings, features)
    return ProfileEncoder(name, tuple(features), columns, lists, lookups, universe_features(settings))


def user_vocabularies(settings: Settings, providers: Mapping[str, str], lookups: Lookups) -> list[UserVocabulary]:
    """Returns the vocabularies of tokens that features of the user's own id have."""
    features: dict[str, list[str]] = {}
    for feature in provided_features(settings, providers, USER):
        if isinstance(feature, SparseFeat) and feature.vocabulary in lookups.vocabularies:
            features.setdefault(feature.vocabulary, []).append(feature.name)
    return [UserVocabulary(vocabulary, tuple(names)) for vocabulary, names in features.items()]


def user_vocabulary_rows(tokens: DataFrame, number: int, vocabulary: UserVocabulary, buckets: int) -> DataFrame:
    """Slices of a row a token of (token, id); KIND is `number`."""

    def encode(batch: pa.RecordBatch) -> np.ndarray:
        return vocabulary.encode(batch["id"].to_numpy())

    given = tokens.select(F.col("token").alias(ID), F.lit(0).cast("long").alias(VALID_FROM), "id")
    return _as_pass_rows(given, number, encode, buckets)


def published_user_rows(vectors: DataFrame, number: int, users: PublishedUsers, buckets: int) -> DataFrame:
    """Slices of a row a user of (id, vector); KIND is `number`."""

    def encode(batch: pa.RecordBatch) -> np.ndarray:
        matrix = np.asarray(batch["values"].flatten(), np.float32).reshape(batch.num_rows, -1)
        return users.encode(matrix)

    given = vectors.select(F.col("id").alias(ID), F.lit(0).cast("long").alias(VALID_FROM), "values")
    return _as_pass_rows(given, number, encode, buckets)


def encoded_profile(frame: DataFrame, number: int, encoder: ProfileEncoder, buckets: int) -> DataFrame:
    """Slices of a row a user and snapshot; KIND is the profile's number."""
    columns = encoder.raw_columns
    raw = frame.select(ID, VALID_FROM, *[quoted(column).alias(f"{RAW}{column}") for column in columns])

    def encode(batch: pa.RecordBatch) -> np.ndarray:
        return encoder.encode({column: batch[f"{RAW}{column}"] for column in columns}, batch.num_rows)

    return _as_pass_rows(_ids_as_text(raw, encoder.features), number, encode, buckets)


def _as_pass_rows(
    given: DataFrame, number: int, encode: Callable[[pa.RecordBatch], np.ndarray], buckets: int
) -> DataFrame:
    """Slices of rows that know no item, as the user pass takes them.

    Args:
      given: ID, VALID_FROM, and what `encode` makes the words of, (rows, width) int32.
    """

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            kinds = pa.array(np.full(batch.num_rows, number, np.int32))
            columns = [batch[ID], batch[USER_KEY], kinds, batch[VALID_FROM], pack(encode(batch))]
            yield pa.RecordBatch.from_arrays(columns, names=[USER_ID, USER_KEY, KIND, EVENT_TIME, WORDS])

    return given.withColumn(USER_KEY, F.xxhash64(ID)).mapInArrow(bucketed(run, buckets), BUCKETED)


# Encoding -----------------------------------------------------------------------------------------------


def _raw(features: Sequence[AnyFeature]) -> list[Column]:
    return [quoted(column).alias(f"{RAW}{column}") for column in _raw_names(features)]


def _ids_as_text(rows: DataFrame, features: Sequence[AnyFeature]) -> DataFrame:
    """Casts the columns of single ids and texts, which may be numbers."""
    ids = [
        f.source_column
        for f in features
        if (isinstance(f, SparseFeat) and not f.is_bucketised)
        or isinstance(f, TextFeat)
        or (isinstance(f, DenseFeat) and not f.is_number and f.reduce_type == "none")
    ]
    return rows.withColumns({f"{RAW}{c}": F.col(f"`{RAW}{c}`").cast("string") for c in dict.fromkeys(ids)})


def _encoded(
    rows: DataFrame,
    features: Sequence[AnyFeature],
    specs: Mapping[str, ColumnSpec],
    lookups: Lookups,
    more: Callable[[Mapping[str, pa.Array]], Mapping[str, pa.Array]],
) -> DataFrame:
    """Replaces the raw columns by those of `specs`; `more` makes the ones that are no feature of a raw column."""
    kinds = {"int32": T.IntegerType(), "float32": T.FloatType()}
    rows = _ids_as_text(rows, features)
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
