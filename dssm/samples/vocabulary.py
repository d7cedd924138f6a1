"""Vocabularies and statistics: what the training window says of tokens and numbers, frozen."""

from __future__ import annotations

import functools
import math
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
from dssm.samples.tables import list_entries
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

    Sums are of whole numbers, on a grid of 2⁴⁰ steps between minimum and maximum: sums of floats would
    depend on the order in which tasks end, and the same inputs must give the same bytes.

    Args:
      frame: one row a user or item, with the features' source columns and a column of event counts.
      count: name of the latter.
    """
    names = [feature.name for feature in features]
    values = [F.col(f"`{f.source_column}`").cast("double").alias(f.name) for f in features]
    rows = frame.select(F.col(count).alias("__events"), *values)
    edges = [edge(name).alias(f"{name}__{edge.__name__}") for name in names for edge in (F.min, F.max)]
    ends = rows.agg(*edges).first()
    assert ends is not None  # an aggregate over no rows is a row of nulls
    least = {name: ends[f"{name}__min"] or 0.0 for name in names}
    span = {name: (ends[f"{name}__max"] or 0.0) - least[name] for name in names}
    sums = []
    for name in names:
        events = F.when(F.col(name).isNotNull(), F.col("__events")).cast("decimal(12,0)")
        step = F.round((F.col(name) - F.lit(least[name])) / F.lit(span[name] or 1.0) * F.lit(float(STEPS)))
        step = step.cast("decimal(13,0)")
        of_name = {"events": events, "first": events * step, "second": events * (step * step)}
        sums += [F.sum(column).alias(f"{name}__{moment}") for moment, column in of_name.items()]
    totals = rows.agg(*sums).first()
    assert totals is not None
    statistics = {}
    for feature in features:
        name = feature.name
        found, first, second = (int(totals[f"{name}__{m}"] or 0) for m in ("events", "first", "second"))
        scale = span[name] / STEPS
        variance = (found * second - first * first) / found**2 if found else 0.0  # of whole numbers: exact
        boundaries: tuple[float, ...] = ()
        if isinstance(feature, SparseFeat) and feature.quantiles is not None:
            boundaries = _quantile_boundaries(rows, name, feature.quantiles, found)
        statistics[name] = Statistics(
            events=found,
            mean=least[name] + scale * (first / found) if found else 0.0,
            deviation=scale * math.sqrt(variance),
            minimum=least[name],
            maximum=least[name] + span[name],
            boundaries=boundaries,
        )
    return statistics


STEPS = 2**40


def _quantile_boundaries(rows: DataFrame, name: str, quantiles: int, events: int) -> tuple[float, ...]:
    """Returns the numbers that part the events into equally many; those of equal first four digits count as one.

    So there are at most some thousand numbers a decade to sort, however many users there are.
    """
    value = F.col(name)
    size = F.pow(F.lit(10.0), F.floor(F.log10(F.abs(value))) - 3)
    alike = F.when(value == 0, 0.0).otherwise(F.floor(value / size) * size)
    found = rows.filter(value.isNotNull()).groupBy(alike).agg(F.min(name).alias("value"), F.sum("__events").alias("n"))
    pairs = sorted((row["value"], row["n"]) for row in found.collect())
    reached = np.cumsum([n for _, n in pairs])
    if not pairs:
        return ()
    wanted = [-(-events * place // quantiles) for place in range(1, quantiles)]  # events at or below, rounded up
    places = np.searchsorted(reached, wanted)
    return tuple(sorted({pairs[place][0] for place in places.tolist()}))
