"""A generated feed with every kind of source, feature and negatives, and what its samples have to hold.

The answers come from plain looks at the raw rows, without the code under test.
"""

from __future__ import annotations

import copy
import datetime as dt
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.samples.feed import DATE, ZONE, TinyFeed

HOUR, DAY = 3_600_000, 86_400_000
USERS, ITEMS, EVENTS = 40, 30, 1200
GROUPS = ["north", "south", "", "west"]
TOPICS = ["a", "b", "c", "d", None]
FIRST = dt.date(2024, 1, 5)


def start_of(day: int) -> int:
    """Unix milliseconds of a January day's start in the feed's time zone."""
    return int(dt.datetime(2024, 1, day, tzinfo=ZONE).timestamp()) * 1000


CONFIG: dict[str, Any] = {
    "name": "rich",
    "date": DATE,
    "timezone": ZONE.key,
    "window": {"train_days": 3, "test_days": 1},
    "sources": {
        "feed": {
            "path": "{data}/feed/{date}.parquet", "format": "parquet", "user": "client_id", "item": "post_id",
            "time": "time", "label": "act", "weight": "1 + act",
            "targets": {"watch": "watch", "like": "act * 0.5"},
        },
        "likes": {
            "path": "{data}/likes.jsonl", "format": "json", "user": "who", "item": "what", "time": "when",
            "time_unit": "s", "roles": ["train"], "check_upload": False, "targets": {"share": "shared"},
        },
    },
    "targets": {"watch": {"low": 0, "high": 60}},
    "profiles": {
        "clients": {"path": "{data}/clients.csv", "key": "id", "as_of": "taken", "as_of_unit": "s"},
        "daily": {"path": "{data}/daily/{date}.csv", "key": "id"},
    },
    "catalogue": {
        "path": "{data}/posts.csv", "key": "post_id", "latest_by": "version", "upload_time": "uploaded",
        "upload_unit": "ms",
    },
    "vectors": {
        "small": {"path": "{data}/small.jsonl", "width": 2},
        "large": {"path": "{data}/large.parquet", "format": "parquet", "key": "id", "width": 3, "storage": "table"},
    },
    "histories": {
        "clicks": {"sources": ["feed"], "last": 4},
        "recent": {"sources": ["feed", "likes"], "last": 6, "days": 1, "positives": False},
    },
    "counters": {
        "views": {"side": "user", "sources": ["feed"], "days": 1, "count": "events"},
        "user_rate": {"side": "user", "sources": ["feed"], "days": 2, "count": "rate", "prior": 0.3, "strength": 5},
        "item_rate": {"side": "item", "sources": ["feed"], "days": 2, "count": "rate", "prior": 0.3, "strength": 5},
        "item_clicks": {"side": "item", "sources": ["feed", "likes"], "days": 1, "count": "positives"},
    },
    "features": {
        "client_id": {"kind": "SparseFeat", "side": "user", "min_count": 3},
        "city": {"kind": "SparseFeat", "side": "user"},
        "age": {"kind": "DenseFeat", "side": "user", "transform": "standard"},
        "age_group": {"kind": "SparseFeat", "side": "user", "column": "age", "quantiles": 4},
        "score": {"kind": "DenseFeat", "side": "user", "transform": "minmax", "null": 0},
        "tags": {"kind": "VarLenSparseFeat", "side": "user", "maxlen": 3, "weighted": True, "hash_buckets": 20},
        "hour": {"kind": "SparseFeat", "side": "user", "time": "hour"},
        "weekday": {"kind": "SparseFeat", "side": "user", "time": "weekday"},
        "click_history": {
            "kind": "VarLenSparseFeat", "side": "user", "column": "clicks", "maxlen": 4, "share_embedding": "post_id",
        },
        "recent_history": {
            "kind": "VarLenSparseFeat", "side": "user", "column": "recent", "maxlen": 6, "share_embedding": "post_id",
        },
        "fav_topic": {
            "kind": "VarLenSparseFeat", "side": "user", "column": "clicks", "maxlen": 3, "weighted": True,
            "of": "topic", "share_embedding": "topic",
        },
        "topics_today": {
            "kind": "VarLenSparseFeat", "side": "user", "column": "recent", "maxlen": 2, "weighted": True,
            "of": "topic", "share_embedding": "topic",
        },
        "click_small": {
            "kind": "DenseFeat", "side": "user", "column": "clicks", "pre_embed": "small", "reduce_type": "mean",
        },
        "recent_large": {
            "kind": "DenseFeat", "side": "user", "column": "recent", "pre_embed": "large", "reduce_type": "mean",
            "maxlen": 3,
        },
        "view_count": {"kind": "DenseFeat", "side": "user", "column": "views"},
        "click_rate": {"kind": "DenseFeat", "side": "user", "column": "user_rate"},
        "post_id": {"kind": "SparseFeat", "side": "item"},
        "topic": {"kind": "SparseFeat", "side": "item", "max_size": 3},
        "title": {"kind": "TextFeat", "side": "item", "maxlen": 12, "hash_buckets": 50},
        "price": {"kind": "DenseFeat", "side": "item", "transform": "standard"},
        "price_range": {"kind": "SparseFeat", "side": "item", "column": "price", "boundaries": [2, 5]},
        "price_group": {"kind": "SparseFeat", "side": "item", "column": "price", "quantiles": 3},
        "post_small": {"kind": "DenseFeat", "side": "item", "column": "post_id", "pre_embed": "small"},
        "post_large": {"kind": "DenseFeat", "side": "item", "column": "post_id", "pre_embed": "large"},
        "rate_so_far": {"kind": "DenseFeat", "side": "item", "column": "item_rate"},
        "clicks_so_far": {"kind": "DenseFeat", "side": "item", "column": "item_clicks"},
        "days_up": {"kind": "DenseFeat", "side": "item", "time": "days_since_upload", "null": -9},
    },
    "samples": {
        "rows_per_file": 100, "max_quarantine_share": 0.1, "shuffle_partitions": 2, "train_rows": "all",
        "unclicked_share": 0.8, "unclicked_weight": 0.5, "popular_threshold": 0.05, "max_positives_per_user": 12,
        "negatives": {
            "any": {"kind": "uniform", "count": 2},
            "popular": {"kind": "popularity", "count": 1},
            "damped": {"kind": "suppressed", "count": 1, "threshold": 0.01},
            "near": {"kind": "group", "count": 1, "column": "city"},
            "shown": {"kind": "unclicked", "count": 2, "pool": 5},
            "hard": {
                "kind": "hard", "count": 2, "items": "{data}/published/items", "users": "{data}/published/users",
                "ranks": [2, 9],
            },
        },
    },
    "train": {"loss": "weighted_bce"},
}  # fmt: skip


