"""Vocabularies and statistics: what the training window says of tokens and numbers, frozen."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm import storage
from dssm.errors import UserError, did_you_mean
from dssm.features import (
    FIRST_TOKEN_ID,
    AnyFeature,
    DenseFeat,
    EmbeddedFeature,
    SparseFeat,
    TextFeat,
    VarLenSparseFeat,
    embedded,
)
from dssm.manifest import Manifest, Statistics, VocabularySpec
from dssm.samples.lookups import tokens_digest
from dssm.samples.sources import list_entries
from dssm.samples.writing import write_parts

HOURS, WEEKDAYS = 24, 7


def has_tokens(feature: EmbeddedFeature) -> bool:
    """Whether the feature's ids are those of tokens, which are counted: not hashed, nor buckets, nor of the time."""
    if isinstance(feature, SparseFeat) and (feature.is_bucketised or feature.time is not None):
        return False
    return feature.hash_buckets is None


def token_owners(features: Mapping[str, AnyFeature]) -> list[EmbeddedFeature]:
    """Returns the features that a vocabulary of tokens is named after."""
    return [f for f in embedded(features) if f.share_embedding is None and has_tokens(f)]


def fixed_vocabularies(
    features: Mapping[str, AnyFeature], statistics: Mapping[str, Statistics]
) -> dict[str, VocabularySpec]:
    """Returns the vocabularies that need no tokens: hash buckets, buckets of numbers, hours and weekdays."""
    specs = {}
    for feature in embedded(features):
        if feature.share_embedding is not None:
            continue
        if feature.hash_buckets is not None:
            kind = "trigrams" if isinstance(feature, TextFeat) else "tokens"
            digest = storage.digest(f"{kind} hashed into {feature.hash_buckets}")
            size = feature.hash_buckets + FIRST_TOKEN_ID
            specs[feature.name] = VocabularySpec(size=size, digest=digest, rule="hash")
        elif isinstance(feature, SparseFeat) and feature.time is not None:
            size = (HOURS if feature.time == "hour" else WEEKDAYS) + FIRST_TOKEN_ID
            specs[feature.name] = VocabularySpec(size=size, digest=storage.digest(feature.time), rule="time")
        elif isinstance(feature, SparseFeat) and feature.is_bucketised:
            boundaries = feature.boundaries or statistics[feature.name].boundaries
            digest = storage.digest(repr(boundaries))
            size = len(boundaries) + 1 + FIRST_TOKEN_ID
            specs[feature.name] = VocabularySpec(size=size, digest=digest, rule="buckets")
    return specs


def shared_hash_buckets(features: Mapping[str, AnyFeature]) -> dict[str, int]:
    """Returns the hash buckets of each vocabulary that has them."""
    owners = (f for f in embedded(features) if f.share_embedding is None)
    return {f.name: f.hash_buckets for f in owners if f.hash_buckets is not None}


# Tokens ----------------------------------------------------------------------------------------------


def tokens_of(feature: VarLenSparseFeat, column: Column, kind: T.DataType) -> Column:
    """Returns the tokens of a list's raw column as an array of strings, as the encoder will split them."""
    entries = list_entries(column, kind, feature.separator)
    if not feature.weighted or feature.weight_column is not None:
        return entries
    return F.transform(entries, lambda entry: F.regexp_replace(entry, r"(?U)\s*:[^:]*$", ""))


def token_counts(frame: DataFrame, features: Sequence[EmbeddedFeature], count: str) -> DataFrame:
    """Counts the tokens of features of one table, in one pass over it.

    Args:
      frame: one row a user or item, with the features' source columns and a column of event counts.
      count: name of the latter.
    Grain: rows of (vocabulary, token, events); a token may come more than once.
    """
    lists = []
    for feature in features:
        column, kind = F.col(f"`{feature.source_column}`"), frame.schema[feature.source_column].dataType
        if isinstance(feature, VarLenSparseFeat):
            tokens = F.transform(tokens_of(feature, column, kind), functools.partial(_pair, feature))
            lists.append(F.coalesce(tokens, F.array().cast(f"array<{PAIR}>")))
        else:
            lists.append(F.array(_pair(feature, column.cast("string"))))  # no lambda: Spark interprets those
    pairs = frame.select(F.explode(F.concat(*lists)).alias("pair"), F.col(count).alias("events"))
    return pairs.select("pair.vocabulary", "pair.token", "events").filter("token is not null and token != ''")


PAIR = "struct<vocabulary: string, token: string>"


def _pair(feature: EmbeddedFeature, token: Column) -> Column:
    return F.struct(F.lit(feature.vocabulary).alias("vocabulary"), token.alias("token")).cast(PAIR)


