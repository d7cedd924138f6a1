"""Samples that are there already: whether a date is complete, and what a build takes of an earlier run."""

from __future__ import annotations

import datetime as dt

from pyspark.sql import SparkSession

from dssm import storage
from dssm.config import Settings
from dssm.errors import UserError
from dssm.manifest import MANIFEST, Manifest, Statistics, read_manifest, read_settings
from dssm.paths import RunPaths, earlier_run
from dssm.samples.vocabulary import needs_statistics
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
    """Returns the days without files when the run's samples were made, as (source, day)."""
    manifest = read_manifest(RunPaths(settings.run_folder).samples, MADE_BY)
    days = {name: manifest.sources[f"sources.{name}"].missing_days for name in settings.sources}
    return [(name, dt.date.fromisoformat(day)) for name, of_source in days.items() for day in of_source]


def came_late(spark: SparkSession, settings: Settings, source: str, day: dt.date) -> bool:
    """Whether a source's day that was missing has files by now."""
    path = settings.for_date(day).expand(settings.sources[source].path or "")[0]
    return matches(spark, f"sources.{source}.path", storage.absolute(path))


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
