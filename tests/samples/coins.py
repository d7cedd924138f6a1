"""A feed of coin tosses, with the answers in all that comes too early; see `test_leaks`."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.samples.feed import TinyFeed

DATE, TRAIN_DAYS, TEST_DAYS = dt.date(2024, 1, 20), 9, 3
HOUR, DAY = 3_600_000, 86_400_000
USERS, ITEMS, EVENTS_A_USER = 400, 400, 11
SINGLE = 60  # users whose last event is with an item of their own
NEWCOMERS = 20  # users, the last ones, all of whose events are in the test window
WIDTH = 16  # of an item's vector: no two items have similar ones
SINGLE_ITEMS = {f"i{ITEMS + number}" for number in range(SINGLE)}


def start_of(offset: int) -> int:
    """Unix milliseconds at which a day starts, counted from the date; the feed's time zone is UTC."""
    day = dt.datetime(DATE.year, DATE.month, DATE.day, tzinfo=dt.UTC)
    return int((day + dt.timedelta(days=offset)).timestamp()) * 1000


def history(source: str, **more: Any) -> dict[str, Any]:
    return {"kind": "VarLenSparseFeat", "side": "user", "column": source, "maxlen": 5, **more}


def pooled(source: str, reduce_type: str) -> dict[str, Any]:
    return {"kind": "DenseFeat", "side": "user", "column": source, "pre_embed": "post", "reduce_type": reduce_type}


def source(time: str, label: str, **more: Any) -> dict[str, Any]:
    return {"path": "{data}/log.csv", "user": "user", "item": "item", "time": time, "label": label, **more}


def listed(source: str) -> dict[str, Any]:
    return {**pooled(source, "sum"), "pre_embed": "post_table", "maxlen": 5}


OF_TOPICS = {"of": "topic", "weighted": True, "share_embedding": "topic"}
LISTED_TOPICS = {"of": "topic", "share_embedding": "topic"}
OF_POSTS = {"share_embedding": "post"}
TEXT = {"kind": "TextFeat", "side": "user"}
USER_NUMBER, ITEM_NUMBER = {"kind": "DenseFeat", "side": "user"}, {"kind": "DenseFeat", "side": "item"}
CLEAN: dict[str, dict[str, Any]] = {
    "own_history": history("own", **OF_POSTS),
    "own_topics": history("own", **OF_TOPICS),
    "echo_history": history("echoes", **OF_POSTS),
    "echo_topics": history("echoes", **OF_TOPICS),
    "own_listed_topics": history("own", **LISTED_TOPICS),
    "echo_listed_topics": history("echoes", **LISTED_TOPICS),
    "longer_history": history("longer", maxlen=12, **OF_POSTS),
    "own_vector": pooled("own", "sum"),
    "echo_vector": pooled("echoes", "mean"),
    "longer_vector": pooled("longer", "sum"),
    "own_rows": listed("own"),
    "echo_rows": listed("echoes"),
    "own_rate": {**USER_NUMBER, "column": "own_counter"},
    "echo_rate": {**USER_NUMBER, "column": "echo_counter"},
    "own_item_rate": {**ITEM_NUMBER, "column": "own_item_counter"},
    "echo_item_rate": {**ITEM_NUMBER, "column": "echo_item_counter"},
    "echo_positives": USER_NUMBER,
    "liked_events": USER_NUMBER,
    "echo_item_positives": ITEM_NUMBER,
    "liked_item_events": ITEM_NUMBER,
    "mood": USER_NUMBER,
    "word": {"kind": "SparseFeat", "side": "user"},
    "note": TEXT,
    "day_mean": USER_NUMBER,
    "once": USER_NUMBER,
    "days_up": {**ITEM_NUMBER, "time": "days_since_upload", "null": 3},
    "client": {"kind": "SparseFeat", "side": "user", "column": "user"},
    "post": {"kind": "SparseFeat", "side": "item", "column": "item"},
    "post_vector": {**ITEM_NUMBER, "column": "item", "pre_embed": "post"},
    "topic": {"kind": "SparseFeat", "side": "item"},
    "length": {**ITEM_NUMBER, "transform": "standard"},
    "tags": {"kind": "VarLenSparseFeat", "side": "item", "maxlen": 2, "separator": " ", "hash_buckets": 64},
    "title": {"kind": "TextFeat", "side": "item"},
    # The next two hold the answers of the items of a single event, which no training row has.
    "fate": {"kind": "SparseFeat", "side": "item"},
    "size": {"kind": "SparseFeat", "side": "item", "quantiles": 100},
}
LEAKY: dict[str, dict[str, Any]] = {
    "early_history": history("earlies", **OF_POSTS),
    "early_topics": history("earlies", **OF_TOPICS),
    "early_listed_topics": history("earlies", **LISTED_TOPICS),
    "final_history": history("finals", maxlen=12, **OF_POSTS),
    "early_vector": pooled("earlies", "mean"),
    "final_vector": pooled("finals", "sum"),
    "early_rows": listed("earlies"),
    "early_rate": {**USER_NUMBER, "column": "early_counter"},
    "early_positives": USER_NUMBER,
    "yesterday_events": USER_NUMBER,
    "yesterday_item_events": ITEM_NUMBER,
    "yesterday_item_rate": {**ITEM_NUMBER, "column": "yesterday_item_counter"},
    "final_mood": USER_NUMBER,
    "final_word": {"kind": "SparseFeat", "side": "user"},
    "final_note": TEXT,
    "next_mean": USER_NUMBER,
    "once_too_early": USER_NUMBER,
    "later_mean": ITEM_NUMBER,
}