def write_vocabularies(
    counts: Sequence[DataFrame],
    owners: Sequence[EmbeddedFeature],
    folder: str,
    frozen: Mapping[str, str] | None = None,
    grow: bool = False,
) -> dict[str, VocabularySpec]:
    """Writes one file a vocabulary: (token, events, id), in the order of the ids.

    New tokens are ordered by events descending, then by token.

    Args:
      counts: frames of (vocabulary, token, events).
      owners: the feature that each vocabulary is named after; its min_count and max_size hold for new tokens.
      folder: where `NAME.parquet` go.
      frozen: files of an earlier run's vocabularies, whose tokens keep their ids.
      grow: whether new tokens go behind those.
    """
    limits: Mapping[str, tuple[int, int]] = {f.name: (f.min_count, f.max_size or 2**31 - 4) for f in owners}
    union = reduce(DataFrame.unionByName, counts)
    tasks = int(union.sparkSession.conf.get("spark.sql.shuffle.partitions") or 8)
    # The union has the tasks of all its parts, most of them next to empty.
    total = union.coalesce(tasks).groupBy("vocabulary", "token").agg(F.sum("events").alias("events"))
    if frozen:
        known = _frozen_tokens(total.sparkSession, frozen)
        rows = total.join(known, ["vocabulary", "token"], "outer").fillna(0, ["events"])
    else:
        rows = total.withColumn("known", F.lit(None).cast("int"))
    # First the known tokens in their old order, then the others.
    new = F.col("known").isNull()
    least, most = _limit(limits, 0), _limit(limits, 1)
    allowed = (F.col("events") >= least) & F.lit(grow or not frozen)
    order = [F.asc_nulls_last("known"), F.desc("events"), F.col("token")]
    place = F.row_number().over(Window.partitionBy("vocabulary").orderBy(*order))
    ranked = rows.filter(~new | allowed).withColumn("__place", place).filter(~new | (F.col("__place") <= most))
    names = {name: f"{name}.parquet" for name in limits}
    ranked = ranked.withColumn("id", F.col("__place") + F.lit(FIRST_TOKEN_ID - 1)).drop("known")
    write_parts(ranked, folder, part="vocabulary", order=["__place"], names=names)
    specs = {}
    for name in limits:
        tokens, digest = tokens_digest(f"{folder}/{name}.parquet")
        specs[name] = VocabularySpec(size=tokens + FIRST_TOKEN_ID, digest=digest)
    return specs


def _limit(limits: Mapping[str, tuple[int, int]], place: int) -> Column:
    pairs = [F.lit(value) for name, limit in limits.items() for value in (name, limit[place])]
    return F.create_map(*pairs)[F.col("vocabulary")]


def _frozen_tokens(spark: SparkSession, files: Mapping[str, str]) -> DataFrame:
    """Grain: one row a known token, as (vocabulary, token, known: its place)."""
    frames = [
        spark.read.parquet(path).select(F.lit(name).alias("vocabulary"), "token", F.col("id").alias("known"))
        for name, path in files.items()
    ]
    return reduce(DataFrame.unionByName, frames)


def frozen_files(manifest: Manifest, folder: str, owners: Sequence[EmbeddedFeature]) -> dict[str, str]:
    """Returns the files of an earlier run's vocabularies.

    Raises: UserError where it lacks one.
    """
    known = [name for name, spec in manifest.vocabularies.items() if spec.rule == "tokens"]
    for feature in owners:
        if feature.name not in known:
            raise UserError(
                f"samples.vocabularies.run: {folder} has no vocabulary '{feature.name}'"
                + did_you_mean(feature.name, known)
            )
    return {feature.name: f"{folder}/vocabularies/{feature.name}.parquet" for feature in owners}


# Numbers ---------------------------------------------------------------------------------------------


def needs_statistics(feature: AnyFeature) -> bool:
    if isinstance(feature, SparseFeat):
        return feature.quantiles is not None
    return isinstance(feature, DenseFeat) and feature.transform in ("minmax", "standard")


def number_statistics(frame: DataFrame, features: Sequence[AnyFeature], count: str) -> dict[str, Statistics]:
    """Returns the statistics of features over the training window's events.

    Args:
      frame: one row a user or item, with the features' source columns and a column of event counts.
      count: name of the latter.
    """
    values = {f.name: F.col(f"`{f.source_column}`").cast("double") for f in features}
    rows = frame.select(F.col(count).alias("__events"), *[column.alias(name) for name, column in values.items()])
    first = []
    for feature in features:
        weight = F.when(F.col(feature.name).isNotNull(), F.col("__events"))
        first += [
            F.sum(weight).alias(f"{feature.name}__events"),
            (F.sum(weight * F.col(feature.name)) / F.sum(weight)).alias(f"{feature.name}__mean"),
            F.min(feature.name).alias(f"{feature.name}__minimum"),
            F.max(feature.name).alias(f"{feature.name}__maximum"),
        ]
        if isinstance(feature, SparseFeat) and feature.quantiles is not None:
            shares = ", ".join(repr(n / feature.quantiles) for n in range(1, feature.quantiles))
            first.append(
                F.expr(f"percentile(`{feature.name}`, array({shares}), __events)").alias(f"{feature.name}__boundaries")
            )
    found = rows.agg(*first).first()
    assert found is not None  # an aggregate over no rows is a row of nulls
    means = {f.name: found[f"{f.name}__mean"] or 0.0 for f in features}
    # Around the mean: the mean square less the squared mean loses all digits of a large number's deviation.
    second = []
    for name, mean in means.items():
        weight = F.when(F.col(name).isNotNull(), F.col("__events"))
        second.append(F.sqrt(F.sum(weight * (F.col(name) - F.lit(mean)) ** 2) / F.sum(weight)).alias(name))
    deviations = rows.agg(*second).first()
    assert deviations is not None
    statistics = {}
    for feature in features:
        name = feature.name
        boundaries = found.asDict().get(f"{name}__boundaries")
        statistics[name] = Statistics(
            events=found[f"{name}__events"] or 0,
            mean=means[name],
            deviation=deviations[name] or 0.0,
            minimum=found[f"{name}__minimum"] or 0.0,
            maximum=found[f"{name}__maximum"] or 0.0,
            boundaries=tuple(np.unique(boundaries or []).tolist()),
        )
    return statistics
