"""The rows of profiles, encoded once each, as the user pass takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dssm.config import Settings
from dssm.features import SparseFeat
from dssm.manifest import EVENT_TIME, USER_ID, USER_KEY
from dssm.packing import pack
from dssm.samples.datasets import feature_columns
from dssm.samples.exchange import Batches
from dssm.samples.log import BUCKETED, bucketed
from dssm.samples.lookups import Lookups
from dssm.samples.pass_columns import KIND, WORDS
from dssm.samples.profiles import OlderList, ProfileEncoder, PublishedUsers, UserVocabulary
from dssm.samples.raw_columns import RAW, USER, ids_as_text, provided_features, universe_features
from dssm.samples.sources import ID, quoted
from dssm.samples.tables import VALID_FROM


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

    return _as_pass_rows(ids_as_text(raw, encoder.features), number, encode, buckets)


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
