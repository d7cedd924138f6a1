"""The newest day of a path that has one folder or file a day."""

from __future__ import annotations

import datetime as dt

from pyspark.sql import SparkSession

from dssm import storage
from dssm.config import DAY, Settings
from dssm.spark import matches

LOOK_BACK_DAYS = 60  # within which the newest day's snapshot or vectors are looked for


def newest_day(spark: SparkSession, settings: Settings, name: str, path: str, before: dt.date) -> dt.date | None:
    """Returns the newest of the LOOK_BACK_DAYS before a day whose files are there; only looks them up.

    Args:
      name: the setting of the path.
      path: holds {date}.
    """
    days = (before - offset * DAY for offset in range(1, LOOK_BACK_DAYS + 1))
    return next((day for day in days if matches(spark, name, on_day(settings, path, day))), None)


def on_day(settings: Settings, path: str, day: dt.date) -> str:
    return storage.absolute(settings.for_date(day).expand(path)[0])
