"""The small feed, written once, and its log."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import csv

from dssm.demo.files import make_feed
from tests.demo.feeds import SMALL


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("feed") / "small"
    make_feed(SMALL, str(folder))
    return folder


@pytest.fixture(scope="session")
def log(folder: Path) -> dict[str, pa.Table]:
    """The events by day, as read from the files."""
    return {path.parent.name[3:]: csv.read_csv(path) for path in sorted(folder.glob("events/dt=*/part-*.csv"))}
