"""This project's side: the settings of the same work, and its run as a user runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from benchmarks.samples.feed import EVENTS, ITEMS, USERS
from benchmarks.samples.task import (
    AUTHOR,
    AUTHOR_MIN_COUNT,
    DATE,
    EXPONENT,
    HISTORY,
    ITEM_DENSE,
    ITEM_ID,
    ITEM_SPARSE,
    NEGATIVES,
    TAGS,
    TAGS_KEPT,
    TIMEZONE,
    USER_DENSE,
    USER_ID,
    USER_MIN_COUNT,
    USER_SPARSE,
)


def settings(feed: Path, work: Path, rows: str) -> dict[str, Any]:
    """Returns the settings of a run whose files and Spark event log go below `work`."""
    user, item, sparse = {"side": "user"}, {"side": "item"}, {"kind": "SparseFeat", "dim": 8}
    dense = {"kind": "DenseFeat", "transform": "log1p"}
    return {
        "name": "bench",
        "date": DATE,
        "timezone": TIMEZONE,
        "root": str(work / "runs"),
        "window": {"train_days": 60, "test_days": 2},
        "sources": {
            "events": {
                "path": str(feed / EVENTS),
                "format": "parquet",
                "user": USER_ID,
                "item": ITEM_ID,
                "time": "time_ms",
                "label": "is_click",
            }
        },
        "profiles": {"users": {"path": str(feed / USERS), "format": "parquet", "key": USER_ID}},
        "catalogue": {"path": str(feed / ITEMS), "format": "parquet", "key": ITEM_ID},
        "histories": {"clicks": {"sources": ["events"], "last": HISTORY}},
        "features": {
            USER_ID: user | sparse | {"min_count": USER_MIN_COUNT},
            **dict.fromkeys(USER_SPARSE, user | sparse),
            USER_DENSE: user | dense,
            "clicks": user | {"kind": "VarLenSparseFeat", "maxlen": HISTORY, "share_embedding": ITEM_ID, "dim": 8},
            ITEM_ID: item | sparse,
            AUTHOR: item | sparse | {"min_count": AUTHOR_MIN_COUNT},
            TAGS: item | {"kind": "VarLenSparseFeat", "maxlen": TAGS_KEPT, "dim": 8},
            **dict.fromkeys(ITEM_SPARSE, item | sparse),
            ITEM_DENSE: item | dense,
        },
        "samples": {
            "train_rows": rows,
            "negatives": {"popular": {"kind": "popularity", "exponent": EXPONENT, "count": NEGATIVES}},
        },
        "train": {"loss": "weighted_bce"},
        "item_table": {"metastore": None},
        "spark": {
            "conf": {
                "spark.eventLog.enabled": True,
                "spark.eventLog.dir": (work / "log").absolute().as_uri(),
                "spark.eventLog.compress": False,
                "spark.eventLog.rolling.enabled": False,
            }
        },
    }


def write_settings(feed: Path, work: Path, rows: str) -> Path:
    """Writes the settings' file, and makes the folder that Spark wants for its event log. Returns the file."""
    (work / "log").mkdir(parents=True)
    path = work / "bench.yaml"
    path.write_text(yaml.safe_dump(settings(feed, work, rows), sort_keys=False), encoding="utf-8")
    return path


def seconds_in_session(output: str) -> float:
    """Returns the seconds that the job measured itself, from the moment its Spark session was there.

    >>> seconds_in_session("build_samples: 46 s, largest process 1.00 GiB (java)")
    46.0
    """
    found = re.search(r"build_samples: ([\d.]+) s", output)
    if found is None:
        raise RuntimeError(f"build_samples printed no seconds:\n{output[-4000:]}")
    return float(found[1])


def train_rows(work: Path) -> int:
    manifest = work / "runs" / "bench" / DATE.isoformat() / "samples" / "train" / "manifest.json"
    return sum(file["rows"] for file in json.loads(manifest.read_text(encoding="utf-8"))["files"])


def event_log(work: Path) -> list[str]:
    """Returns the lines of a finished run's event log."""
    (path,) = (work / "log").iterdir()
    return path.read_text(encoding="utf-8").splitlines()
