"""Vocabularies and statistics: what the training window says of tokens and numbers, frozen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm import storage
from dssm.errors import UserError, did_you_mean
from dssm.features import (
    FIRST_TOKEN_ID,
    TIME_VALUES,
    AnyFeature,
    DenseFeat,
    EmbeddedFeature,
    SparseFeat,
    TextFeat,
    VarLenSparseFeat,
    embedded,
)
from dssm.manifest import Manifest, Statistics, VocabularySpec
from dssm.paths import vocabulary_path
from dssm.samples.column_checks import list_entries
from dssm.samples.exchange import SLICED_BYTES, Batches, joined
from dssm.samples.hashing import is_blank
from dssm.samples.lookups import tokens_digest
from dssm.samples.writing import PART_STEP, write_parts
from dssm.spark import most_tasks


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
            size = TIME_VALUES[feature.time] + FIRST_TOKEN_ID
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
    columns = []
    for number, feature in enumerate(features):
        column, kind = F.col(f"`{feature.source_column}`"), frame.schema[feature.source_column].dataType
        tokens = tokens_of(feature, column, kind) if isinstance(feature, VarLenSparseFeat) else column.cast("string")
        columns.append(tokens.alias(f"{number}"))
    counter = TokenCounter(tuple(feature.vocabulary for feature in features))
    rows = frame.select(F.col(count).cast("long"), *columns)
    return rows.mapInArrow(counter.run, "vocabulary string, token string, events long")


@dataclass(frozen=True)
class TokenCounter:
    """Counts the tokens of a task's rows, as far as it holds them at once.

    `vocabularies`: of each column of tokens.
    """

    vocabularies: tuple[str, ...]

    def run(self, batches: Batches) -> Iterator[pa.RecordBatch]:
        """Args: batches: a column of event counts, then columns of tokens or of lists of them."""
        for table in joined(batches, SLICED_BYTES):
            for vocabulary, column in zip(self.vocabularies, table.columns[1:], strict=True):
                tokens, events = column, table.column(0)
                if pa.types.is_list(column.type):
                    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
                    tokens, events = pc.list_flatten(column), pa.array(np.repeat(events.to_numpy(), lengths))
                given = pa.table({"token": tokens, "events": events})
                counts = given.group_by("token").aggregate([("events", "sum")]).combine_chunks()
                counts = counts.filter(~is_blank(counts["token"].combine_chunks()))
                names = pa.DictionaryArray.from_arrays(np.zeros(len(counts), np.int32), [vocabulary]).cast(pa.string())
                made = [names, counts["token"], counts["events_sum"]]
                yield from pa.table(made, ["vocabulary", "token", "events"]).to_batches()


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
    least = F.create_map(*[F.lit(value) for name, (events, _) in limits.items() for value in (name, events)])
    allowed = (F.col("events") >= least[F.col("vocabulary")]) & F.lit(grow or not frozen)
    kept = rows.filter(F.col("known").isNotNull() | allowed)
    # First the known tokens in their old order, then the others.
    kept = kept.select("vocabulary", "token", "events", F.coalesce("known", F.lit(NEW)).alias("id"))
    names = {name: f"{name}.parquet" for name in limits}
    numbering = Numbering({name: most for name, (_, most) in limits.items()})
    rank = F.when(F.col("id") != NEW, F.col("id")).otherwise(F.lit(PART_STEP - 1) - F.col("events"))
    numbers = F.create_map(*[F.lit(value) for number, name in enumerate(limits) for value in (name, number)])
    write_parts(
        kept,
        folder,
        part="vocabulary",
        order=[rank, F.col("token")],
        names=names,
        change=numbering.run,
        part_number=numbers[F.col("vocabulary")],
        most_tasks=most_tasks(total.sparkSession, 1),
    )
    specs = {}
    for name in limits:
        tokens, digest = tokens_digest(f"{folder}/{name}.parquet")
        specs[name] = VocabularySpec(size=tokens + FIRST_TOKEN_ID, digest=digest)
    return specs


NEW = 2**31 - 1  # in the place of an id: behind all that are known


@dataclass(frozen=True)
class Numbering:
    """Gives the tokens of a vocabulary, which come in their order, their ids; `most`: how many there may be."""

    most: Mapping[str, int]

    def run(self, batches: Batches) -> Iterator[pa.RecordBatch]:
        """Args: batches: with `vocabulary`, one after the other, and `id`, NEW where a token has none."""
        reached = dict.fromkeys(self.most, 0)
        for batch in batches:
            for name in pc.unique(batch["vocabulary"]).to_pylist():
                rows = batch.filter(pc.equal(batch["vocabulary"], name))
                places = reached[name] + 1 + np.arange(rows.num_rows, dtype=np.int32)
                reached[name] += rows.num_rows
                stays = (rows["id"].to_numpy() != NEW) | (places <= self.most[name])
                ids = pa.array(places + np.int32(FIRST_TOKEN_ID - 1))
                columns = [ids if column == "id" else rows[column] for column in rows.schema.names]
                yield pa.RecordBatch.from_arrays(columns, schema=rows.schema).filter(pa.array(stays))


def _frozen_tokens(spark: SparkSession, files: Mapping[str, str]) -> DataFrame:
    """Grain: one row a known token, as (vocabulary, token, known: its place)."""
    frames = [
        spark.read.parquet(path).select(F.lit(name).alias("vocabulary"), "token", F.col("id").alias("known"))
        for name, path in files.items()
    ]
    return reduce(DataFrame.unionByName, frames)


def frozen_files(manifest: Manifest, folder: str, owners: Sequence[EmbeddedFeature]) -> dict[str, str]:
    """Returns the files of an earlier run's vocabularies.

    Raises: UserError where it lacks one, or it is none of tokens.
    """
    known = [name for name, spec in manifest.vocabularies.items() if spec.rule == "tokens"]
    for feature in owners:
        if feature.name in manifest.vocabularies and feature.name not in known:
            raise other_ids(feature.name, "counted tokens", manifest.vocabularies[feature.name], folder)
        if feature.name not in known:
            raise UserError(
                f"samples.vocabularies.run: {folder} has no vocabulary '{feature.name}'"
                + did_you_mean(feature.name, known)
            )
    return {feature.name: vocabulary_path(folder, feature.name) for feature in owners}


def check_same_ids(manifest: Manifest, folder: str, fixed: Mapping[str, VocabularySpec]) -> None:
    """Checks that vocabularies that need no tokens give the ids that they gave in an earlier run.

    They can't grow: with other buckets every value has another id.

    Args: fixed: of `fixed_vocabularies`; one that the earlier run lacks is new.
    Raises: UserError that names the feature.
    """
    for name, spec in fixed.items():
        earlier = manifest.vocabularies.get(name, spec)
        if (earlier.rule, earlier.digest) != (spec.rule, spec.digest):
            raise other_ids(name, spec.in_words, earlier, folder)


def other_ids(name: str, found: str, earlier: VocabularySpec, folder: str) -> UserError:
    """Returns the error of a feature that an earlier run's vocabularies number otherwise."""
    return UserError(
        f"features.{name}: found {found}, but {folder}, whose vocabularies samples.vocabularies.run asks for, has "
        f"{earlier.in_words}; expected hash_buckets, boundaries, quantiles or time as there, or another name"
    )


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
    counted = {name: int(totals[f"{name}__events"] or 0) for name in names}
    asked = {f.name: f.quantiles for f in features if isinstance(f, SparseFeat) and f.quantiles is not None}
    boundaries = _quantile_boundaries(rows, asked, counted) if asked else {}
    statistics = {}
    for name, found in counted.items():
        first, second = (int(totals[f"{name}__{moment}"] or 0) for moment in ("first", "second"))
        scale = span[name] / STEPS
        variance = (found * second - first * first) / found**2 if found else 0.0  # of whole numbers: exact
        statistics[name] = Statistics(
            events=found,
            mean=least[name] + scale * (first / found) if found else 0.0,
            deviation=scale * math.sqrt(variance),
            minimum=least[name],
            maximum=least[name] + span[name],
            boundaries=boundaries.get(name, ()),
        )
    return statistics


