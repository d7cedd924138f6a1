"""Vocabularies: the tokens of the training window, the most frequent first, frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm import storage
from dssm.features import FIRST_TOKEN_ID, EmbeddedFeature, VarLenSparseFeat
from dssm.manifest import VocabularySpec
from dssm.samples.lookups import load_tokens
from dssm.samples.sources import list_entries
from dssm.samples.writing import write_parts


def tokens_of(feature: EmbeddedFeature, column: Column, kind: T.DataType) -> Column:
    """Returns the tokens of a feature's raw column as an array of strings, as the encoder will split them."""
    if not isinstance(feature, VarLenSparseFeat):
        return F.array(column.cast("string"))
    entries = list_entries(column, kind, feature.separator)
    if not feature.weighted:
        return entries
    return F.transform(entries, lambda entry: F.regexp_replace(entry, r"(?U)\s*:[^:]*$", ""))


def token_counts(frame: DataFrame, feature: EmbeddedFeature, count: str) -> DataFrame:
    """Counts a feature's tokens.

    Args:
      frame: one row a user or item, with the feature's source column and a column of event counts.
      count: name of the latter.
    Grain: rows of (vocabulary, token, events); a token may come more than once.
    """
    column = feature.source_column
    tokens = tokens_of(feature, F.col(f"`{column}`"), frame.schema[column].dataType)
    return frame.select(
        F.lit(feature.vocabulary).alias("vocabulary"), F.explode(tokens).alias("token"), F.col(count).alias("events")
    ).filter("token is not null and token != ''")


def write_vocabularies(
    counts: Sequence[DataFrame], owners: Sequence[EmbeddedFeature], folder: str
) -> dict[str, VocabularySpec]:
    """Writes one file a vocabulary: (token, events), ordered by events descending, then token.

    Args:
      counts: frames of (vocabulary, token, events).
      owners: the feature that each vocabulary is named after; its min_count and max_size hold.
      folder: where `NAME.parquet` go.
    """
    limits: Mapping[str, tuple[int, int]] = {f.name: (f.min_count, f.max_size or 2**31 - 1) for f in owners}
    of = {
        place: F.create_map(*[F.lit(x) for name, limit in limits.items() for x in (name, limit[place])])
        for place in (0, 1)
    }
    total = reduce(DataFrame.unionByName, counts).groupBy("vocabulary", "token").agg(F.sum("events").alias("events"))
    place = F.row_number().over(Window.partitionBy("vocabulary").orderBy(F.desc("events"), "token"))
    ranked = (
        total.filter(F.col("events") >= of[0][F.col("vocabulary")])
        .withColumn("__place", place)
        .filter(F.col("__place") <= of[1][F.col("vocabulary")])
    )
    write_parts(
        ranked, folder, part="vocabulary", order=["__place"], names={name: f"{name}.parquet" for name in limits}
    )
    specs = {}
    for name in limits:
        tokens = load_tokens(f"{folder}/{name}.parquet")
        content = "\n".join(tokens.to_pylist())
        specs[name] = VocabularySpec(size=len(tokens) + FIRST_TOKEN_ID, digest=storage.digest(content))
    return specs
