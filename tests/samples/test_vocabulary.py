"""Vocabularies and statistics of the training window."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssm import storage
from dssm.errors import UserError
from dssm.features import AnyFeature, DenseFeat, SparseFeat, TextFeat, VarLenSparseFeat
from dssm.manifest import Manifest, Statistics, VocabularySpec
from dssm.samples.lookups import tokens_digest
from dssm.samples.vocabulary import (
    TokenCounter,
    check_same_ids,
    fixed_vocabularies,
    frozen_files,
    has_tokens,
    needs_statistics,
    number_statistics,
    shared_hash_buckets,
    token_counts,
    token_owners,
    write_vocabularies,
)
from tests.samples.feed import token_digest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def item(name: str, **more: Any) -> SparseFeat:
    return SparseFeat(side="item", name=name, **more)


def by_name(*features: AnyFeature) -> dict[str, AnyFeature]:
    return {feature.name: feature for feature in features}


FEATURES = by_name(
    item("topic"),
    item("hashed", hash_buckets=50),
    item("price", boundaries=(1.0, 2.5)),
    item("length", quantiles=4),
    SparseFeat(side="user", name="hour", time="hour"),
    SparseFeat(side="user", name="weekday", time="weekday"),
    VarLenSparseFeat(side="user", name="follow", share_embedding="topic"),
    VarLenSparseFeat(side="user", name="seen", share_embedding="hashed"),
    TextFeat(side="item", name="title", hash_buckets=300),
    DenseFeat(side="item", name="score", transform="standard"),
    DenseFeat(side="item", name="plain"),
)
LENGTHS = Statistics(events=9, mean=1, deviation=1, minimum=0, maximum=9, boundaries=(1.0, 2.0, 4.0))


def test_what_each_features_ids_are() -> None:
    assert [f.name for f in token_owners(FEATURES)] == ["topic"]
    assert [name for name, f in FEATURES.items() if not isinstance(f, DenseFeat) and has_tokens(f)] == [
        "topic", "follow", "seen",
    ]  # fmt: skip
    assert shared_hash_buckets(FEATURES) == {"hashed": 50, "title": 300}
    assert [name for name, f in FEATURES.items() if needs_statistics(f)] == ["length", "score"]


def test_vocabularies_that_need_no_tokens() -> None:
    specs = fixed_vocabularies(FEATURES, {"length": LENGTHS})
    assert {name: (spec.size, spec.rule) for name, spec in specs.items()} == {
        "hashed": (52, "hash"),
        "price": (5, "buckets"),  # padding, unknown, and three buckets
        "length": (6, "buckets"),
        "hour": (26, "time"),
        "weekday": (9, "time"),
        "title": (302, "hash"),
    }
    others = fixed_vocabularies(
        by_name(item("hashed", hash_buckets=51), item("price", boundaries=(1.0, 2.0)), FEATURES["length"]),
        {"length": LENGTHS.model_copy(update={"boundaries": (1.0, 2.0, 5.0)})},
    )
    assert all(others[name].digest != specs[name].digest for name in others)
    assert len({spec.digest for spec in specs.values()}) == len(specs)


# Tokens --------------------------------------------------------------------------------------------------

OWNERS = [item("topic", min_count=2, max_size=4), item("city")]
COUNTS = [
    ("topic", "b", 3), ("topic", "a", 2), ("topic", "b", 2), ("topic", "c", 5), ("topic", "rare", 1),
    ("city", "日本", 1), ("city", "Z", 1), ("city", "z", 1), ("city", "a b", 9),
]  # fmt: skip


def write(spark: SparkSession, counts: list[tuple[str, str, int]], folder: Path, **more: Any) -> dict[str, Any]:
    """Returns each vocabulary's tokens in the order of their ids, which are checked, and its size and digest."""
    frame = spark.createDataFrame(counts, "vocabulary string, token string, events long")
    half = frame.filter("events % 2 = 0"), frame.filter("events % 2 = 1")
    specs = write_vocabularies(half, OWNERS, str(folder), **more)
    found = {}
    for name, spec in specs.items():
        rows = pq.read_table(folder / f"{name}.parquet").to_pylist()
        assert [row["id"] for row in rows] == list(range(2, 2 + len(rows)))
        assert spec == VocabularySpec(size=2 + len(rows), digest=token_digest([row["token"] for row in rows]))
        found[name] = [(row["token"], row["events"]) for row in rows]
    return found


@pytest.mark.spark
def test_tokens_by_events_then_by_token(spark: SparkSession, tmp_path: Path) -> None:
    assert write(spark, COUNTS, tmp_path / "v") == {
        "topic": [("b", 5), ("c", 5), ("a", 2)],
        "city": [("a b", 9), ("Z", 1), ("z", 1), ("日本", 1)],
    }
    assert storage.file_names(str(tmp_path / "v"), "") == ["city.parquet", "topic.parquet"]


