"""Finding a run by what a person types."""

from __future__ import annotations

import datetime as dt
import posixpath
from collections.abc import Callable
from dataclasses import dataclass

from dssm import published, storage
from dssm.attempts import read_attempts
from dssm.console import out
from dssm.errors import UserError, did_you_mean
from dssm.manifest import MANIFEST
from dssm.paths import RunPaths

DATES_TOLD = 10  # of a run's dates, the newest, in a message


@dataclass(frozen=True)
class Need:
    """What a command reads of a run besides its samples.

    Attributes: what: in words; is_met: whether a run has it.
    """

    what: str
    is_met: Callable[[RunPaths], bool]


EVALUATED = Need("an evaluation", lambda paths: storage.exists(paths.evaluation))


def published_table(table: str) -> Need:
    """Needs a current version of the run's table, `items` or `users`."""

    def is_met(paths: RunPaths) -> bool:
        try:
            location = published.run_tables(paths.folder).get(table)
        except ValueError:  # a damaged file is no table's
            return False
        date = posixpath.basename(paths.folder)
        return location is not None and storage.is_there(f"{published.date_folder(location, date)}/{published.CURRENT}")

    return Need(f"a published table of {table}", is_met)


def find_run(run: str, root: str, begun: bool = False, need: Need | None = None) -> RunPaths:
    """Returns the run that is meant.

    Args:
      run: a run's folder, or NAME/DATE or NAME below `root`; without a date, the newest finished one.
      root: folder of the runs.
      begun: a run counts from its first job's start on, whether or not it has samples.
      need: without a date, the newest that has this is taken, and said where a newer one has not; the newest of all
        where none has.
    Raises: UserError where there is none, with what comes near.
    """
    for folder in (run.rstrip("/"), f"{root}/{run}".rstrip("/")):
        if _is_finished(folder) or (begun and _has_begun(folder)):
            return RunPaths(folder)
        dates = finished_dates(folder, begun)
        if dates:
            return _newest(folder, dates, need)
    raise UserError(f"RUN {run}: {_explained(run.rstrip('/'), root)}")


def _newest(folder: str, dates: list[str], need: Need | None) -> RunPaths:
    """Returns the run of the newest date that meets the need. Args: dates: ascending, at least one."""
    newest = RunPaths(f"{folder}/{dates[-1]}")
    if need is None:
        return newest
    runs = (RunPaths(f"{folder}/{date}") for date in reversed(dates))
    found = next(filter(need.is_met, runs), newest)
    if found != newest:
        name, date = found.folder.split("/")[-2:]
        out.print(f"{name}/{date} is the newest date with {need.what}: {dates[-1]} has none", style="dim", markup=False)
    return found


def finished_dates(folder: str, begun: bool = False) -> list[str]:
    """Returns the dates of a pipeline's runs that have samples, ascending; none where the folder is none.

    Args: begun: also those where a job has begun.
    """
    dates = [name for name in _entries(folder) if _is_date(name)]
    return [d for d in dates if _is_finished(f"{folder}/{d}") or (begun and _has_begun(f"{folder}/{d}"))]


def previous_run(paths: RunPaths) -> RunPaths | None:
    """Returns the newest run before this one, of the same pipeline, that has samples or a profile."""
    pipeline, date = posixpath.split(paths.folder)
    if not _is_date(date):
        return None
    for name in reversed(_entries(pipeline)):
        if _is_date(name) and name < date:
            earlier = RunPaths(f"{pipeline}/{name}")
            if storage.exists(profile_path(earlier)) or _is_finished(earlier.folder):
                return earlier
    return None


def profile_path(paths: RunPaths) -> str:
    return f"{paths.folder}/profile.json"


def page_path(paths: RunPaths) -> str:
    return f"{paths.folder}/profile.html"


def _is_finished(folder: str) -> bool:
    return storage.exists(f"{RunPaths(folder).samples}/{MANIFEST}")


def _has_begun(folder: str) -> bool:
    return bool(read_attempts(RunPaths(folder)))


def _entries(folder: str) -> list[str]:
    system, place = storage.filesystem(folder)
    return storage.file_names(folder, "") if system.isdir(place) else []


def _is_date(name: str) -> bool:
    try:
        return dt.date.fromisoformat(name).isoformat() == name
    except ValueError:
        return False


def _explained(run: str, root: str) -> str:
    for folder in (run, f"{root}/{run}"):
        if _entries(folder):
            return f"{storage.absolute(folder)} holds no finished samples; run build_samples for it first"
    pipelines = [name for name in _entries(root) if finished_dates(f"{root}/{name}")]
    if not pipelines:
        return (
            f"no such folder, and {storage.absolute(root)} holds no run with samples; "
            "expected NAME, NAME/DATE or a folder: run build_samples first, or give --root"
        )
    name, _, date = run.partition("/")
    if date and name in pipelines:
        dates = finished_dates(f"{root}/{name}")[-DATES_TOLD:]
        return f"{storage.absolute(root)}/{name} has no samples of '{date}'" + did_you_mean(date, dates)
    return f"no such folder, and no run of that name in {storage.absolute(root)}" + did_you_mean(name, pipelines)