def rate(side: str, source: str, days: int) -> dict[str, Any]:
    return {"side": side, "sources": [source], "days": days, "count": "rate", "prior": 0.5, "strength": 1}


def count(side: str, source: str, days: int, what: str) -> dict[str, Any]:
    return {"side": side, "sources": [source], "days": days, "count": what}


VECTORS = {"path": "{data}/vectors.parquet", "format": "parquet", "key": "item", "width": WIDTH}
PROFILES = {
    "moods": {"path": "{data}/moods.csv", "key": "user", "as_of": "taken", "as_of_unit": "ms"},
    "final": {"path": "{data}/final.csv", "key": "user", "latest_by": "taken"},
    "daily": {"path": "{data}/daily/{date}.csv", "key": "user"},
    "shifted": {"path": "{data}/shifted/{date}.csv", "key": "user"},
    "taken": {"path": "{data}/once.csv", "key": "user", "available_from": DATE + dt.timedelta(days=1)},
    "wrong": {"path": "{data}/wrong.csv", "key": "user"},
}
HISTORIES = {
    "own": {"sources": ["own"], "last": 5},
    "echoes": {"sources": ["echo"], "last": 5},
    "earlies": {"sources": ["early"], "last": 5},
    # Of the log they hold a day, so that the list has room behind it.
    "longer": {"sources": ["echo"], "days": 1, "last": 12, "then": "liked", "separator": ";"},
    "finals": {"sources": ["echo"], "days": 1, "last": 12, "then": "final_liked", "separator": ";"},
}
COUNTERS = {
    "own_counter": rate("user", "own", 4),
    "echo_counter": rate("user", "echo", 1),
    "early_counter": rate("user", "early", 1),
    "own_item_counter": rate("item", "own", 3),
    "echo_item_counter": rate("item", "echo", 1),
    "yesterday_item_counter": rate("item", "yesterday", 1),
    "echo_positives": count("user", "echo", 2, "positives"),
    "early_positives": count("user", "early", 1, "positives"),
    "liked_events": count("user", "liked", 2, "events"),
    "yesterday_events": count("user", "yesterday_liked", 2, "events"),
    "echo_item_positives": count("item", "echo", 2, "positives"),
    "liked_item_events": count("item", "liked", 1, "events"),
    "yesterday_item_events": count("item", "yesterday_liked", 1, "events"),
}