@pytest.mark.spark
def test_a_frozen_vocabulary_keeps_its_ids(spark: SparkSession, tmp_path: Path) -> None:
    """New tokens are unknown; known ones stay, though nothing carries them any more."""
    write(spark, COUNTS, tmp_path / "first")
    frozen = {name: str(tmp_path / "first" / f"{name}.parquet") for name in ("topic", "city")}
    later = [("topic", "new", 100), ("topic", "a", 50), ("city", "new", 7)]
    assert write(spark, later, tmp_path / "second", frozen=frozen) == {
        "topic": [("b", 0), ("c", 0), ("a", 50)],
        "city": [("a b", 0), ("Z", 0), ("z", 0), ("日本", 0)],
    }
    for name, path in frozen.items():
        same = [tokens_digest(place) for place in (path, str(tmp_path / "second" / f"{name}.parquet"))]
        assert same[0] == same[1]


@pytest.mark.spark
def test_a_grown_vocabulary_puts_new_tokens_behind(spark: SparkSession, tmp_path: Path) -> None:
    write(spark, COUNTS, tmp_path / "first")
    frozen = {name: str(tmp_path / "first" / f"{name}.parquet") for name in ("topic", "city")}
    later = [("topic", "x", 4), ("topic", "y", 9), ("topic", "few", 1), ("topic", "a", 50), ("city", "new", 7)]
    # min_count and max_size hold for the new ones: 'few' is below 2, and x is the fifth of four.
    assert write(spark, later, tmp_path / "second", frozen=frozen, grow=True) == {
        "topic": [("b", 0), ("c", 0), ("a", 50), ("y", 9)],
        "city": [("a b", 0), ("Z", 0), ("z", 0), ("日本", 0), ("new", 7)],
    }


def test_a_run_that_lacks_a_vocabulary() -> None:
    specs = {"topics": VocabularySpec(size=4, digest=""), "hashed": VocabularySpec(size=9, digest="", rule="hash")}
    manifest = Manifest(kind="samples", date="", build="", seed=0, vocabularies=specs)
    assert frozen_files(manifest, "runs/x/samples", [item("topics")]) == {
        "topics": "runs/x/samples/vocabularies/topics.parquet"
    }
    with pytest.raises(UserError) as caught:
        frozen_files(manifest, "runs/x/samples", [item("topic")])
    assert str(caught.value) == (
        "samples.vocabularies.run: runs/x/samples has no vocabulary 'topic' (did you mean 'topics'?)"
    )
    with pytest.raises(UserError) as caught:  # it has no tokens
        frozen_files(manifest, "runs/x/samples", [item("hashed")])
    assert str(caught.value) == (
        "features.hashed: found counted tokens, but runs/x/samples, whose vocabularies samples.vocabularies.run asks "
        "for, has 9 ids of hash buckets; expected hash_buckets, boundaries, quantiles or time as there, or another name"
    )


@pytest.mark.parametrize(
    ("feature", "found", "there"),
    [
        (item("hashed", hash_buckets=75), "77 ids of hash buckets", "52 ids of hash buckets"),
        (TextFeat(side="item", name="hashed", hash_buckets=50), "52 ids of hash buckets", "52 ids of hash buckets"),
        (item("price", boundaries=(1.0, 2.5, 9.0)), "6 ids of buckets of a number", "5 ids of buckets of a number"),
        (item("topic", hash_buckets=50), "52 ids of hash buckets", "4 ids of tokens"),
        (item("length", boundaries=(1.0, 2.0)), "5 ids of buckets of a number", "6 ids of buckets of a number"),
    ],
    ids=["more hash buckets", "hashed trigrams", "more boundaries", "tokens before", "quantiles before"],
)
def test_buckets_that_an_earlier_run_numbered_otherwise(feature: AnyFeature, found: str, there: str) -> None:
    """They would give each value another id, under the name of the earlier run's."""
    earlier = {"topic": VocabularySpec(size=4, digest=""), **fixed_vocabularies(FEATURES, {"length": LENGTHS})}
    manifest = Manifest(kind="samples", date="", build="", seed=0, vocabularies=earlier)
    check_same_ids(manifest, "runs/x", fixed_vocabularies(FEATURES, {"length": LENGTHS}))
    check_same_ids(manifest, "runs/x", fixed_vocabularies(by_name(item("new", hash_buckets=3)), {}))
    with pytest.raises(UserError) as caught:
        check_same_ids(manifest, "runs/x", fixed_vocabularies(by_name(feature), {}))
    assert str(caught.value).startswith(
        f"features.{feature.name}: found {found}, but runs/x, whose vocabularies samples.vocabularies.run asks for, "
        f"has {there}; expected "
    )


