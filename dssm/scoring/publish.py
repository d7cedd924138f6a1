"""How a version goes out: made below a temporary name, checked, committed by a rename, then moved to.

Whatever step a publish dies at, readers see the version from before, whole, or the new one, whole; the same command
again finishes it. The order is: the version's folder (one rename), the metastore's partition (one call), `_current`
(one rename), what is noted at the table, and last the removal of old versions.
"""

from __future__ import annotations

import datetime as dt
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dssm import published, storage
from dssm.console import out, step
from dssm.errors import UserError
from dssm.manifest import MANIFEST
from dssm.published import VERSION_FOLDER, GateDecision, Published, PublishedManifest, Side
from dssm.scoring import gates
from dssm.scoring.metastore import Metastore, table_columns
from dssm.sections.publishing import PublishedTable

REMOVED = ".removed-"
_MOVING = threading.Lock()  # of dates that are published side by side, one moves and clears at a time


@dataclass(frozen=True)
class Table:
    """A table at a date.

    Attributes:
      section: its settings; `setting` is their name.
      name: of the table; `location`: its folder.
      metastore: None where readers go by the pointer alone.
    """

    side: Side
    section: PublishedTable
    setting: str
    name: str
    location: str
    date: str
    metastore: Metastore | None = None

    def folder(self, version: str) -> str:
        return published.version_folder(self.location, self.date, version)

    def last(self, version: str) -> Published | None:
        """Returns what was published last before a version: of its date, else of the newest date before it.

        Raises: UserError where that can't be read.
        """
        current = published.current(self.location, self.date)
        if current is not None and current.manifest.version != version:
            return current
        earlier = [date for date in published.dates(self.location) if date < self.date]
        return published.current(self.location, earlier[-1]) if earlier else None

    def check_dtype(self, last: Published | None) -> None:
        """Raises: UserError where the table's vectors were of another dtype so far."""
        if last is not None and last.manifest.dtype != self.section.dtype:
            raise UserError(
                f"{self.setting}.dtype: found {self.section.dtype}, version {last.manifest.version} of "
                f"{last.manifest.date} in {self.location} holds {last.manifest.dtype}; expected one dtype for all "
                "dates of a table: set it back, or name another table and location"
            )


Make = Callable[[str, Published | None], PublishedManifest]
"""(folder to write to, version published last) → what was made, without the gates' decisions."""


def publish(
    table: Table,
    version: str,
    judge: Callable[[PublishedManifest | None], list[GateDecision]],
    vectors: Sequence[str],
    make: Make,
    force: bool,
) -> Published:
    """Makes a version unless it is there, checks it, and lets readers see it.

    Args:
      version: its name: a digest of what it is made of.
      judge: (version published last) → what the gates on the model decide.
      vectors: names of the vector columns.
      make: writes the version's rows.
      force: publish whatever the gates say.
    Raises: GateError where a gate refuses; the table then keeps what it had.
    """
    last = table.last(version)
    table.check_dtype(last)
    decisions = judge(last.manifest if last is not None else None)
    gates.check(decisions, force)
    if table.metastore is not None:
        columns = table_columns(table.side, vectors, table.section.dtype)
        table.metastore.prepare(columns, table.section.dtype)
    folder = table.folder(version)
    if storage.exists(f"{folder}/{MANIFEST}"):
        made = _known(table, published.read_version(folder), decisions, force)
        out.print(f"  version {version} is there already: {folder}")
    else:
        with step(f"{table.side} vectors of {table.date}") as remarks, storage.committed_folder(folder) as temporary:
            manifest = _decided(table, make(temporary, last), decisions, force)
            gates.check(manifest.gates, force)
            _write(temporary, manifest)
            remarks.extend(remarks_of(manifest))
        made = Published(folder, manifest)
    with _MOVING:
        move(table, made)
        for reason in made.manifest.overridden:
            out.print(f"  forced: {reason}", markup=False, style="yellow")
        remove_old(table)
    return made


def _decided(
    table: Table, made: PublishedManifest, decisions: Sequence[GateDecision], force: bool
) -> PublishedManifest:
    found = [*decisions, *gates.content_gates(table.section, table.setting, made)]
    overridden = gates.refused(found) if force else []
    return made.model_copy(update={"gates": found, "forced": force, "overridden": overridden})


def _known(table: Table, made: Published, decisions: Sequence[GateDecision], force: bool) -> Published:
    """Returns a version that is there, once the gates have let it through; what is forced now is noted."""
    manifest = _decided(table, made.manifest, decisions, force)
    gates.check(manifest.gates, force)
    damaged = published.damaged_files(made)
    if damaged:
        raise UserError(f"{damaged[0]}: missing or damaged; remove {made.folder} and run the job again")
    if not force or (made.manifest.forced and made.manifest.overridden == manifest.overridden):
        return made
    _write(made.folder, manifest)
    return Published(made.folder, manifest)


