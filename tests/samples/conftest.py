"""The reader of a tiny feed's tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.samples.feed import TinyFeed
from tests.samples.reading import Reader

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture
def reader(spark: SparkSession, tiny_feed: TinyFeed) -> Reader:
    return Reader(spark, tiny_feed)
