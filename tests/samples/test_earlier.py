"""Runs that are there already: whether one is complete, and where an earlier one lies."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from tests.samples.feed import DATE, TinyFeed


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