STEPS = 2**40


def _quantile_boundaries(
    rows: DataFrame, quantiles: Mapping[str, int], events: Mapping[str, int]
) -> dict[str, tuple[float, ...]]:
    """Returns the numbers that part the events into equally many; those of equal first four digits count as one.

    So there are at most some thousand numbers a decade to sort, however many users there are.

    Args:
      rows: `__events`, and a column for each name.
      quantiles, events: of each name, into how many its events are parted, and how many have a number.
    """
    named = [F.struct(F.lit(name).alias("name"), F.col(name).alias("value")) for name in quantiles]
    values = rows.select("__events", F.explode(F.array(*named)).alias("__named")).select("__events", "__named.*")
    value = F.col("value")
    size = F.pow(F.lit(10.0), F.floor(F.log10(F.abs(value))) - 3)
    alike = F.when(value == 0, 0.0).otherwise(F.floor(value / size) * size)
    sums = values.filter(value.isNotNull()).groupBy("name", alike).agg(F.min("value"), F.sum("__events"))
    numbers: dict[str, list[tuple[float, int]]] = {name: [] for name in quantiles}
    for name, _, least, count in sums.collect():
        numbers[name].append((least, count))
    return {name: _parted(sorted(pairs), quantiles[name], events[name]) for name, pairs in numbers.items()}


def _parted(pairs: Sequence[tuple[float, int]], quantiles: int, events: int) -> tuple[float, ...]:
    """Returns the numbers that part the events into `quantiles` parts of as many.

    Args:
      pairs: numbers, ascending, each with its events.
      events: their sum.
    """
    if not pairs:
        return ()
    reached = np.cumsum([count for _, count in pairs])
    wanted = [-(-events * place // quantiles) for place in range(1, quantiles)]  # events at or below, rounded up
    places = np.searchsorted(reached, wanted)
    return tuple(sorted({pairs[place][0] for place in places.tolist()}))
