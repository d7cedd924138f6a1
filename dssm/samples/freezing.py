"""What a build freezes on its training window, or takes of an earlier run: vocabularies and statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dssm.config import Settings
from dssm.console import step, warn
from dssm.features import embedded
from dssm.manifest import Statistics, VocabularySpec, read_manifest
from dssm.paths import VOCABULARIES, vocabulary_path
from dssm.samples.earlier import frozen_run, frozen_statistics
from dssm.samples.inputs import InputTables
from dssm.samples.log import Log
from dssm.samples.training_window import TrainingWindow
from dssm.samples.vocabulary import (
    check_same_ids,
    fixed_vocabularies,
    frozen_files,
    token_owners,
    write_vocabularies,
)


@dataclass(frozen=True)
class Frozen:
    """What is frozen.

    Attributes:
      vocabularies: of each embedded feature that owns one.
      files: of the vocabularies of tokens, name → Parquet file.
      statistics: by feature.
      vocabularies_of: the earlier run that they are taken of.
    """

    window: TrainingWindow
    vocabularies: Mapping[str, VocabularySpec]
    files: Mapping[str, str]
    statistics: Mapping[str, Statistics]
    vocabularies_of: str | None


def freeze(settings: Settings, tables: InputTables, log: Log, tasks: int, folder: str) -> Frozen:
    """Writes what the training window says of tokens and numbers, or takes an earlier run's.

    Args:
      tasks: of the user pass.
      folder: of the build.
    """
    with step("vocabularies") as remarks:
        window = TrainingWindow(settings, log, tasks, tables.catalogue, tables.profiles, tables.providers)
        owners = token_owners(settings.features)
        frozen: dict[str, str] = {}
        statistics: dict[str, Statistics] = {}
        earlier, manifest = "", None
        if settings.samples.vocabularies.run is not None:
            earlier = frozen_run(settings)
            manifest = read_manifest(earlier, "build_samples")
            frozen = frozen_files(manifest, earlier, owners)
            statistics = frozen_statistics(settings, manifest, earlier)
        if missing := [n for n in window.statistics_needed() if n not in statistics]:
            found = window.statistics()
            statistics |= {name: found[name] for name in missing}
        fixed = fixed_vocabularies(settings.features, statistics)
        if manifest is not None:
            check_same_ids(manifest, earlier, fixed)
        counted: dict[str, VocabularySpec] = {}
        if owners:
            grow = settings.samples.vocabularies.grow
            counts = window.token_counts()
            counted = write_vocabularies(counts, owners, f"{folder}/{VOCABULARIES}", frozen, grow)
        both = {**counted, **fixed}
        vocabularies = {f.name: both[f.name] for f in embedded(settings.features) if f.name in both}
        for name, spec in vocabularies.items():
            remarks.counted(name, spec.size)
        for name, spec in counted.items():
            if spec.size == 2:
                warn(f"features.{name}: no token in the training window; every id is unknown")
    files = {name: vocabulary_path(folder, name) for name in counted}
    return Frozen(window, vocabularies, files, statistics, None if manifest is None else manifest.build)
