"""How a version goes out: made below a temporary name, checked, committed by a rename, then moved to.

Whatever step a publish dies at, readers see the version from before, whole, or the new one, whole; the same command
again finishes it. The order is: the version's folder (one rename), the metastore's partition (one call), `_current`
(one rename), what is noted at the table, and last the removal of old versions. Folders that are being written have
names of their own, so that two runs that publish the same date do not touch each other's; one at a time moves and
removes, by the lock of the table's folder, so that the metastore and `_current` name the same version.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dssm import locks, published, storage
from dssm.console import out, step, warn
from dssm.errors import UserError
from dssm.manifest import MANIFEST
from dssm.model.kept import remove_spare
from dssm.paths import RunPaths
from dssm.published import QUARANTINE, VERSION_FOLDER, GateDecision, Published, PublishedManifest
from dssm.scoring import gates
from dssm.scoring.listing import remarks_of
from dssm.scoring.metastore import table_columns
from dssm.scoring.table import Table
from dssm.sections.publishing import PublishedTable

REMOVED = ".removed-"
ABANDONED = dt.timedelta(days=1)  # after its last change, a folder that is being written has no writer any more
GRACE = dt.timedelta(hours=1)  # for readers of a version that was current, whatever keep_days is
_MOVING = threading.Lock()  # of this process: dates that are published side by side share a session


@dataclass(frozen=True)
class Measured:
    """What an evaluation found of the model: its metrics, and the one that the gates look at."""

    metrics: Mapping[str, float | None] = field(default_factory=dict)
    metric: str | None = None


Make = Callable[[str, Published | None], PublishedManifest]
"""(folder to write to, version published last) → what was made, without the gates' decisions."""


def publish(
    table: Table,
    version: str,
    judge: Callable[[PublishedManifest | None], list[GateDecision]],
    vectors: Sequence[str],
    make: Make,
    force: bool,
    measured: Measured | None = None,
) -> Published:
    """Makes a version unless it is there, checks it, and lets readers see it.

    Args:
      version: its name: a digest of what it is made of.
      judge: (version published last) → what the gates on the model decide.
      vectors: names of the vector columns.
      make: writes the version's rows.
      force: publish whatever the gates say.
      measured: of the model, for a version that was made before it was evaluated.
    Raises: GateError where a gate refuses; the table then keeps what it had.
    """
    last = table.last(version)
    table.check_dtype(last)
    there = _there(table.folder(version))
    if there is not None and measured is not None:
        there = _evaluated(there, measured)

    def rolled_back() -> list[GateDecision]:
        return gates.rollback_gates(table.pointer(), version, f"score_{table.side}s")

    decisions = [*judge(last.manifest if last is not None else None), *rolled_back()]
    gates.check(decisions, force)
    if table.metastore is not None:
        with _alone(table):
            table.metastore.prepare(table_columns(table.side, vectors, table.section.dtype), table.section.dtype)
    if there is not None:
        made = _known(table, there, decisions, force)
        out.print(f"  version {version} is there already: {made.folder}")
    else:
        folder = table.folder(version)
        with (
            step(f"{table.side} vectors of {table.date}", "vectors") as remarks,
            _new_version(table, folder) as temporary,
        ):
            manifest = _decided(table, make(temporary, last), decisions, force)
            _check_rows(table, manifest, temporary, force)
            _write(temporary, manifest)
            remarks.extend(remarks_of(manifest))
        made = published.read_version(folder)
    with _alone(table) as lock:
        gates.check(rolled_back(), force)  # by another since
        move(table, made, lock)
        for reason in made.manifest.overridden:
            warn(f"  forced: {reason}")
        remove_old(table, lock)
    return made


@contextlib.contextmanager
def _alone(table: Table) -> Iterator[locks.Held]:
    """Lets one at a time change a table, of all processes on all hosts."""
    with _MOVING, locks.locked(table.location) as lock:
        yield lock


def _there(folder: str) -> Published | None:
    """Returns a version that was made before; None where there is none that can be read."""
    if not storage.is_there(f"{folder}/{MANIFEST}"):
        return None
    try:
        return published.read_version(folder)
    except UserError as error:
        warn(f"  {error}: it is made anew")
        return None


@contextlib.contextmanager
def _new_version(table: Table, folder: str) -> Iterator[str]:
    """Yields a folder of this run alone, which becomes the version's by one rename when the block ends without error.

    Where another run has committed the same version since, that one stays: a version's name says what it is made of.
    """
    parent, name = folder.rsplit("/", 1)
    temporary = f"{parent}/.{name}.{uuid.uuid4().hex}.tmp"
    try:
        storage.make_folder(temporary)
        yield temporary
        _commit(table, temporary, folder)
    finally:
        storage.remove(temporary)


def _commit(table: Table, temporary: str, folder: str) -> None:
    """Renames what was made to a version's folder, unless it is there and can be read.

    Raises: UserError where another keeps the table's lock; the version is there all the same, for the rerun to find.
    """
    aside = None
    try:
        with _alone(table) as lock:  # two that look at once would both find no folder
            if storage.exists(folder) and _there(folder) is None:
                aside = _put_aside(folder)
            lock.check()
            if not storage.exists(folder):
                storage.rename(temporary, folder)
    except UserError:
        if not storage.exists(folder):
            storage.rename(temporary, folder)
        raise
    finally:
        if aside is not None:
            storage.remove(aside)


def _put_aside(folder: str) -> str:
    """Takes a version's folder out of the way by one rename: no reader lists half of it. Returns: its new place."""
    parent, name = folder.rsplit("/", 1)
    aside = f"{parent}/{REMOVED}{name.removeprefix(VERSION_FOLDER)}.{uuid.uuid4().hex}"
    storage.rename(folder, aside)
    return aside


