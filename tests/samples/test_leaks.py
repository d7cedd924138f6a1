"""Looking at the present or the future would tell the answer: samples must not.

Every answer is the toss of a coin, so that nothing known before an event tells it. The feed holds the answers
nevertheless: in the log itself, in snapshots of a profile taken at the event and on its day, in items that are
not uploaded yet. A score made of any feature must then rank no better than chance. That the test can fail is
shown by the same features on inputs that stand a little earlier than they should.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dssm.manifest import EVENT_TIME, ITEM_ID, SOURCE, Manifest, target_column
from dssm.metrics import auc
from tests.samples.feed import TinyFeed, build, read_part

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark

DATE, TRAIN_DAYS, TEST_DAYS = dt.date(2024, 1, 20), 9, 3
HOUR, DAY = 3_600_000, 86_400_000
USERS, ITEMS, EVENTS_A_USER = 400, 400, 11
SINGLE = 60  # users whose last event is with an item of their own
ANSWER = target_column("answer")


def start_of(offset: int) -> int:
    """Unix milliseconds at which a day starts, counted from the date; the feed's time zone is UTC."""
    day = dt.datetime(DATE.year, DATE.month, DATE.day, tzinfo=dt.UTC)
    return int((day + dt.timedelta(days=offset)).timestamp()) * 1000


def history(source: str, **more: Any) -> dict[str, Any]:
    return {"kind": "VarLenSparseFeat", "side": "user", "column": source, "maxlen": 5, **more}


def source(time: str, label: str, **more: Any) -> dict[str, Any]:
    return {"path": "{data}/log.csv", "user": "user", "item": "item", "time": time, "label": label, **more}


OF_TOPICS = {"of": "topic", "weighted": True, "share_embedding": "topic"}
OF_POSTS = {"share_embedding": "post"}
USER_NUMBER, ITEM_NUMBER = {"kind": "DenseFeat", "side": "user"}, {"kind": "DenseFeat", "side": "item"}
CLEAN: dict[str, dict[str, Any]] = {
    "own_history": history("own", **OF_POSTS),
    "own_topics": history("own", **OF_TOPICS),
    "echo_history": history("echoes", **OF_POSTS),
    "echo_topics": history("echoes", **OF_TOPICS),
    "own_rate": {**USER_NUMBER, "column": "own_counter"},
    "echo_rate": {**USER_NUMBER, "column": "echo_counter"},
    "own_item_rate": {**ITEM_NUMBER, "column": "own_item_counter"},
    "echo_item_rate": {**ITEM_NUMBER, "column": "echo_item_counter"},
    "mood": USER_NUMBER,
    "word": {"kind": "SparseFeat", "side": "user"},
    "day_mean": USER_NUMBER,
    "once": USER_NUMBER,
    "days_up": {**ITEM_NUMBER, "time": "days_since_upload", "null": 3},
    "client": {"kind": "SparseFeat", "side": "user", "column": "user"},
    "post": {"kind": "SparseFeat", "side": "item", "column": "item"},
    "topic": {"kind": "SparseFeat", "side": "item"},
}
LEAKY: dict[str, dict[str, Any]] = {
    "early_history": history("earlies", **OF_POSTS),
    "early_topics": history("earlies", **OF_TOPICS),
    "early_rate": {**USER_NUMBER, "column": "early_counter"},
    "yesterday_item_rate": {**ITEM_NUMBER, "column": "yesterday_item_counter"},
    "final_mood": USER_NUMBER,
    "final_word": {"kind": "SparseFeat", "side": "user"},
    "next_mean": USER_NUMBER,
    "once_too_early": USER_NUMBER,
}


def counter(side: str, source: str, days: int) -> dict[str, Any]:
    return {"side": side, "sources": [source], "days": days, "count": "rate", "prior": 0.5, "strength": 1}


def config(split: str) -> dict[str, Any]:
    """Returns the settings: leave_last_out has one label, as it tests on positives, and ends where the log does."""
    label = "answer" if split == "time" else "1"
    asked = {"roles": ["train", "test"], "targets": {"answer": "answer"}}
    last = DATE if split == "time" else DATE + dt.timedelta(days=TEST_DAYS)
    return {
        "name": split,
        "date": last,
        "window": {"train_days": TRAIN_DAYS if split == "time" else TRAIN_DAYS + TEST_DAYS, "test_days": TEST_DAYS},
        "sources": {
            "own": source("time", label, **asked),
            # The same events with the answer as their label; they are no samples.
            "echo": source("time", "answer", roles=[]),
            "early": source("a_moment_before", "answer", roles=[]),
            "yesterday": source("a_day_before", "answer", roles=[]),
            "loose": source("time", label, **asked, check_upload=False),
        },
        "profiles": {
            "moods": {"path": "{data}/moods.csv", "key": "user", "as_of": "taken", "as_of_unit": "ms"},
            "final": {"path": "{data}/final.csv", "key": "user", "latest_by": "taken"},
            "daily": {"path": "{data}/daily/{date}.csv", "key": "user"},
            "shifted": {"path": "{data}/shifted/{date}.csv", "key": "user"},
            "taken": {"path": "{data}/once.csv", "key": "user", "available_from": DATE + dt.timedelta(days=1)},
            "wrong": {"path": "{data}/wrong.csv", "key": "user"},
        },
        "catalogue": {"path": "{data}/items.csv", "key": "item", "upload_time": "uploaded", "upload_unit": "ms"},
        "histories": {
            "own": {"sources": ["own"], "last": 5},
            "echoes": {"sources": ["echo"], "last": 5},
            "earlies": {"sources": ["early"], "last": 5},
        },
        "counters": {
            "own_counter": counter("user", "own", 4),
            "echo_counter": counter("user", "echo", 1),
            "early_counter": counter("user", "early", 1),
            "own_item_counter": counter("item", "own", 3),
            "echo_item_counter": counter("item", "echo", 1),
            "yesterday_item_counter": counter("item", "yesterday", 1),
        },
        "features": {**CLEAN, **LEAKY},
        "samples": {
            "train_rows": "all", "rows_per_file": 2000, "shuffle_partitions": 2,
            "split": {"kind": split, **({} if split == "time" else {"rows": 4})},
        },
    }  # fmt: skip


