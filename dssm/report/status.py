"""`status`: what the jobs of a run have done, when, what they took, with what counts, and which failed."""

from __future__ import annotations

import datetime as dt
import posixpath
from collections.abc import Mapping

from dssm import storage
from dssm.attempts import Attempt, read_attempts
from dssm.console import out, table, warn
from dssm.manifest import MANIFEST
from dssm.paths import RunPaths
from dssm.report.pipeline_picture import boxes
from dssm.report.run_facts import JOBS, RunFacts, read_facts
from dssm.units import seconds_shown

COLUMNS = ("job", "began", "took", "largest process", "left")
NOT_YET, HAS_NOT_RUN = "–", "has not run"


def status_rows(facts: RunFacts, attempts: Mapping[str, Attempt], zone: dt.tzinfo | None = None) -> list[list[str]]:
    """Returns a row a job, in the order of the work, and then one of each other job that has begun.

    Args: zone: of the times shown; default: this machine's.
    """
    left = {box.job: ", ".join(box.lines) for box in boxes(facts) if box.job is not None}
    return [_row(job, left.get(job, ""), facts, attempts.get(job), zone) for job in [*left, *_others(left, attempts)]]


def rows_without_samples(attempts: Mapping[str, Attempt], zone: dt.tzinfo | None = None) -> list[list[str]]:
    """Returns a row a job of a run whose samples are not there."""
    jobs = [job for job in JOBS if job in attempts]
    return [_row(job, "", None, attempts[job], zone) for job in [*jobs, *_others(jobs, attempts)]]


def _others(known: Mapping[str, str] | list[str], attempts: Mapping[str, Attempt]) -> list[str]:
    return [job for job in attempts if job not in known]


def _row(job: str, left: str, facts: RunFacts | None, attempt: Attempt | None, zone: dt.tzinfo | None) -> list[str]:
    used = facts.used.get(job) if facts is not None else None
    refused = facts.refusals.get(job) if facts is not None else None
    told = [left] if left else []
    if refused is not None:
        told.append(f"refused {_when(refused.at, zone)}: {refused.reason}")
    if attempt is not None and (ended := _ended(attempt, zone)) and (refused is None or attempt.exit_code != 3):
        told.append(ended)
    done = attempt is not None and attempt.exit_code == 0
    shown = "; ".join(told) or ("done" if done else HAS_NOT_RUN)
    if used is not None:
        size = f"{used.peak_bytes / 2**30:.2f} GiB ({used.peak_process})"
        return [job, _when(used.began, zone), seconds_shown(used.seconds), size, shown]
    if attempt is None:
        return [job, NOT_YET, NOT_YET, NOT_YET, shown]
    took = seconds_shown((attempt.ended - attempt.began).total_seconds()) if attempt.ended is not None else NOT_YET
    return [job, _when(attempt.began, zone), took, NOT_YET, shown]


def _ended(attempt: Attempt, zone: dt.tzinfo | None) -> str:
    """Says how a start ended, or that it has not; nothing where it ended well."""
    if attempt.failed:
        assert attempt.ended is not None
        where = f" in '{attempt.stage}'" if attempt.stage else ""
        return f"failed {_when(attempt.ended, zone)}{where}, exit code {attempt.exit_code}: {attempt.error}"
    if attempt.exit_code is None:
        state = "was killed, or its host went down" if attempt.was_killed else f"runs on {attempt.host}, or was killed"
        return f"began {_when(attempt.began, zone)} and {state}"
    return ""


def _when(at: dt.datetime, zone: dt.tzinfo | None) -> str:
    return f"{at.astimezone(zone):%Y-%m-%d %H:%M}"


def show_status(paths: RunPaths) -> None:
    """Prints a row a job, what does not belong together, and where the log of each failure is."""
    attempts = read_attempts(paths)
    if storage.exists(f"{paths.samples}/{MANIFEST}"):
        facts = read_facts(paths)
        table(facts.run.title, COLUMNS, status_rows(facts, attempts), texts=(0, 1, 4))
        for warning in facts.warnings:
            warn(warning)
    else:
        title = " ".join(paths.folder.split(posixpath.sep)[-2:])
        table(title, COLUMNS, rows_without_samples(attempts), texts=(0, 1, 4))
    for attempt in attempts.values():
        if attempt.failed or attempt.was_killed:
            out.print(f"  log of {attempt.job}: {paths.job_log(attempt.job)}", markup=False)
