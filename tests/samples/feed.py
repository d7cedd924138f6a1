"""A feed small enough to work out by hand: three users with a past, one without, five posts."""

from __future__ import annotations

import copy
import datetime as dt
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dssm import storage
from dssm.config import Settings
from dssm.manifest import ALWAYS, UPLOAD_TIME, ColumnSpec, Manifest, data_files, read_manifest
from dssm.packing import unpack

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from dssm.samples.event_logs import EventLog
    from dssm.samples.sources import Quarantine

ZONE = ZoneInfo("Asia/Shanghai")
DATE = dt.date(2024, 1, 10)

CONFIG: dict[str, Any] = {
    "name": "tiny",
    "date": DATE,
    "timezone": ZONE.key,
    "window": {"train_days": 3, "test_days": 1},
    "sources": {
        "feed": {
            "path": "{data}/feed/dt={date}/*",
            "user": "client_id",
            "item": "post_id",
            "time": "time",
            "label": "act",
            "weight": "1 + dwell",
            "where": "channel != 'ad'",
        },
        "likes": {
            "path": "{data}/likes.jsonl",
            "format": "json",
            "user": "who",
            "item": "what",
            "time": "when",
            "time_unit": "iso",
            "roles": ["train"],
        },
    },
    "profiles": {
        "clients": {"path": "{data}/clients.csv", "key": "id"},
        "reads": {
            "path": "{data}/reads.parquet",
            "format": "parquet",
            "key": "client_id",
            "available_from": dt.date(2024, 1, 8),
        },
    },
    "catalogue": {"path": "{data}/posts-*.csv", "key": "post_id", "title": "topic_id"},
    "vectors": {"post": {"path": "{data}/vectors.jsonl", "width": 2}},
    "histories": {
        "clicks": {"sources": ["feed"], "last": 3, "then": "read_post_id"},
        "touched": {"sources": ["feed", "likes"], "last": 2, "positives": False},
    },
    "features": {
        "client_id": {"kind": "SparseFeat", "side": "user", "min_count": 3},
        "client_type": {"kind": "SparseFeat", "side": "user"},
        "age": {"kind": "DenseFeat", "side": "user", "transform": "log1p"},
        "follow": {"kind": "VarLenSparseFeat", "side": "user", "maxlen": 2, "share_embedding": "topic_id"},
        "fav": {
            "kind": "VarLenSparseFeat",
            "side": "user",
            "maxlen": 2,
            "weighted": True,
            "share_embedding": "topic_id",
        },
        "click_history": {
            "kind": "VarLenSparseFeat",
            "side": "user",
            "column": "clicks",
            "maxlen": 3,
            "share_embedding": "post_id",
        },
        "touch_history": {
            "kind": "VarLenSparseFeat",
            "side": "user",
            "column": "touched",
            "maxlen": 3,
            "share_embedding": "post_id",
        },
        "click_embed": {
            "kind": "DenseFeat",
            "side": "user",
            "column": "clicks",
            "pre_embed": "post",
            "reduce_type": "mean",
        },
        "post_id": {"kind": "SparseFeat", "side": "item"},
        "topic_id": {"kind": "SparseFeat", "side": "item", "max_size": 2},
        "length": {"kind": "DenseFeat", "side": "item"},
        "post_embed": {"kind": "DenseFeat", "side": "item", "column": "post_id", "pre_embed": "post"},
    },
    "samples": {"rows_per_file": 4, "max_quarantine_share": 0.8, "shuffle_partitions": 2},
}


def ms(day: int, hour: int) -> int:
    """Unix milliseconds of an hour of January 2024 in the feed's time zone."""
    return int(dt.datetime(2024, 1, day, hour, tzinfo=ZONE).timestamp() * 1000)


