"""What a service would send of the demo's test rows: profiles and catalogue as in the files, clicks from the log."""

from __future__ import annotations

import csv
import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from dssm.config import Settings
from dssm.features import Side, of_side
from dssm.manifest import EVENT_TIME, ITEM_ID, LABEL, USER_ID, data_files, encoded_columns, read_manifest, target_column
from dssm.packing import unpack
from dssm.paths import RunPaths


class DemoRows:
    """The test rows of a run on the demo's feed, as they were before they were encoded, and as they are now."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        data = Path(str(settings.data))
        self._clients = _by_key(data / "clients.csv", "client_id")
        self._reads = _by_key(data / "reads.csv", "client_id")
        self._posts = _by_key(data / "posts.csv", "post_id")
        days = [settings.date - dt.timedelta(days=back) for back in range(settings.window.train_days + 1)]
        self._clicks: dict[str, list[tuple[int, str]]] = defaultdict(list)  # by client: (time, post), newest first
        for day in days:
            for path in sorted((data / f"events/dt={day}").glob("*.csv")):
                for event in _rows(path):
                    if event["act"] == "1":
                        self._clicks[event["client_id"]].append((int(event["time"]), event["post_id"]))
        for clicks in self._clicks.values():
            clicks.sort(reverse=True)
        folder = RunPaths(settings.run_folder).part("test")
        self._manifest = read_manifest(folder, "build_samples")
        tables = [pq.read_table(file) for file in data_files(folder, self._manifest)]
        self._table = {name: [part[name] for part in tables] for name in self._manifest.columns}

    def labels(self, name: str = "label") -> np.ndarray:
        """Returns the sources' own label of each row, or one of their targets, (rows,); NaN where it is not known."""
        column = LABEL if name == "label" else target_column(name)
        return np.concatenate([part.to_numpy() for part in self._table[column]])

    def encoded(self, side: Side) -> dict[str, np.ndarray]:
        """Returns the columns of a side as the samples have them, each (rows, *shape)."""
        return {
            name: np.concatenate([unpack(part.combine_chunks(), spec) for part in self._table[name]])
            for feature in of_side(self._settings.features, side)
            for name, spec in encoded_columns(feature, self._settings.vectors).items()
        }

    def raw(self, side: Side) -> list[dict[str, Any]]:
        """Returns the rows of a side as the raw tower takes them."""
        keys = (USER_ID, ITEM_ID, EVENT_TIME)
        rows = zip(*([value for part in self._table[key] for value in part.to_pylist()] for key in keys), strict=True)
        return [self._user(user, time) if side == "user" else self._item(item) for user, item, time in rows]

    def _user(self, user: str, time: int) -> dict[str, Any]:
        profile: Mapping[str, Any] = {**self._clients.get(user, {}), **self._reads.get(user, {}), "client_id": user}
        made: dict[str, Any] = {}
        for feature in of_side(self._settings.features, "user"):
            history = self._settings.histories.get(feature.source_column)
            if history is None:
                value = profile.get(feature.source_column)
                made[feature.name] = (float(value) if value else None) if feature.name == "age_days" else value
                continue
            before = [post for when, post in self._clicks[user] if when < time]
            older = str(profile.get(history.then) or "").split(",") if history.then else []
            posts = [post for post in [*before, *older] if post][: history.last]
            if feature.name == "history_topics":
                topics = Counter(self._posts[post]["topic_id"] for post in posts)
                made[feature.name] = ",".join(f"{topic}:{count}" for topic, count in topics.items())
            else:
                made[feature.name] = posts
        return made

    def _item(self, item: str) -> dict[str, Any]:
        post = self._posts[item]
        made: dict[str, Any] = {f.name: post[f.source_column] for f in of_side(self._settings.features, "item")}
        return made | ({"length_s": float(post["length_s"])} if "length_s" in made else {})


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def _by_key(path: Path, key: str) -> dict[str, dict[str, str]]:
    return {row[key]: row for row in _rows(path)}