def check_whole(made: Published) -> None:
    """Raises: UserError where files of a version are missing or damaged, or have not the rows of its manifest."""
    damaged = published.damaged_files(made)
    if damaged:
        raise UserError(f"{damaged[0]}: missing or damaged; remove {made.folder} and run the job again")
    found = published.rows_there(made)
    if found != made.manifest.rows:
        raise UserError(
            f"{made.data}: {found:,} rows, the version's manifest says {made.manifest.rows:,}; remove {made.folder} "
            "and run the job again"
        )


def _evaluated(made: Published, measured: Measured) -> Published:
    """Returns a version with the metrics of its model as they are known now: what the next version is held against."""
    if not measured.metrics or (made.manifest.metrics, made.manifest.metric) == (measured.metrics, measured.metric):
        return made
    update = {"metrics": dict(measured.metrics), "metric": measured.metric}
    again = Published(made.folder, made.manifest.model_copy(update=update))
    _write(again.folder, again.manifest)
    return again


def _decided(
    table: Table, made: PublishedManifest, decisions: Sequence[GateDecision], force: bool
) -> PublishedManifest:
    found = [*decisions, *gates.content_gates(table.section, table.setting, made)]
    overridden = gates.refused(found) if force else []
    return made.model_copy(update={"gates": found, "forced": force, "overridden": overridden})


def _check_rows(table: Table, made: PublishedManifest, folder: str, force: bool) -> None:
    """Checks a version that is being made; of one that is refused the rows put aside are kept in the run's folder.

    Raises: GateError that names their place.
    """
    aside = None
    if table.runs is not None:
        place = RunPaths(f"{table.runs}/{table.date}").quarantine(f"{table.side}s")
        refused = bool(made.quarantined) and bool(gates.refused(made.gates)) and not force
        try:
            storage.remove(place)
            if refused:
                storage.make_folder(place.rpartition("/")[0])
                with storage.local_copy(f"{folder}/{QUARANTINE}") as local:
                    storage.put_folder(local, place)
                aside = place
        except OSError as error:  # the refusal is what counts
            warn(f"  {place}: the rows that were put aside could not be kept there: {error}")
    gates.check(made.gates, force, aside)


def _known(table: Table, made: Published, decisions: Sequence[GateDecision], force: bool) -> Published:
    """Returns a version that is there, once the gates have let it through.

    What is forced now is noted, and what gates say that had nothing to measure when it was made.
    """
    before = made.manifest
    manifest = _decided(table, before, decisions, force)
    gates.check(manifest.gates, force, f"{made.folder}/{QUARANTINE}" if before.quarantined else None)
    if not force:
        manifest = manifest.model_copy(update={"forced": before.forced, "overridden": before.overridden})
    told = gates.unmeasured(before.gates) <= gates.unmeasured(manifest.gates)
    if told and (before.forced, before.overridden) == (manifest.forced, manifest.overridden):
        return made
    _write(made.folder, manifest)
    return Published(made.folder, manifest)


def _write(folder: str, manifest: PublishedManifest) -> None:
    """Writes the manifest into a folder that is there. Raises: RuntimeError where it is gone: none is made."""
    if not storage.exists(folder):
        raise RuntimeError(f"{folder}: gone while version {manifest.version} was being written; run the job again")
    storage.write_text(f"{folder}/{MANIFEST}", manifest.model_dump_json(indent=1) + "\n")


def move(table: Table, made: Published, lock: locks.Held, back: bool = False) -> None:
    """Lets readers see a version, once its files were read back.

    Args:
      lock: of the table's folder.
      back: whether this is a rollback.
    Raises: UserError where the version is not whole: nothing has moved; RuntimeError where the metastore gives other
      rows back.
    """
    manifest = made.manifest
    check_whole(made)
    with step(f"partition dt={table.date} of {table.name}", "partition") as remarks:
        lock.check()
        if table.metastore is not None:
            table.metastore.move(table.date, made.data)
            lock.check()
        pointer = table.pointer()
        if pointer is None or pointer.version != manifest.version:
            published.write_pointer(table.location, table.date, manifest.version, dt.datetime.now(dt.UTC), back)
        if table.metastore is not None:
            table.metastore.describe(table.date, manifest)
            found = table.metastore.rows(table.date)
            if found != manifest.rows:
                raise RuntimeError(f"{table.name} dt={table.date}: {found:,} rows read back, {manifest.rows:,} written")
            remarks.counted("rows", found, f"{found:,} rows read back")
        else:
            remarks.counted("rows", manifest.rows, f"{manifest.rows:,} rows")
    out.print(f"  {table.name} dt={table.date} → {made.data}")


def roll_back(table: Table, version: str) -> Published:
    """Lets readers see an earlier version of the date again.

    Raises: UserError where there is no such version, or it is not whole, or the metastore's table is another's.
    """
    with _alone(table) as lock:
        known = {of_date.manifest.version: of_date for of_date in published.versions(table.location, table.date)}
        if version not in known:
            listed = ", ".join(known) or "none"
            raise UserError(
                f"--to {version}: {table.name} has no such version of {table.date}; expected one of: {listed}"
            )
        damaged = published.damaged_files(known[version])
        if damaged:
            raise UserError(f"--to {version}: {damaged[0]} is missing or damaged; expected a whole version")
        if table.metastore is not None:
            table.metastore.check_place()
        move(table, known[version], lock, back=True)
    return known[version]


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
        is_current = name in current or (place is not None and f"/{VERSION_FOLDER}{name}/" in f"{place}/")
        if name not in outdated or is_current:
            continue
        lock.check()
        storage.remove(_put_aside(version.folder))
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