HEADER = "client_id,post_id,time,act,dwell,channel\n"
FIRST_DAY = f"""\
007,p1,{ms(6, 23)},1,0,home
007,p2,{ms(7, 10)},1,4,home
007,p3,{ms(7, 10)},0,0,home
007,p4,{ms(7, 11)},1,0,ad
7,p1,{ms(7, 12)},1,1,home
ユ,p1,{ms(7, 13)},1,0,home
7,ghost,{ms(7, 14)},1,0,home
7,p1
7,p1,{ms(7, 15)},1,0,home,more
7,p1,yesterday,1,0,home
7,p1,{ms(7, 15) * 1000},1,0,home
,p1,{ms(7, 15)},1,0,home
7, ,{ms(7, 15)},1,0,home
7,p1,{ms(7, 15)},1,NaN,home
7,p1,{ms(7, 15)},1,-2,home
7,p1,{ms(7, 15)},yes,0,home
"""
LAST_TRAIN_DAY = f"""\
007,p3,{ms(9, 9)},1,1,home
007,p1,{ms(9, 9)},1,0,home
ユ,p2,{ms(9, 10)},1,0,home
"""
TEST_DAY = f"""\
007,p4,{ms(10, 8)},1,2,home
007,p2,{ms(10, 9)},0,0,home
new,p1,{ms(10, 10)},1,0,home
7,p1,{ms(11, 0)},1,0,home
"""
LIKES = """\
{"who": "7", "what": "p2", "when": "2024-01-09 12:00:00"}
{"who": "7", "what": "p3", "when": "2024-01-10 05:00:00"}
{"who": "7", "what": "p1", "when": "soon"}
{"who": "7", "wha
"""
CLIENTS = """\
id,client_type,age,follow,fav
007,a,7,"1,2,1","1:0.5,9:+2"
7,b,,,
ユ,a, ,"2,\t9,","2:1"
8,a,old,1,1:1
9,a,inf,1,1:1
10,a,1d,1,1:1
11,a,1,1,1:x
12,a,1,1,"1:1,:2"
13,a,1,1,1:1e99
14,a,1,1
"""
READS = {"client_id": ["007", "ユ"], "read_post_id": [["p4", " ", None, "gone"], []]}
POSTS_A = """\
post_id,topic_id,length
p1,1,3
p2,2,+1.5
,1,1
"""
POSTS_B = """\
post_id,topic_id,length
p3,1,
p4,3,10
p5,,2
p6,2,long
"""
VECTORS = """\
{"post_id": "p1", "values": [1, 0]}
{"post_id": "p2", "values": [0, 2]}
{"post_id": "p4", "values": [3, 3]}
{"post_id": "p3", "values": [1]}
{"post_id": "p5", "values": [1, null]}
{"post_id": "p6", "values": [1, NaN]}
{"post_id": null, "values": [1, 1]}
{"post_id": "p7", "values": "x"}
"""


@dataclass
class TinyFeed:
    """The feed's folder, and the settings that read it."""

    folder: Path
    config: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(CONFIG))

    @property
    def samples(self) -> Path:
        return self.folder / "runs" / "tiny" / DATE.isoformat() / "samples"

    def settings(self) -> Settings:
        return Settings.model_validate({**self.config, "root": str(self.folder / "runs"), "data": str(self.folder)})

    def write(self, path: str, text: str) -> None:
        """Writes a file of the feed, gzipped where its name ends so."""
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        data = text.encode("utf-8")
        place.write_bytes(gzip.compress(data, mtime=0) if path.endswith(".gz") else data)


def write_tiny_feed(folder: Path) -> TinyFeed:
    feed = TinyFeed(folder)
    feed.write("feed/dt=2024-01-07/a.csv", HEADER + FIRST_DAY)
    feed.write("feed/dt=2024-01-09/a.csv.gz", HEADER + LAST_TRAIN_DAY)
    feed.write("feed/dt=2024-01-10/a.csv", HEADER + TEST_DAY)
    feed.write("likes.jsonl", LIKES)
    feed.write("clients.csv", CLIENTS)
    feed.write("posts-a.csv", POSTS_A)
    feed.write("posts-b.csv", POSTS_B)
    feed.write("vectors.jsonl", VECTORS)
    pq.write_table(pa.table(READS), folder / "reads.parquet")
    return feed


