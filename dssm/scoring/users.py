"""score_users: a vector for every user of the samples, checked, then published."""

from __future__ import annotations

from pyspark.sql import SparkSession

from dssm.config import Settings
from dssm.published import Published
from dssm.scoring.score import publish_vectors


def score_users(spark: SparkSession, settings: Settings, force: bool = False) -> Published:
    """Publishes the user table's partition of the date; see `publish_vectors`."""
    return publish_vectors(spark, settings, "users", force)
