"""Finding a run by what a person types."""

from __future__ import annotations

import datetime as dt
import posixpath

from dssm import storage
from dssm.attempts import read_attempts
from dssm.errors import UserError, did_you_mean
from dssm.manifest import MANIFEST
from dssm.paths import RunPaths

DATES_TOLD = 10  # of a run's dates, the newest, in a message


def find_run(run: str, root: str, begun: bool = False) -> RunPaths:
    """Returns the run that is meant.

    Args:
      run: a run's folder, or NAME/DATE or NAME below `root`; without a date, the newest finished one.
      root: folder of the runs.
      begun: a run counts from its first job's start on, whether or not it has samples.
    Raises: UserError where there is none, with what comes near.
    """
    for folder in (run.rstrip("/"), f"{root}/{run}".rstrip("/")):
        if _is_finished(folder) or (begun and _has_begun(folder)):
            return RunPaths(folder)
        dates = finished_dates(folder, begun)
        if dates:
            return RunPaths(f"{folder}/{dates[-1]}")
    raise UserError(f"RUN {run}: {_explained(run.rstrip('/'), root)}")


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