def config(split: str) -> dict[str, Any]:
    """Returns the settings: leave_last_out has one label, as it tests on positives, and ends where the log does.

    The newcomers are cold under `time`, the items of a single event under `leave_last_out`: they are left out there.
    """
    label = "answer" if split == "time" else "1"
    asked = {"roles": ["train", "test"], "targets": {"answer": "answer"}}
    last = DATE if split == "time" else DATE + dt.timedelta(days=TEST_DAYS)
    of_split = {"drop_cold": ["users"]} if split == "time" else {"rows": 4, "drop_cold": ["items"]}
    liked = {"roles": [], "where": "answer = 1"}  # whose rows alone tell the answer
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
            "liked": source("time", "1", **liked),
            "yesterday_liked": source("a_day_before", "1", **liked),
            "loose": source("time", label, **asked, check_upload=False),
        },
        "profiles": PROFILES,
        "catalogue": {"path": "{data}/items.csv", "key": "item", "upload_time": "uploaded", "upload_unit": "ms"},
        "vectors": {"post": VECTORS, "post_table": {**VECTORS, "storage": "table"}},
        "histories": HISTORIES,
        "counters": COUNTERS,
        "features": {**CLEAN, **LEAKY},
        "samples": {
            "train_rows": "all", "rows_per_file": 2000, "shuffle_partitions": 2,
            "split": {"kind": split, **of_split},
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
        times[-NEWCOMERS:] = start_of(1) + times[-NEWCOMERS:] % (end - start_of(1))
        times = np.sort(times, axis=1)
        items = random.integers(0, ITEMS, (USERS, EVENTS_A_USER))
        items[:SINGLE, -1] = ITEMS + np.arange(SINGLE)
        answers = random.integers(0, 2, items.shape)
        answers[np.append(uploads, np.zeros(SINGLE, np.int64))[items] > times] = 1
        self.write_log(users, items, times, answers)
        self.write_profiles(items, times, answers)
        self.write_catalogue(uploads, items, times, answers)

    def write_log(self, users: np.ndarray, items: np.ndarray, times: np.ndarray, answers: np.ndarray) -> None:
        columns = zip(users, items.ravel(), times.ravel(), answers.ravel(), strict=True)
        rows = [f"u{user},i{item},{time},{time - 1},{time - DAY},{answer}" for user, item, time, answer in columns]
        self.write("log.csv", "user,item,time,a_moment_before,a_day_before,answer\n" + "\n".join(rows))

    def write_catalogue(self, uploads: np.ndarray, items: np.ndarray, times: np.ndarray, answers: np.ndarray) -> None:
        random = np.random.default_rng(8)
        number, late = ITEMS + SINGLE, times >= start_of(0)
        of_item = np.maximum(np.bincount(items[late], minlength=number), 1)
        later = np.bincount(items[late], answers[late], minlength=number) / of_item
        rows = []
        for item in range(number):
            fate, size = "old", random.integers(1000)
            if item >= ITEMS:
                answer = answers[item - ITEMS, -1]
                fate, size = f"f{answer}", 1000 + answer
            length, first, second = random.integers(0, 50, 3)
            of_all = f"i{item},t{item % 7},{uploads[item] or '' if item < ITEMS else ''}"
            rows.append(f"{of_all},{length},a{first} a{second},of {first} and {second},{fate},{size},{later[item]}")
        self.write("items.csv", "item,topic,uploaded,length,tags,title,fate,size,later_mean\n" + "\n".join(rows))
        vectors = random.standard_normal((ITEMS, WIDTH)).tolist()
        table = pa.table({"item": [f"i{item}" for item in range(ITEMS)], "values": vectors})
        pq.write_table(table, self.folder / "vectors.parquet")

    def write_profiles(self, items: np.ndarray, times: np.ndarray, answers: np.ndarray) -> None:
        moods, once = [], []
        for user in range(USERS):
            liked: list[str] = []
            for item, time, answer in zip(items[user], times[user], answers[user], strict=True):
                liked = [f"i{item}"] * int(answer) + liked
                note = "yes" if answer else "no"
                # At the event's own millisecond.
                moods.append(f"u{user},{time},{answer},w{answer},{note},{';'.join(liked)}")
            known = answers[user][times[user] < start_of(1)]
            once.append(f"u{user},{known[-1] if len(known) else ''}")
        self.write("moods.csv", "user,taken,mood,word,note,liked\n" + "\n".join(moods))
        self.write("final.csv", "user,taken,final_mood,final_word,final_note,final_liked\n" + "\n".join(moods))
        self.write("once.csv", "user,once\n" + "\n".join(once))
        late = [answers[user][-1] for user in range(USERS)]
        self.write("wrong.csv", "user,once_too_early\n" + "\n".join(f"u{u},{a}" for u, a in enumerate(late)))
        for offset in range(-TRAIN_DAYS - 1, TEST_DAYS):
            means = []
            for user in range(USERS):
                of_day = answers[user][(start_of(offset) <= times[user]) & (times[user] < start_of(offset + 1))]
                means.append(f"u{user},{of_day.mean() if len(of_day) else ''}")
            # What comes too early need only be there for the test window: each file costs a build a scan.
            early = [("shifted", -1, "next_mean")] if offset >= 0 else []
            for folder, shift, name in (("daily", 0, "day_mean"), *early):
                day = DATE + dt.timedelta(days=offset + shift)
                self.write(f"{folder}/{day}.csv", f"user,{name}\n" + "\n".join(means))
