"""The reader of a tiny feed's tables, and builds that several modules look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.samples.feed import TinyFeed, build, write_tiny_feed
from tests.samples.reading import Reader
from tests.samples.rich import write_rich_feed
from tests.samples.rich_build import RichBuild

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture
def reader(spark: SparkSession, tiny_feed: TinyFeed) -> Reader:
    return Reader(spark, tiny_feed)


@pytest.fixture(scope="session")
def tiny_build(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> TinyFeed:
    """The tiny feed, built; whoever builds it again leaves the same files."""
    feed = write_tiny_feed(tmp_path_factory.mktemp("tiny"))
    build(spark, feed)
    return feed


@pytest.fixture(scope="session")
def rich_build(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> RichBuild:
    """The rich feed, built; whoever builds it again leaves the same files."""
    feed = write_rich_feed(tmp_path_factory.mktemp("rich"))
    return RichBuild(feed, build(spark, feed))