def build(spark: SparkSession, feed: TinyFeed) -> Manifest:
    """Builds the samples as the job does, in a session that is already there.

    Whatever the feed holds, every row of every table is accounted for.
    """
    from dssm.samples.build import build_samples

    settings = feed.settings()
    spark.conf.set("spark.sql.session.timeZone", settings.timezone)
    spark.conf.set("spark.sql.shuffle.partitions", str(settings.samples.shuffle_partitions))
    build_samples(spark, settings)
    manifest = read_manifest(str(feed.samples), "build_samples")
    check_counts(manifest, feed.samples)
    return manifest


def read_all_events(
    spark: SparkSession, feed: TinyFeed, items: Sequence[str] | Mapping[str, int]
) -> tuple[DataFrame, list[EventLog], Quarantine]:
    """Reads the logs and says what becomes of each row, as the job does, before rows are sampled and split.

    Args:
      items: ids of the catalogue, with the Unix ms of their upload where it is a mapping.
    Returns: the events, the logs, and the counts.
    """
    from dssm.samples.events import all_events, count_fates, count_read, read_logs
    from dssm.samples.items import with_item_index
    from dssm.samples.log import Log
    from dssm.samples.sources import ID, Quarantine

    settings = feed.settings()
    spark.conf.set("spark.sql.session.timeZone", settings.timezone)
    uploads = items if isinstance(items, Mapping) else dict.fromkeys(items, ALWAYS)
    catalogue = spark.createDataFrame(list(uploads.items()), f"`{ID}` string, `{UPLOAD_TIME}` bigint")
    quarantine = Quarantine(f"{feed.folder}/quarantine", settings.samples.max_quarantine_share)
    logs = read_logs(spark, settings)
    events = all_events(settings, logs, with_item_index(catalogue), broadcast=True)
    outcomes = Log(events, settings, logs).outcomes()
    count_read(outcomes, logs, quarantine)
    count_fates(outcomes, logs, quarantine)
    return events, logs, quarantine


def check_counts(manifest: Manifest, samples: Path) -> None:
    """Checks rows_read = Σ used + Σ filtered + Σ quarantined, and each of the three against what was written."""
    for name, counts in manifest.sources.items():
        fates = (counts.used, counts.filtered, counts.quarantined)
        assert counts.rows_read == sum(sum(fate.values()) for fate in fates), name
        assert all(reason and rows > 0 for fate in fates[1:] for reason, rows in fate.items()), name
        kept = Counter(row["reason"] for row in quarantined_rows(samples, name))
        assert kept == counts.quarantined, name
    for part in ("train", "test"):
        used = sum(counts.used.get(part, 0) for counts in manifest.sources.values())
        assert read_manifest(str(samples / part), "build_samples").rows == used, part
    assert read_manifest(str(samples / "items"), "").rows == manifest.sources["catalogue"].used["read"]


def quarantined_rows(samples: Path, name: str) -> list[dict[str, Any]]:
    """Returns what was quarantined of a table: `reason`, and the `row` as JSON."""
    path = samples / "quarantine" / f"{name}.json.gz"
    if not path.exists():
        return []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def read_part(feed: TinyFeed, part: str) -> list[dict[str, Any]]:
    """Returns a dataset's rows as Python values, packed columns as lists."""
    folder = str(feed.samples / part)
    manifest = read_manifest(folder, "build_samples")
    table = pa.concat_tables([pq.read_table(file) for file in data_files(folder, manifest)])
    assert table.num_rows == manifest.rows
    assert set(table.column_names) == set(manifest.columns)
    return decoded(table, manifest.columns)


def decoded(table: pa.Table, columns: Mapping[str, ColumnSpec]) -> list[dict[str, Any]]:
    """Returns encoded rows as Python values, packed columns as lists."""
    values = {}
    for name, spec in columns.items():
        column = table[name].combine_chunks()
        values[name] = unpack(column, spec).tolist() if spec.encoding == "packed" else column.to_pylist()
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def token_digest(tokens: list[str]) -> str:
    """Returns the digest of a vocabulary: of its tokens' lengths, and of their text."""
    text = [token.encode() for token in tokens]
    lengths = np.array([len(token) for token in text], "<i8")
    return storage.digest(hashlib.sha256(lengths.tobytes()).digest(), hashlib.sha256(b"".join(text)).digest())


def files_of(folder: Path) -> dict[str, bytes]:
    """Returns the bytes of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
