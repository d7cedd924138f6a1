"""How a version goes out: made below a temporary name, checked, committed by a rename, then moved to.

Whatever step a publish dies at, readers see the version from before, whole, or the new one, whole; the same command
again finishes it. The order is: the version's folder (one rename), the metastore's partition (one call), its rows as
the metastore gives them back, `_current` (one rename), what is noted at the table, and last the removal of old
versions. Folders that are being written have
names of their own, so that two runs that publish the same date do not touch each other's; one at a time moves and
removes, by the lock of the table's folder, so that the metastore and `_current` name the same version.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dssm import locks, published, storage
from dssm.console import out, step, warn
from dssm.errors import UserError
from dssm.manifest import MANIFEST
from dssm.paths import RunPaths
from dssm.published import QUARANTINE, VECTOR, GateDecision, Published, PublishedManifest
from dssm.scoring import gates
from dssm.scoring.listing import remarks_of
from dssm.scoring.metastore import Metastore, table_columns
from dssm.scoring.retention import put_aside, remove_old
from dssm.scoring.table import Table

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
    measured: Measured | None = None,
) -> Published:
    """Makes a version unless it is there, checks it, and lets readers see it.

    Args:
      version: its name: a digest of what it is made of.
      judge: (version published last) → what the gates on the model decide.
      vectors: names of the vector columns.
      make: writes the version's rows.
      measured: of the model, for a version that was made before it was evaluated.
    Raises: GateError where a gate refuses; the table then keeps what it had.
    """
    last, dtype = table.last(version), table.section.dtype
    table.check_dtype(last)
    if table.metastore is not None:
        table.metastore.check(table_columns(table.side, vectors, dtype), dtype)
    there = _there(table, version)
    if there is not None and measured is not None:
        there = _noted(table, there, functools.partial(_evaluated, measured))

    def rolled_back() -> list[GateDecision]:
        return gates.rollback_gates(table.pointer(), version, f"score_{table.side}s")

    def decide() -> list[GateDecision]:
        return [*judge(last.manifest if last is not None else None), *rolled_back()]

    if there is not None:
        made = _known(table, there, decide)
        out.print(f"  version {version} is there already: {made.folder}")
    else:
        decisions = decide()
        gates.check(decisions, table.forced)
        with (
            step(f"{table.side} vectors of {table.date}", "vectors") as remarks,
            _new_version(table, version) as temporary,
        ):
            manifest = _decided(table, make(temporary, last), decisions)
            _check_rows(table, manifest, temporary)
            _write(temporary, manifest)
            remarks.extend(remarks_of(manifest))
        made = published.read_version(table.folder(version))
    with _alone(table) as lock:
        gates.check(rolled_back(), table.forced)  # by another since
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


def _there(table: Table, version: str, tell: Callable[[str], None] = warn) -> Published | None:
    """Returns a version that was made before; None where it is to be made.

    Of a version that readers see, files that are missing or damaged are not made anew: they would lose the rest of it.

    Args: tell: is told why one that is there is to be made anew.
    """
    folder = table.folder(version)
    if not storage.is_there(f"{folder}/{MANIFEST}"):
        return None
    try:
        made = published.read_version(folder)
    except UserError as error:
        tell(f"  {error}: it is made anew")
        return None
    damaged = published.damaged_files(made)
    if damaged and not table.is_seen(version):
        tell(f"  {damaged[0]}: missing or damaged, of a version that is not current: it is made anew")
        return None
    return made


@contextlib.contextmanager
def _new_version(table: Table, version: str) -> Iterator[str]:
    """Yields a folder of this run alone, which becomes the version's by one rename when the block ends without error.

    Where another run has committed the same version since, that one stays: a version's name says what it is made of.
    """
    parent, name = table.folder(version).rsplit("/", 1)
    temporary = f"{parent}/.{name}.{uuid.uuid4().hex}.tmp"
    try:
        storage.make_folder(temporary)
        yield temporary
        _commit(table, temporary, version)
    finally:
        storage.remove(temporary)


def _commit(table: Table, temporary: str, version: str) -> None:
    """Renames what was made to a version's folder, unless it is there and whole.

    Raises: UserError where another keeps the table's lock; the version is there all the same, for the rerun to find.
    """
    folder, aside = table.folder(version), None
    try:
        with _alone(table) as lock:  # two that look at once would both find no folder
            if storage.exists(folder) and _there(table, version, tell=lambda _: None) is None:
                lock.check()
                aside = put_aside(folder)
            if not storage.exists(folder):
                lock.check()
                storage.rename(temporary, folder)
    except UserError:
        if not storage.exists(folder):
            storage.rename(temporary, folder)
        raise
    except BaseException:
        if aside is not None:  # readers may be there
            storage.remove(folder)
            storage.rename(aside, folder)
            aside = None
        raise
    finally:
        if aside is not None:
            with contextlib.suppress(FileNotFoundError):  # another run, which tidies up, removes it too
                storage.remove(aside)


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


def _noted(table: Table, made: Published, add: Callable[[PublishedManifest], PublishedManifest]) -> Published:
    """Returns a version once its manifest says what is known of it now; its rows never change.

    One at a time writes it: none undoes what another has noted, nor makes a folder again that retention has removed.

    Args: add: to what the manifest says.
    """
    if add(made.manifest) == made.manifest:
        return made
    with _alone(table) as lock:
        _check_not_gone(made.folder, made.manifest.version)
        manifest = add(published.read_version(made.folder).manifest)
        lock.check()
        _write(made.folder, manifest)
    return Published(made.folder, manifest)


def _evaluated(measured: Measured, made: PublishedManifest) -> PublishedManifest:
    """Adds the metrics of the model as they are known now: what the next version is held against."""
    if not measured.metrics:
        return made
    return made.model_copy(update={"metrics": dict(measured.metrics), "metric": measured.metric})


def _decided(table: Table, made: PublishedManifest, decisions: Sequence[GateDecision]) -> PublishedManifest:
    found = [*decisions, *gates.content_gates(table.section, table.setting, made)]
    overridden = gates.refused(found) if table.forced else []
    return made.model_copy(update={"gates": found, "forced": table.forced, "overridden": overridden})


def _check_rows(table: Table, made: PublishedManifest, folder: str) -> None:
    """Checks a version that is being made; of one that is refused the rows put aside are kept in the run's folder.

    Raises: GateError that names their place.
    """
    aside = None
    if table.runs is not None:
        place = RunPaths(f"{table.runs}/{table.date}").quarantine(f"{table.side}s")
        refused = bool(made.quarantined) and bool(gates.refused(made.gates)) and not table.forced
        try:
            storage.remove(place)
            if refused:
                storage.make_folder(place.rpartition("/")[0])
                with storage.local_copy(f"{folder}/{QUARANTINE}") as local:
                    storage.put_folder(local, place)
                aside = place
        except (OSError, UserError) as error:  # the refusal is what counts
            warn(f"  {place}: the rows that were put aside could not be kept there: {error}")
    gates.check(made.gates, table.forced, aside)


def _known(table: Table, made: Published, decide: Callable[[], list[GateDecision]]) -> Published:
    """Returns a version that is there, once the gates have let it through, with what they say.

    The one that is current has been let through: what was published last before it may be another version by now. Only
    gates that had nothing to measure then look at it.

    Args: decide: asks the gates that need no rows.
    """
    before = made.manifest
    if table.points_at(before.version):
        blind = gates.unmeasured(before.gates)
        found = [decision for decision in decide() if decision.gate in blind] if blind else []
        gates.check(found, table.forced)
        return _noted(table, made, functools.partial(_looked, found))
    decisions = decide()
    gates.check(decisions, table.forced)
    manifest = _decided(table, before, decisions)
    gates.check(manifest.gates, table.forced, f"{made.folder}/{QUARANTINE}" if before.quarantined else None)
    return _noted(table, made, functools.partial(_decided_again, table, decisions))


def _looked(found: Sequence[GateDecision], made: PublishedManifest) -> PublishedManifest:
    """Adds to a current version what gates found that had nothing to measure when it was published.

    Args: found: of such gates; what they refuse is forced.
    """
    blind = gates.unmeasured(made.gates)
    of_gate = {decision.gate: decision for decision in found if decision.gate in blind}
    update: dict[str, Any] = {"gates": [of_gate.get(before.gate, before) for before in made.gates]}
    if refused := gates.refused(list(of_gate.values())):
        update |= {"forced": True, "overridden": [*made.overridden, *refused]}
    return made.model_copy(update=update)


def _decided_again(table: Table, decisions: Sequence[GateDecision], made: PublishedManifest) -> PublishedManifest:
    """Adds to a version that was made before what is forced now, and what gates say that had nothing to measure."""
    again = _decided(table, made, decisions)
    if not table.forced:
        again = again.model_copy(update={"forced": made.forced, "overridden": made.overridden})
    told = gates.unmeasured(made.gates) <= gates.unmeasured(again.gates)
    return made if told and (made.forced, made.overridden) == (again.forced, again.overridden) else again


def _write(folder: str, manifest: PublishedManifest) -> None:
    """Writes the manifest into a folder that is there. Raises: RuntimeError where it is gone: none is made."""
    _check_not_gone(folder, manifest.version)
    storage.write_text(f"{folder}/{MANIFEST}", manifest.model_dump_json(indent=1) + "\n")


def _check_not_gone(folder: str, version: str) -> None:
    if not storage.exists(folder):
        raise RuntimeError(f"{folder}: gone while version {version} was being written; run the job again")


def move(table: Table, made: Published, lock: locks.Held, back: bool = False) -> None:
    """Lets readers see a version, once its files were read back.

    Args:
      lock: of the table's folder.
      back: whether this is a rollback.
    Raises: UserError where the version is not whole, or the metastore's table is another's: nothing has moved;
      RuntimeError where the metastore gives other rows back: its partition is moved back, and the pointer has stayed.
    """
    manifest = made.manifest
    check_whole(made)
    with step(f"partition dt={table.date} of {table.name}", "partition") as remarks:
        lock.check()
        if table.metastore is not None:
            _move_partition(table, table.metastore, made, lock)
            lock.check()
        pointer = table.pointer()
        if pointer is None or pointer.version != manifest.version:
            published.write_pointer(table.location, table.date, manifest.version, dt.datetime.now(dt.UTC), back)
        if table.metastore is not None:
            table.metastore.describe(table.date, manifest)
        read_back = " read back" if table.metastore is not None else ""
        remarks.counted("rows", manifest.rows, f"{manifest.rows:,} rows{read_back}")
    out.print(f"  {table.name} dt={table.date} → {made.data}")


def _move_partition(table: Table, metastore: Metastore, made: Published, lock: locks.Held) -> None:
    """Points the metastore's partition at a version; back to where it pointed, where its rows don't come back."""
    date, manifest = table.date, made.manifest
    vectors = [VECTOR, *map(published.vector_column, manifest.objectives)]
    metastore.prepare(table_columns(table.side, vectors, manifest.dtype), manifest.dtype)
    before = metastore.location(date)
    try:
        metastore.move(date, made.data)
        _read_back(table, metastore, manifest.rows)
    except Exception:
        lock.check()
        metastore.restore(date, before)
        raise


def _read_back(table: Table, metastore: Metastore, rows: int) -> None:
    found = metastore.rows(table.date)
    if found != rows:
        raise RuntimeError(
            f"{table.name} dt={table.date}: {found:,} rows read back, {rows:,} written; readers see what they saw "
            "before"
        )


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
        move(table, known[version], lock, back=True)
    return known[version]
