"""Looking at the present or the future would tell the answer: samples must not.

Every answer is the toss of a coin, so that nothing known before an event tells it. The feed holds the answers
nevertheless: in the log itself, in snapshots of a profile taken at the event and on its day, in items that are
not uploaded yet, in what the catalogue says of items that nobody trains on. A score made of any feature must then
rank no better than chance. That the test can fail is shown by the same features on inputs that stand a little earlier
than they should.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dssm.manifest import EVENT_TIME, ITEM_ID, SOURCE, USER_ID, Manifest, target_column
from dssm.metrics import auc
from dssm.paths import vectors_path
from tests.samples.coins import (
    CLEAN,
    EVENTS_A_USER,
    LEAKY,
    NEWCOMERS,
    SINGLE,
    SINGLE_ITEMS,
    USERS,
    CoinFeed,
    config,
    start_of,
)
from tests.samples.feed import build, read_part

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark

ANSWER = target_column("answer")


class Split:
    """The samples of one split: rows of both parts as columns."""

    def __init__(self, spark: SparkSession, folder: Path, kind: str) -> None:
        self.kind = kind
        self.feed = CoinFeed(folder, config(kind))
        self.feed.write_all()
        self.manifest: Manifest = build(spark, self.feed)
        self.all_rows = {part: read_part(self.feed, part) for part in ("train", "test")}
        self._columns: dict[tuple[str, str], dict[str, np.ndarray]] = {}

    def columns(self, part: str, source: str) -> dict[str, np.ndarray]:
        if (part, source) not in self._columns:
            rows = [row for row in self.all_rows[part] if row[SOURCE] == source]
            columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
            for name, feature in {**CLEAN, **LEAKY}.items():
                if feature.get("pre_embed") == "post_table":  # whose columns hold places in a table, from 1
                    columns[name] = self.vectors[columns[name]].sum(axis=1)
            self._columns[part, source] = columns
        return self._columns[part, source]

    @functools.cached_property
    def vectors(self) -> np.ndarray:
        """Returns the vectors of storage: table, behind one of zeros."""
        table = pq.read_table(vectors_path(str(self.feed.samples), "post_table"))
        matrix = np.array(table["values"].to_pylist())
        return np.concatenate([np.zeros((1, matrix.shape[1])), matrix])

    def tokens(self, vocabulary: str) -> set[str]:
        return set(pq.read_table(self.feed.samples / "vocabularies" / f"{vocabulary}.parquet")["token"].to_pylist())


@pytest.fixture(scope="module", params=["time", "leave_last_out"])
def split(request: pytest.FixtureRequest, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Split:
    return Split(spark, tmp_path_factory.mktemp("coins"), request.param)


def scores(
    name: str, feature: Mapping[str, Any], train: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray]
) -> Iterator[np.ndarray]:
    """Yields what can be made of a feature, (rows,) each: numbers; matches with the item; answers of its ids so far."""
    if feature["kind"] == "DenseFeat":
        yield rows[name] if rows[name].ndim == 1 else (rows[name] * rows["post_vector"]).sum(axis=1)
        return
    ids = rows[name].reshape(len(rows[name]), -1)
    if "weighted" in feature or "share_embedding" in feature:
        matches = ids == rows[feature["share_embedding"]][:, None]
        yield matches.any(axis=1)
        yield matches[:, 0]
        if feature.get("weighted"):
            yield (matches * rows[f"{name}__weight"]).sum(axis=1)
    trained = train[name].reshape(len(train[name]), -1)
    size = int(max(ids.max(), trained.max())) + 1
    answers = np.repeat(train[ANSWER], trained.shape[1])
    events = np.bincount(trained.ravel(), minlength=size)
    rate = (np.bincount(trained.ravel(), answers, size) + 1) / (events + 2)
    yield np.where(ids > 0, rate[ids] - 0.5, 0).sum(axis=1)


def chance_error(answers: np.ndarray) -> float:
    """Returns the standard error of the AUC of scores that know nothing (Mann and Whitney, 1947)."""
    positives, negatives = int((answers > 0).sum()), int((answers <= 0).sum())
    return math.sqrt((positives + negatives + 1) / (12 * positives * negatives))


def test_there_is_enough_to_see_a_leak(split: Split) -> None:
    test, train = split.columns("test", "own"), split.columns("train", "own")
    assert len(train[ANSWER]) > 1000
    assert chance_error(test[ANSWER]) < 0.025
    assert 0.4 < test[ANSWER].mean() < 0.6
    assert 0.4 < train[ANSWER].mean() < 0.6


@pytest.mark.parametrize("name", CLEAN)
def test_no_feature_tells_the_answer(split: Split, name: str) -> None:
    train, test = split.columns("train", "own"), split.columns("test", "own")
    error = chance_error(test[ANSWER])
    for score in scores(name, CLEAN[name], train, test):
        assert abs(auc(test[ANSWER], score) - 0.5) < 4 * error


@pytest.mark.parametrize("name", LEAKY)
def test_the_same_features_on_inputs_that_come_too_early_do(split: Split, name: str) -> None:
    train, test = split.columns("train", "own"), split.columns("test", "own")
    error = chance_error(test[ANSWER])
    best = max(abs(auc(test[ANSWER], score) - 0.5) for score in scores(name, LEAKY[name], train, test))
    assert best > 6 * error


def matrix(features: Mapping[str, Any], train: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray]) -> np.ndarray:
    columns = [score for name, feature in features.items() for score in scores(name, feature, train, rows)]
    return np.column_stack([*columns, np.ones(len(rows[ANSWER]))]).astype(float)


def modelled(split: Split, features: Mapping[str, Any]) -> float:
    """Returns the AUC on the test rows of a ridge regression on the training rows."""
    train, test = split.columns("train", "own"), split.columns("test", "own")
    known = matrix(features, train, train)
    scale = np.where(known.std(axis=0) > 0, known.std(axis=0), 1)
    known = known / scale
    weights = np.linalg.solve(known.T @ known + np.eye(known.shape[1]), known.T @ train[ANSWER])
    return auc(test[ANSWER], matrix(features, train, test) / scale @ weights)


def test_no_model_of_all_features_tells_the_answer(split: Split) -> None:
    error = chance_error(split.columns("test", "own")[ANSWER])
    assert abs(modelled(split, CLEAN) - 0.5) < 4 * error
    assert modelled(split, {**CLEAN, **LEAKY}) > 0.9


def test_an_item_that_is_not_uploaded_yet(split: Split) -> None:
    """The answer of such an event is 1. They are left out, unless the source says not to look."""
    own, loose = split.columns("test", "own"), split.columns("test", "loose")
    assert own["days_up"].min() > 0
    early = loose["days_up"] == 0
    assert early.sum() > 50
    assert set(loose[ANSWER][early]) == {1}
    assert abs(auc(loose[ANSWER], loose["days_up"]) - 0.5) > 4 * chance_error(loose[ANSWER])
    counts = split.manifest.sources
    assert counts["sources.own"].filtered["item uploaded after the event"] > 500
    assert "item uploaded after the event" not in counts["sources.loose"].filtered


def test_only_the_training_rows_say_what_is_known(split: Split) -> None:
    tokens = split.tokens("post")
    train, test = split.all_rows["train"], split.all_rows["test"]
    assert tokens == {row[ITEM_ID] for row in train}
    assert split.tokens("fate") == {"old"}
    unknown = {row[ITEM_ID] for row in test if row["post"] == 1}
    assert unknown == {row[ITEM_ID] for row in test} - tokens
    if split.kind == "time":
        assert len(unknown) >= SINGLE // 2
        single = [row for row in test if row[ITEM_ID] in SINGLE_ITEMS]
        assert {row[ANSWER] for row in single} == {0, 1}
        assert {row["fate"] for row in single} == {1}
        assert len({row["size"] for row in single}) == 1
        assert max(row[EVENT_TIME] for row in train) < start_of(0) <= min(row[EVENT_TIME] for row in test)


def test_only_those_with_training_rows_are_tested_on(split: Split) -> None:
    """As drop_cold says: a row that is tested on makes nobody known."""
    side, column = ("user", USER_ID) if split.kind == "time" else ("item", ITEM_ID)
    trained = {row[column] for row in split.all_rows["train"]}
    tested = {row[column] for row in split.all_rows["test"]}
    assert tested <= trained
    left_out = {name: counts.filtered.get(f"cold {side}", 0) for name, counts in split.manifest.sources.items()}
    if split.kind == "time":
        assert left_out["sources.loose"] == NEWCOMERS * EVENTS_A_USER
        assert len(tested) == USERS - NEWCOMERS
    else:
        assert left_out["sources.own"] >= SINGLE
        assert not SINGLE_ITEMS & (trained | tested)
