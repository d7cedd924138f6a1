"""A run's models: the newest in model/, those before it in models/VERSION while a published version is of them.

A table's versions of a date may be of several models: users and items only meet in vectors of the same one. So `train`
removes no model; where old versions of the tables are removed, the models go that no other version is of.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator

from dssm import published, storage
from dssm.errors import UserError
from dssm.manifest import MANIFEST
from dssm.model.manifest import read_model_manifest
from dssm.paths import RunPaths
from dssm.published import PublishedManifest


@contextlib.contextmanager
def new_model(paths: RunPaths) -> Iterator[str]:
    """Yields a temporary folder that becomes model/ when the block ends without error; the one before is set aside.

    Killed between the two renames, a run has no newest model until train has ended again; what is published still
    finds its own.
    """
    before = version_in(paths.model)
    try:
        with storage.committed_folder(paths.model) as folder:
            yield folder
            _set_aside(paths)
    except BaseException:
        aside = None if before is None else _aside(paths, before).model
        if aside is not None and version_in(paths.model) is None and version_in(aside) is not None:
            storage.remove(paths.model)  # half a copy, where a store renames by copying
            storage.rename(aside, paths.model)
        raise
    version = version_in(paths.model)
    if version is not None:  # trained again to the same numbers: one is enough
        storage.remove(_aside(paths, version).model)


def model_of(paths: RunPaths, made: PublishedManifest) -> RunPaths:
    """Returns the run's paths with the model of a published version: the newest, or one that was set aside.

    Raises: UserError where it is neither: users and items would not meet.
    """
    # The newest is looked at again: train may set it aside while this looks, or make the same anew.
    for place in (paths, _aside(paths, made.model_version), paths):
        with contextlib.suppress(UserError):
            if read_model_manifest(place.model).model_version == made.model_version:
                return place
    newest = version_in(paths.model)
    found = "no model that can be read" if newest is None else f"model {newest}"
    raise UserError(
        f"{paths.model}: {found}, but the vectors published for {made.date} are of {made.model_version}, and "
        f"{_aside(paths, made.model_version).model} is not there; run score_items for this date again, or rollback to "
        "a version whose model is there"
    )


def remove_spare(paths: RunPaths, date: str, tables: Iterable[str]) -> list[str]:
    """Removes the models set aside that no version of the date is of. Returns: their versions.

    Args: tables: locations; those that the run has noted count as well.
    """
    kept = storage.folder_names(paths.models)
    if not kept:
        return []
    locations = {*map(storage.absolute, tables), *published.run_tables(paths.folder).values()}
    needed = set().union(*(_published_models(location, date) for location in locations))
    spare = [version for version in kept if version not in needed]
    for version in spare:
        with contextlib.suppress(FileNotFoundError):  # another run removes it too
            storage.remove(_aside(paths, version).model)
    return spare


def _aside(paths: RunPaths, version: str) -> RunPaths:
    return RunPaths(paths.folder, version)


def _set_aside(paths: RunPaths) -> None:
    """Moves model/ to its place among the models before; nothing where there is no finished model."""
    version = version_in(paths.model)
    if version is None:
        return
    aside = _aside(paths, version).model
    storage.remove(aside)  # the same model, of an earlier training
    storage.make_folder(paths.models)
    storage.rename(paths.model, aside)


def _published_models(location: str, date: str) -> set[str]:
    """Returns the models that the versions of a date are of."""
    folder = published.date_folder(location, date)
    names = (name for name in storage.folder_names(folder) if name.startswith(published.VERSION_FOLDER))
    return {version for name in names if (version := version_in(f"{folder}/{name}")) is not None}


def version_in(folder: str) -> str | None:
    """Returns which model the manifest in a folder names, whatever its schema is; None where there is none."""
    try:
        return str(json.loads(storage.read_replaced(f"{folder}/{MANIFEST}"))["model_version"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
