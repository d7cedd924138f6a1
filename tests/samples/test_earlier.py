"""Runs that are there already: whether one is complete, and where an earlier one lies."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dssm.manifest import Manifest, SourceCounts, write_manifest
from tests.samples.feed import DATE, HEADER, TinyFeed

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.mark.spark
def test_a_run_is_complete_with_the_settings_it_was_made_with(tiny_build: TinyFeed) -> None:
    """How the work is parted is none of them."""
    from dssm.samples.earlier import is_complete

    def changed(**sections: Any) -> bool:
        feed = TinyFeed(tiny_build.folder)
        for section, values in sections.items():
            feed.config[section] = {**feed.config[section], **values} if isinstance(values, dict) else values
        return is_complete(feed.settings())

    assert changed()
    assert changed(samples={"shuffle_partitions": 9, "rows_per_task": 1, "broadcast_mb": 0})
    assert not changed(samples={"rows_per_file": 5})
    assert not changed(seed=1)
    assert not changed(window={"train_days": 2})
    assert not changed(date=DATE + dt.timedelta(days=1))  # there is none


def test_an_earlier_run_by_its_name_or_its_folder(tmp_path: Path) -> None:
    from dssm.samples.earlier import frozen_run

    feed = TinyFeed(tmp_path)
    (tmp_path / "runs" / "tiny" / "2024-01-09" / "samples").mkdir(parents=True)
    for run, folder in (
        ("tiny/2024-01-09", tmp_path / "runs" / "tiny" / "2024-01-09" / "samples"),
        (str(tmp_path / "elsewhere"), tmp_path / "elsewhere" / "samples"),
    ):
        feed.config["samples"]["vocabularies"] = {"run": run}
        assert frozen_run(feed.settings()) == str(folder)


@pytest.mark.spark
def test_days_of_logs_and_of_profiles_that_came_late(spark: SparkSession, tmp_path: Path) -> None:
    from dssm.samples.earlier import came_late, missing_days

    feed = TinyFeed(tmp_path)
    feed.config["profiles"]["clients"]["path"] = "{data}/clients/{date}.csv"
    missing = {"sources.feed": [8], "sources.likes": [], "profiles.clients": [7, 10], "profiles.reads": []}
    counts = {
        key: SourceCounts(place=key, rows_read=1, missing_days=[f"2024-01-{day:02}" for day in days])
        for key, days in missing.items()
    }
    feed.samples.mkdir(parents=True)
    write_manifest(str(feed.samples), Manifest(kind="samples", date="2024-01-10", build="b", seed=0, sources=counts))
    settings = feed.settings()
    # Not the profile's 10th, the windows' last day: its snapshot is seen from the 11th on.
    found = missing_days(settings)
    assert found == [("sources.feed", dt.date(2024, 1, 8)), ("profiles.clients", dt.date(2024, 1, 7))]
    assert [came_late(spark, settings, *day) for day in found] == [False, False]
    feed.write("clients/2024-01-07.csv", "id\nu\n")
    assert [came_late(spark, settings, *day) for day in found] == [False, True]
    feed.write("feed/dt=2024-01-08/a.csv", HEADER)
    assert [came_late(spark, settings, *day) for day in found] == [True, True]