class CoinFeed(TinyFeed):
    """Events whose answers are tosses of a coin, but for those with an item that is not uploaded yet: 1."""

    @property
    def samples(self) -> Path:
        return self.folder / "runs" / self.config["name"] / self.config["date"].isoformat() / "samples"

    def write_all(self) -> None:
        random = np.random.default_rng(7)
        uploads = np.where(np.arange(ITEMS) < ITEMS // 2, start_of(-4) + random.integers(0, 7 * DAY, ITEMS), 0)
        begin, end = start_of(-TRAIN_DAYS), start_of(TEST_DAYS)
        users = np.repeat(np.arange(USERS), EVENTS_A_USER)
        times = random.integers(begin, end, (USERS, EVENTS_A_USER))
        times[:, -1] = random.integers(start_of(1), end, USERS)  # each user has an event in the test window
        times = np.sort(times, axis=1)
        items = random.integers(0, ITEMS, (USERS, EVENTS_A_USER))
        items[:SINGLE, -1] = ITEMS + np.arange(SINGLE)
        answers = random.integers(0, 2, items.shape)
        answers[np.append(uploads, np.zeros(SINGLE, np.int64))[items] > times] = 1
        self.write_log(users, items, times, answers)
        self.write_profiles(times, answers)
        rows = [f"i{item},t{item % 7},{uploads[item] or ''}" for item in range(ITEMS)]
        rows += [f"i{ITEMS + user},t{user % 7}," for user in range(SINGLE)]
        self.write("items.csv", "item,topic,uploaded\n" + "\n".join(rows))

    def write_log(self, users: np.ndarray, items: np.ndarray, times: np.ndarray, answers: np.ndarray) -> None:
        columns = zip(users, items.ravel(), times.ravel(), answers.ravel(), strict=True)
        rows = [f"u{user},i{item},{time},{time - 1},{time - DAY},{answer}" for user, item, time, answer in columns]
        self.write("log.csv", "user,item,time,a_moment_before,a_day_before,answer\n" + "\n".join(rows))

    def write_profiles(self, times: np.ndarray, answers: np.ndarray) -> None:
        moods, final, once = [], [], []
        for user in range(USERS):
            for time, answer in zip(times[user].tolist(), answers[user].tolist(), strict=True):
                moods.append(f"u{user},{time},{answer},w{answer}")  # at the event's own millisecond
            final += [
                f"u{user},{time},{answer},w{answer}" for time, answer in zip(times[user], answers[user], strict=True)
            ]
            known = answers[user][times[user] < start_of(1)]
            once.append(f"u{user},{known[-1] if len(known) else ''}")
        self.write("moods.csv", "user,taken,mood,word\n" + "\n".join(moods))
        self.write("final.csv", "user,taken,final_mood,final_word\n" + "\n".join(final))
        self.write("once.csv", "user,once\n" + "\n".join(once))
        late = [answers[user][-1] for user in range(USERS)]
        self.write("wrong.csv", "user,once_too_early\n" + "\n".join(f"u{u},{a}" for u, a in enumerate(late)))
        for offset in range(-TRAIN_DAYS - 1, TEST_DAYS):
            means = []
            for user in range(USERS):
                of_day = answers[user][(start_of(offset) <= times[user]) & (times[user] < start_of(offset + 1))]
                means.append(f"u{user},{of_day.mean() if len(of_day) else ''}")
            for folder, shift, name in (("daily", 0, "day_mean"), ("shifted", -1, "next_mean")):
                day = DATE + dt.timedelta(days=offset + shift)
                self.write(f"{folder}/{day}.csv", f"user,{name}\n" + "\n".join(means))


class Split:
    """The samples of one split: rows of both parts as columns."""

    def __init__(self, spark: SparkSession, folder: Path, kind: str) -> None:
        self.kind = kind
        self.feed = CoinFeed(folder, config(kind))
        self.feed.write_all()
        self.manifest: Manifest = build(spark, self.feed)
        self.all_rows = {part: read_part(self.feed, part) for part in ("train", "test")}

    def columns(self, part: str, source: str) -> dict[str, np.ndarray]:
        rows = [row for row in self.all_rows[part] if row[SOURCE] == source]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}


@pytest.fixture(scope="module", params=["time", "leave_last_out"])
def split(request: pytest.FixtureRequest, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Split:
    return Split(spark, tmp_path_factory.mktemp("coins"), request.param)


def scores(
    name: str, feature: Mapping[str, Any], train: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray]
) -> Iterator[np.ndarray]:
    """Yields what can be made of a feature, (rows,) each: numbers; matches with the item; answers of its ids so far."""
    if feature["kind"] == "DenseFeat":
        yield rows[name]
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
    tokens = set(pq.read_table(split.feed.samples / "vocabularies" / "post.parquet")["token"].to_pylist())
    train, test = split.all_rows["train"], split.all_rows["test"]
    assert tokens == {row[ITEM_ID] for row in train}
    unknown = {row[ITEM_ID] for row in test if row["post"] == 1}
    assert unknown == {row[ITEM_ID] for row in test} - tokens
    assert len(unknown) >= SINGLE // 2
    if split.kind == "time":
        assert max(row[EVENT_TIME] for row in train) < start_of(0) <= min(row[EVENT_TIME] for row in test)
