"""Reads the tables of a tiny feed one by one, and what is said of those that can't be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssm.errors import UserError
from dssm.manifest import SourceCounts
from tests.samples.feed import HEADER, TinyFeed, ms, read_all_events

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from dssm.samples.sources import Quarantine


class Reader:
    """Reads the tables of a feed one by one."""

    def __init__(self, spark: SparkSession, feed: TinyFeed) -> None:
        self.spark, self.feed = spark, feed
        self.quarantine: Quarantine | None = None

    def _start(self) -> tuple[Any, Quarantine]:
        from dssm.samples.sources import Quarantine

        settings = self.feed.settings()
        self.quarantine = Quarantine(f"{self.feed.folder}/quarantine", settings.samples.max_quarantine_share)
        self.spark.conf.set("spark.sql.session.timeZone", settings.timezone)
        return settings, self.quarantine

    def events(self) -> DataFrame:
        """Returns the readable rows of the log `feed`, those that its `where` leaves out included."""
        from dssm.samples.sources import REASON

        self.feed.config["sources"] = {"feed": self.feed.config["sources"]["feed"]}
        self.feed.config["histories"] = {}
        of_log = {"follow", "fav", "client_id", "post_id", "topic_id"}
        self.feed.config["features"] = {k: v for k, v in self.feed.config["features"].items() if k in of_log}
        _, (log,), self.quarantine = read_all_events(self.spark, self.feed, ["p1", "p2"])
        return log.rows.filter(log.rows[REASON].isNull())

    def catalogue(self) -> DataFrame:
        from dssm.samples.raw_columns import raw_item_features
        from dssm.samples.tables import read_catalogue

        settings, quarantine = self._start()
        return read_catalogue(self.spark, settings, raw_item_features(settings), quarantine)

    def profile(self, name: str = "clients") -> DataFrame:
        from dssm.samples.tables import read_profile

        settings, quarantine = self._start()
        users = [feature for feature in settings.features.values() if feature.side == "user"]
        return read_profile(self.spark, settings, name, users, quarantine)

    def vectors(self) -> DataFrame:
        from dssm.samples.vectors import read_vectors

        settings, quarantine = self._start()
        return read_vectors(self.spark, settings, "post", settings.vectors["post"], quarantine)

    def counts(self, name: str) -> SourceCounts:
        """Returns the counts of the table read last."""
        assert self.quarantine is not None
        counts = self.quarantine.counts[name]
        parts = (counts.used, counts.filtered, counts.quarantined)
        assert counts.rows_read == sum(sum(part.values()) for part in parts)
        return counts


def message(call: Any) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def log(*rows: str) -> str:
    return HEADER + "".join(f"{row}\n" for row in rows)


def write_parquet_log(feed: TinyFeed, rows: int = 2, **columns: Any) -> None:
    """Writes a log of one Parquet file, with some columns changed, and points the source to it."""
    usual: dict[str, Any] = {
        "client_id": [7] * rows,
        "post_id": ["p1"] * rows,
        "time": [ms(7, 1)] * rows,
        "act": [1] * rows,
        "dwell": [0] * rows,
        "channel": ["home"] * rows,
    }
    pq.write_table(pa.table(usual | columns), feed.folder / "log.parquet")
    feed.config["sources"]["feed"] |= {"path": "{data}/log.parquet", "format": "parquet"}
