"""score_items: a vector for every item of the catalogue, checked, then published."""

from __future__ import annotations

from pyspark.sql import SparkSession

from dssm.config import Settings
from dssm.published import Published
from dssm.scoring.score import publish_vectors


def score_items(spark: SparkSession, settings: Settings, force: bool = False) -> Published:
    """Publishes the item table's partition of the date; see `publish_vectors`."""
    return publish_vectors(spark, settings, "items", force)