def _write(folder: str, manifest: PublishedManifest) -> None:
    storage.write_text(f"{folder}/{MANIFEST}", manifest.model_dump_json(indent=1) + "\n")


def remarks_of(manifest: PublishedManifest) -> list[str]:
    """Returns what a publish says of the rows."""
    remarks = [f"{manifest.rows:,} {manifest.side}s"]
    if manifest.copied:
        remarks.append(f"{manifest.scored:,} scored, {manifest.copied:,} taken from {manifest.previous}")
    if manifest.drift is not None:
        remarks.append(f"mean cosine to {manifest.previous} {manifest.drift:.4f}")
    unread = sum(manifest.quarantined.values())
    if unread:
        told = ", ".join(f"{count:,} {reason}" for reason, count in manifest.quarantined.items())
        remarks.append(f"{unread:,} quarantined ({told})")
    return remarks


def move(table: Table, made: Published) -> None:
    """Lets readers see a version.

    Raises: RuntimeError where the metastore gives other rows back.
    """
    manifest = made.manifest
    with step(f"partition dt={table.date} of {table.name}") as remarks:
        if table.metastore is not None:
            table.metastore.move(table.date, made.data)
        pointer = published.read_pointer(table.location, table.date)
        if pointer is None or pointer.version != manifest.version:
            published.write_pointer(table.location, table.date, manifest.version, dt.datetime.now(dt.UTC))
        if table.metastore is not None:
            table.metastore.describe(table.date, manifest)
            found = table.metastore.rows(table.date)
            if found != manifest.rows:
                raise RuntimeError(f"{table.name} dt={table.date}: {found:,} rows read back, {manifest.rows:,} written")
            remarks.append(f"{found:,} rows read back")
        else:
            remarks.append(f"{manifest.rows:,} rows")
    out.print(f"  {table.name} dt={table.date} → {made.data}")


def roll_back(table: Table, version: str) -> Published:
    """Lets readers see an earlier version of the date again.

    Raises: UserError where there is no such version, or it is not whole.
    """
    known = {of_date.manifest.version: of_date for of_date in published.versions(table.location, table.date)}
    if version not in known:
        listed = ", ".join(known) or "none"
        raise UserError(f"--to {version}: {table.name} has no such version of {table.date}; expected one of: {listed}")
    damaged = published.damaged_files(known[version])
    if damaged:
        raise UserError(f"--to {version}: {damaged[0]} is missing or damaged; expected a whole version")
    move(table, known[version])
    return known[version]


def remove_old(table: Table) -> list[str]:
    """Removes versions that are kept no longer, of all dates, and says so. Returns: their folders.

    The one that the pointer or the metastore names stays whatever its age is.
    """
    names = [name for name in storage.folder_names(table.location) if name.startswith(published.DATE_FOLDER)]
    removed = []
    for name in names:
        date = name.removeprefix(published.DATE_FOLDER)
        folder = published.date_folder(table.location, date)
        for left in storage.folder_names(folder):
            # What a killed run was removing, and what one was making of this date.
            if left.startswith(REMOVED) or (date == table.date and left.startswith(f".{VERSION_FOLDER}")):
                storage.remove(f"{folder}/{left}")
        removed += _remove_versions(table, date)
    if removed:
        out.print(f"  {len(removed)} old version{'s' * (len(removed) > 1)} removed")
    return removed


def _remove_versions(table: Table, date: str) -> list[str]:
    known = published.versions(table.location, date)
    outdated = expired([v.manifest for v in known], table.section, dt.datetime.now(dt.UTC))
    if not outdated:
        return []
    pointer = published.read_pointer(table.location, date)
    current = {pointer.version} if pointer is not None else set()
    place = table.metastore.location(date) if table.metastore is not None else None
    removed = []
    for version in known:
        name = version.manifest.version
        is_current = name in current or (place is not None and f"/{VERSION_FOLDER}{name}/" in f"{place}/")
        if name not in outdated or is_current:
            continue
        # Out of the way by one rename: no reader lists half of a version.
        aside = f"{published.date_folder(table.location, date)}/{REMOVED}{name}"
        storage.rename(version.folder, aside)
        storage.remove(aside)
        removed.append(version.folder)
    return removed


def expired(known: Sequence[PublishedManifest], section: PublishedTable, now: dt.datetime) -> set[str]:
    """Returns the versions of a date that need not be kept. The newest always is.

    Args: known: of one date, the oldest first.
    """
    age = dt.timedelta(days=section.keep_days)
    pairs = itertools.pairwise(known)
    outdated = [made.version for made, newer in pairs if now - newer.at >= age]
    return set(outdated[: max(0, len(known) - section.keep_versions)])