def score(user: int, day: int) -> int:
    """Returns what the daily profile of every third user says."""
    return day + user % 5


class Click(NamedTuple):
    source: str
    user: str
    item: int
    time: int
    act: int
    watch: float | None = None


@dataclass
class RichFeed(TinyFeed):
    """The feed's files and its raw rows.

    Attributes:
      clicks: rows of the logs that are readable and of items in the catalogue.
      posts: by place in the catalogue: id, topic, price, uploaded (ms; None: always), city.
      clients: (user, taken ms, city, age), ascending by time.
    """

    config: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(CONFIG))
    clicks: list[Click] = field(default_factory=list)
    posts: list[dict[str, Any]] = field(default_factory=list)
    clients: list[tuple[str, int, str, int | None]] = field(default_factory=list)

    @property
    def samples(self) -> Path:
        return self.folder / "runs" / self.config["name"] / self.config["date"].isoformat() / "samples"

    # What is known -------------------------------------------------------------------------------------

    @property
    def read(self) -> list[Click]:
        """What a build reads: of the log in days' files, those of the windows and of the 2 days that counters see."""
        day = self.config["date"].day
        begin, end = start_of(day - 5), start_of(day + 1)
        return [c for c in self.clicks if c.source == "likes" or begin <= c.time < end]

    def too_early(self, click: Click) -> bool:
        uploaded = self.posts[click.item]["uploaded"]
        return click.source == "feed" and uploaded is not None and uploaded > click.time

    def before(self, user: str, time: int, sources: str, days: int | None = None) -> list[Click]:
        """Returns what a user did strictly before a time, newest first."""
        mine = [c for c in self.read if c.user == user and c.time < time and c.source in sources.split()]
        mine = [c for c in mine if not self.too_early(c) and (days is None or c.time >= time - days * DAY)]
        return sorted(mine, key=lambda c: (c.time, c.item))[::-1]

    def client(self, user: str, time: int) -> tuple[str | None, int | None]:
        """Returns the city and age of the newest snapshot before a time."""
        seen = [row for row in self.clients if row[0] == user and row[1] < time]
        return seen[-1][2:] if seen else (None, None)

    def on_days(self, item: int, time: int, sources: str, days: int) -> tuple[int, int]:
        """Returns an item's events and positives on the whole days before that of a time."""
        today = start_of((dt.datetime.fromtimestamp(time / 1000, ZONE)).day)
        found = [c for c in self.read if c.item == item and c.source in sources.split() and not self.too_early(c)]
        found = [c for c in found if today - days * DAY <= c.time < today]
        return len(found), sum(c.act for c in found)

    def item_counters(self, item: int, time: int) -> tuple[float, float]:
        events, positives = self.on_days(item, time, "feed", 2)
        return (positives + 0.3 * 5) / (events + 5), self.on_days(item, time, "feed likes", 1)[1]

    def days_up(self, item: int, time: int) -> float:
        uploaded = self.posts[item]["uploaded"]
        return -9.0 if uploaded is None else max(time - uploaded, 0) / DAY

    def user_features(self, user: str, time: int) -> dict[str, Any]:
        """Returns what the features say, ids of posts as places in the catalogue."""
        clicks = [c.item for c in self.before(user, time, "feed") if c.act][:4]
        rated = self.before(user, time, "feed", days=2)
        recent = [c.item for c in self.before(user, time, "feed likes", days=1)][:6]
        when = dt.datetime.fromtimestamp(time / 1000, ZONE)
        return {
            "city": self.client(user, time)[0],
            "age": self.client(user, time)[1],
            "hour": when.hour,
            "weekday": when.weekday(),
            "clicks": clicks,
            "recent": recent,
            "topics": Counter(self.posts[item]["topic"] for item in clicks),
            "topics_today": Counter(self.posts[item]["topic"] for item in recent),
            "views": len(self.before(user, time, "feed", days=1)),
            "rate": (sum(c.act for c in rated) + 0.3 * 5) / (len(rated) + 5),
        }

    # Files ---------------------------------------------------------------------------------------------

    def write_all(self) -> None:
        random = np.random.default_rng(11)
        self._write_posts(random)
        self._write_logs(random)
        self._write_profiles(random)
        self._write_vectors(random)

    def _write_posts(self, random: np.random.Generator) -> None:
        lines = ["post_id,topic,title,price,uploaded,city,version"]
        for place in range(ITEMS):
            uploaded = None if place % 4 else start_of(6) + int(random.integers(0, 4 * 24)) * HOUR
            post = {
                "id": f"p{place:02}",
                "topic": TOPICS[int(random.integers(len(TOPICS)))],
                "price": None if place % 7 == 3 else float(random.integers(1, 9)),
                "uploaded": uploaded,
                "city": GROUPS[place % len(GROUPS)],
            }
            self.posts.append(post)
            values = [post["topic"] or "", f"Post №{place} of {post['topic']}", post["price"] or "", uploaded or ""]
            lines += [f"{post['id']},{','.join(map(str, values))},{post['city']},{version}" for version in (2, 10)]
            lines[-2] = f"{post['id']},old,old,1,,north,2"
        self.write("posts.csv", "\n".join(lines) + "\np99,a,t,dear,,north,1\n")

    def _write_logs(self, random: np.random.Generator) -> None:
        popular = 1 / np.arange(1, ITEMS + 1)
        seen = set()
        while len(self.clicks) < EVENTS:
            source = "feed" if random.random() < 0.8 else "likes"
            user, item = int(random.integers(USERS)), int(random.choice(ITEMS, p=popular / popular.sum()))
            # Several at the same time are common: an hour holds what a list of results showed.
            time = start_of(5) + int(random.integers(6 * 24)) * HOUR
            if time < start_of(10):  # some users and items are new on the last day
                user, item = min(user, USERS - 6), item % (ITEMS - 3)
            elif random.random() < 0.4:
                user, item = USERS - 1 - user % 3, ITEMS - 1 - item % 3
            if (source, user, item, time) not in seen:
                seen.add((source, user, item, time))
                act = int(random.random() < 0.4) if source == "feed" else 1
                watch = None if random.random() < 0.2 else float(random.integers(61))
                self.clicks.append(Click(source, str(user), item, time, act, watch if source == "feed" else None))
        (self.folder / "feed").mkdir(parents=True)
        for day in range(5, 12):
            of_day = [c for c in self.clicks if c.source == "feed" and start_of(day) <= c.time < start_of(day + 1)]
            rows = [(int(c.user), f"p{c.item:02}", c.time, c.act, c.watch) for c in of_day]
            rows += [(1, "p01", start_of(day), 1, 60.5), (1, "nowhere", start_of(day), 1, 0.0)]
            names = ("client_id", "post_id", "time", "act", "watch")
            kinds = (pa.int64(), pa.string(), pa.int64(), pa.int32(), pa.float64())
            columns = [pa.array(c, kind) for c, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
            pq.write_table(pa.table(columns, list(names)), self.folder / "feed" / f"2024-01-{day:02}.parquet")
        likes = [
            {"who": c.user, "what": f"p{c.item:02}", "when": c.time // 1000, "shared": c.item % 2}
            for c in self.clicks
            if c.source == "likes"
        ]
        likes += [{"who": "1", "what": "p01", "when": "soon"}]
        self.write("likes.jsonl", "".join(json.dumps(row) + "\n" for row in likes))

    def _write_profiles(self, random: np.random.Generator) -> None:
        for user in range(0, USERS, 2):
            for taken in sorted(random.choice(5 * 24, 3, replace=False).tolist()):
                age = None if random.random() < 0.2 else int(random.integers(10, 80))
                city = str(random.choice(["x", "y", "z"]))
                self.clients.append((str(user), start_of(5) + taken * HOUR, city, age))
        rows = [
            f"{user},{taken // 1000},{city},{'' if age is None else age}" for user, taken, city, age in self.clients
        ]
        self.write("clients.csv", "id,taken,city,age\n" + "\n".join([*rows, "5,,x,3", "6,soon,x,3"]))
        for day in (6, 8, 9):
            lines = [f'{user},{score(user, day)},"t{user % 5}:1,t{day}:0.5"\n' for user in range(0, USERS, 3)]
            self.write(f"daily/2024-01-{day:02}.csv", "id,score,tags\n" + "".join(lines))

    def _write_vectors(self, random: np.random.Generator) -> None:
        small = [
            {"post_id": f"p{place:02}", "values": random.normal(size=2).round(3).tolist()} for place in range(ITEMS - 5)
        ]
        self.write("small.jsonl", "".join(json.dumps(row) + "\n" for row in small))
        ids = [f"p{place:02}" for place in range(2, ITEMS)] + ["gone"]
        values = pa.array(random.normal(size=(len(ids), 3)).tolist(), pa.list_(pa.float64()))
        pq.write_table(pa.table({"id": ids, "values": values}), self.folder / "large.parquet")
        for part, key, of in (("items", "item_id", ids[:-4]), ("users", "user_id", ["1", "2", "3"])):
            (self.folder / "published" / part).mkdir(parents=True)
            vectors = pa.array(random.normal(size=(len(of), 3)).tolist(), pa.list_(pa.float32()))
            pq.write_table(pa.table({key: of, "vector": vectors}), self.folder / "published" / part / "a.parquet")


def write_rich_feed(folder: Path) -> RichFeed:
    feed = RichFeed(folder)
    feed.write_all()
    return feed
