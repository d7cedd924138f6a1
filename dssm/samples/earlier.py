"""Samples that are there already: whether a date is complete, and what a build takes of an earlier run."""

from __future__ import annotations

import datetime as dt

from pyspark.sql import SparkSession

from dssm import storage
from dssm.config import Settings
from dssm.errors import UserError
from dssm.manifest import MANIFEST, Manifest, Statistics, read_manifest, read_settings
from dssm.paths import RunPaths, earlier_run
from dssm.samples.dated_paths import on_day
from dssm.samples.vocabulary import needs_statistics
from dssm.sections import Table
from dssm.spark import matches

MADE_BY = "build_samples"
# What the samples depend on: with other values a build is another one.
SECTIONS = (
    "seed", "timezone", "data", "window", "sources", "profiles", "catalogue", "targets", "features", "histories",
    "counters", "vectors", "samples",
)  # fmt: skip
# How the work is parted: the samples are the same with any of these.
HOW_NOT_WHAT = {"rows_per_task", "broadcast_mb", "max_quarantine_share", "shuffle_partitions"}


def content_of(settings: Settings) -> str:
    return settings.model_dump_json(include=set(SECTIONS), exclude={"samples": HOW_NOT_WHAT})


def is_complete(settings: Settings) -> bool:
    """Whether the run's samples are there, made with the same settings and, where they are frozen, vocabularies."""
    folder = RunPaths(settings.run_folder).samples
    if not storage.exists(f"{folder}/{MANIFEST}"):
        return False
    try:
        made_with = read_settings(folder, MADE_BY)
    except UserError:  # made by another version of this program
        return False
    if content_of(made_with) != content_of(settings):
        return False
    if settings.samples.vocabularies.run is None:
        return True
    earlier, ours = (read_manifest(place, MADE_BY) for place in (frozen_run(settings), folder))
    return ours.vocabularies_of == earlier.build


def missing_days(settings: Settings) -> list[tuple[str, dt.date]]:
    """Returns the days without files when the run's samples were made, as (table's key in the settings, day).

    Not a profile's last day, as of which no event of the windows would see it.
    """
    manifest = read_manifest(RunPaths(settings.run_folder).samples, MADE_BY)
    last = settings.window_days()[-1]
    tables = daily_tables(settings)
    days = [(key, dt.date.fromisoformat(day)) for key in tables for day in manifest.sources[key].missing_days]
    return [(key, day) for key, day in days if key.startswith("sources.") or day != last]


def came_late(spark: SparkSession, settings: Settings, key: str, day: dt.date) -> bool:
    """Whether a table's day that was missing has files by now."""
    path = daily_tables(settings)[key].path or ""
    return matches(spark, f"{key}.path", on_day(settings, path, day))


def daily_tables(settings: Settings) -> dict[str, Table]:
    """Returns the tables that may come in days' files, by their keys in the settings."""
    logs: dict[str, Table] = {f"sources.{name}": source for name, source in settings.sources.items()}
    return logs | {f"profiles.{name}": profile for name, profile in settings.profiles.items()}


def frozen_run(settings: Settings) -> str:
    """Returns the samples' folder of the run whose vocabularies are used."""
    run = settings.samples.vocabularies.run
    assert run is not None
    return earlier_run(settings.root, run).samples


def frozen_statistics(settings: Settings, manifest: Manifest, folder: str) -> dict[str, Statistics]:
    """Returns an earlier run's statistics of the features that need them.

    Raises: UserError where a feature has become another one since.
    """
    made_with = read_settings(folder, MADE_BY)
    found = {}
    for name, feature in settings.features.items():
        if not needs_statistics(feature) or name not in manifest.statistics:
            continue
        earlier = made_with.features.get(name)
        alike = earlier is not None and earlier.source_column == feature.source_column
        if not alike or getattr(earlier, "quantiles", None) != getattr(feature, "quantiles", None):
            raise UserError(
                f"features.{name}: another feature than in {folder}, whose statistics samples.vocabularies.run asks "
                "for; give it another name, or the column and quantiles that it has there"
            )
        found[name] = manifest.statistics[name]
    return found
