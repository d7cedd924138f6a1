"""Retention: versions that are kept no longer, what killed runs left, and models that no version is of."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import uuid
from collections.abc import Mapping, Sequence

from dssm import locks, published, storage
from dssm.console import out, warn
from dssm.errors import UserError
from dssm.model.kept import remove_spare
from dssm.paths import RunPaths
from dssm.published import VERSION_FOLDER, PublishedManifest
from dssm.scoring.table import Table, is_of
from dssm.sections.publishing import PublishedTable

REMOVED = ".removed-"
ABANDONED = dt.timedelta(days=1)  # after its last change, a folder that is being written has no writer any more
GRACE = dt.timedelta(hours=1)  # for readers of a version that was current, whatever keep_days is


def remove_old(table: Table, lock: locks.Held) -> list[str]:
    """Removes versions that are kept no longer, of all dates, and says so. Returns: their folders.

    The one that the pointer or the metastore names stays whatever its age is. What killed runs were writing goes too,
    once nothing in it has changed for a day; and models that train has set aside, once no version is of them.
    """
    names = [name for name in storage.folder_names(table.location) if name.startswith(published.DATE_FOLDER)]
    removed = []
    for name in names:
        date = name.removeprefix(published.DATE_FOLDER)
        folder = published.date_folder(table.location, date)
        for left in storage.file_names(folder, ""):
            unfinished = left.startswith((f".{VERSION_FOLDER}", f".{published.CURRENT}."))
            if left.startswith(REMOVED) or (unfinished and _is_abandoned(f"{folder}/{left}")):
                with contextlib.suppress(FileNotFoundError):  # another run removes it too
                    storage.remove(f"{folder}/{left}")
        outdated = _remove_versions(table, date, lock)
        if table.runs is not None and (outdated or date == table.date):
            remove_spare(RunPaths(f"{table.runs}/{date}"), date, (table.location, *table.beside))
        removed += outdated
    if removed:
        out.print(f"  {len(removed)} old version{'s' * (len(removed) > 1)} removed")
    return removed


def _is_abandoned(path: str) -> bool:
    """Whether no file below a path, nor the path itself where it holds none, has changed for a day."""
    system, place = storage.filesystem(path)
    try:
        changed = max(system.modified(file) for file in system.find(place) or [place])
    except FileNotFoundError:  # its writer is at work
        return False
    return bool(dt.datetime.now(dt.UTC) - changed.astimezone(dt.UTC) > ABANDONED)


def _remove_versions(table: Table, date: str, lock: locks.Held) -> list[str]:
    names = storage.folder_names(published.date_folder(table.location, date))
    if sum(name.startswith(VERSION_FOLDER) for name in names) <= table.section.keep_versions:
        return []  # and no manifest has to be read: a table may have thousands of dates
    try:
        pointer = published.read_pointer(table.location, date)
    except UserError as error:
        warn(f"  {error}; no version of {date} is removed")
        return []
    known = published.versions(table.location, date)
    left = pointer.left if pointer is not None else {}
    outdated = expired([v.manifest for v in known], table.section, dt.datetime.now(dt.UTC), left)
    if not outdated:
        return []
    current = {pointer.version} if pointer is not None else set()
    place = table.metastore.location(date) if table.metastore is not None else None
    removed = []
    for version in known:
        name = version.manifest.version
        if name not in outdated or name in current or is_of(place, name):
            continue
        lock.check()
        storage.remove(put_aside(version.folder))
        removed.append(version.folder)
    return removed


def expired(
    known: Sequence[PublishedManifest], section: PublishedTable, now: dt.datetime, left: Mapping[str, dt.datetime]
) -> set[str]:
    """Returns the versions of a date that need not be kept. The newest always is.

    Args:
      known: of one date, the oldest first.
      left: when each stopped being current; one that is not in it never was, and counts from the next one's making.
    """
    age = max(dt.timedelta(days=section.keep_days), GRACE)
    pairs = itertools.pairwise(known)
    outdated = [made.version for made, newer in pairs if now - left.get(made.version, newer.at) >= age]
    return set(outdated[: max(0, len(known) - section.keep_versions)])


def put_aside(folder: str) -> str:
    """Takes a version's folder out of the way by one rename: no reader lists half of it. Returns: its new place."""
    parent, name = folder.rsplit("/", 1)
    aside = f"{parent}/{REMOVED}{name.removeprefix(VERSION_FOLDER)}.{uuid.uuid4().hex}"
    storage.rename(folder, aside)
    return aside