def test_blank_is_no_token() -> None:
    """As in a list, hashed, and where it should be a number: it is null."""
    counter = TokenCounter(("topic", "tag"))
    topics, tags = [" ", "a", "", None, "\u3000\t", "a", " a"], [["b", "b"], [], None, ["b"], [""], [None], [" "]]
    rows = pa.table({"events": [1, 2, 3, 4, 5, 6, 7], "topic": topics, "tag": tags})
    found = [tuple(row.values()) for batch in counter.run(rows.to_batches()) for row in batch.to_pylist()]
    assert sorted(found) == [("tag", "b", 6), ("topic", " a", 7), ("topic", "a", 8)]


@pytest.mark.spark
def test_tokens_are_counted_as_the_encoder_will_split_them(spark: SparkSession) -> None:
    rows = [("a", " x , y,,x", "x:1, a:b :2,\u3000z\u2003:3", ["p", None, " "], 2), (None, None, "", None, 5)]
    frame = spark.createDataFrame(
        rows, "one string, many string, weighted string, listed array<string>, n int"
    ).coalesce(1)

    of_list = {"side": "user", "share_embedding": "topic"}
    features = {
        "one": item("one"),
        "many": VarLenSparseFeat(name="many", **of_list),
        "weighted": VarLenSparseFeat(name="weighted", weighted=True, **of_list),
        "listed": VarLenSparseFeat(name="listed", **of_list),
    }

    def counts(*names: str) -> dict[tuple[str, str], int]:
        found: Counter[tuple[str, str]] = Counter()
        for row in token_counts(frame, [features[name] for name in names], "n").collect():
            found[row["vocabulary"], row["token"]] += row["events"]
        return dict(found)

    assert counts("one") == {("one", "a"): 2}
    assert counts("many") == {("topic", "x"): 4, ("topic", "y"): 2}
    assert counts("weighted") == {("topic", "x"): 2, ("topic", "a:b"): 2, ("topic", "z"): 2}
    assert counts("listed") == {("topic", "p"): 2}
    assert counts(*features) == {
        ("one", "a"): 2, ("topic", "x"): 6, ("topic", "y"): 2, ("topic", "a:b"): 2, ("topic", "z"): 2,
        ("topic", "p"): 2,
    }  # fmt: skip


# Numbers -------------------------------------------------------------------------------------------------


@pytest.mark.spark
def test_statistics_are_weighted_by_training_events(spark: SparkSession) -> None:
    """Against NumPy on every event; around a mean so large that the mean square would lose the deviation."""
    random = np.random.default_rng(0)
    values = 1e9 + random.normal(size=300) * 3
    small = random.integers(0, 12, size=300).astype(float)
    events = random.integers(1, 20, size=300)
    missing = random.random(300) < 0.2
    text = [None if gone else repr(float(value)) for gone, value in zip(missing, values, strict=True)]
    ages = random.integers(10, 90, size=300)
    known = [None if gone else int(age) for gone, age in zip(missing, ages, strict=True)]
    rows = list(zip(text, small.tolist(), known, events.tolist(), [None] * 300, strict=True))
    frame = spark.createDataFrame(rows, "large string, small double, age int, n int, nothing double")
    features = [
        DenseFeat(side="item", name="large", transform="standard"),
        item("quarters", column="small", quantiles=4),
        item("halves", column="small", quantiles=2),
        item("age", quantiles=5),
        DenseFeat(side="item", name="nothing", transform="minmax"),
        item("no_quantiles", column="nothing", quantiles=3),
    ]
    found = number_statistics(frame, features, "n")
    each = np.repeat(values[~missing], events[~missing])
    large = found["large"]
    assert (large.events, large.minimum, large.maximum) == (len(each), each.min(), each.max())
    assert large.mean == pytest.approx(each.mean(), abs=1e-3)
    assert large.deviation == pytest.approx(each.std(), rel=1e-6)
    assert large.boundaries == ()
    each = np.repeat(small, events)
    quarters = found["quarters"]
    assert quarters.boundaries == tuple(np.unique(np.percentile(each, [25, 50, 75], method="inverted_cdf")))
    assert (quarters.events, quarters.minimum, quarters.maximum) == (events.sum(), 0, 11)
    assert found["halves"].boundaries == (np.percentile(each, 50, method="inverted_cdf"),)
    each = np.repeat(ages[~missing], events[~missing])
    assert found["age"].boundaries == tuple(np.unique(np.percentile(each, [20, 40, 60, 80], method="inverted_cdf")))
    empty = Statistics(events=0, mean=0, deviation=0, minimum=0, maximum=0)
    assert (found["nothing"], found["no_quantiles"]) == (empty, empty)


def test_the_digest_of_tokens_does_not_depend_on_how_the_file_is_cut(tmp_path: Path) -> None:
    tokens = ["a", "bc", "日本", ""]
    for rows in (1, 3, 4):
        pq.write_table(pa.table({"token": tokens}), tmp_path / "tokens.parquet", row_group_size=rows)
        assert tokens_digest(str(tmp_path / "tokens.parquet")) == (4, token_digest(tokens))
