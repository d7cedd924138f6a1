"""The report of a run: report.html, written anew at the end of each job that adds to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dssm import storage
from dssm.config import Settings
from dssm.console import out, step, warn
from dssm.errors import GateError, UserError
from dssm.manifest import MANIFEST
from dssm.paths import RunPaths
from dssm.report.decoding import listed
from dssm.report.item_words import Items
from dssm.report.run_facts import Missing, note_refusal, read_facts
from dssm.report.run_page import page
from dssm.report.run_vectors import vector_facts
from dssm.report.tracking import check_tracking, log_run

_ONE_AT_ONCE = threading.Lock()  # dates side by side: matplotlib's settings and MLflow's environment are the process's


def write_report(paths: RunPaths, settings: Settings | None = None) -> str:
    """Writes RUN/report.html from what the run's folder holds. Returns: its path.

    Args:
      settings: of the job that asks; else those that the run was made with.
    Raises: UserError where there are no finished samples, or the setting `report.category` names no feature.
    """
    with _ONE_AT_ONCE, step("report") as remarks:
        facts = read_facts(paths, settings)
        items = Items(facts.run, facts.settings.report)
        text = page(facts, items, vector_facts(facts, items))
        storage.write_text(paths.report, text)
        remarks.append(_remark(len(text.encode()), facts.missing))
    return paths.report


def _remark(size: int, missing: Sequence[Missing]) -> str:
    """Says how large the report is, which jobs are to come, and what else it lacks. Args: size: bytes."""
    named = list(dict.fromkeys(part.job for part in missing if part.to_come))
    lost = [f"without {part.what}: {part.why}" for part in missing if not part.to_come]
    return "; ".join([f"{size / 1e6:.1f} MB", *([f"{listed(named)} will add to it"] if named else []), *lost])


@contextmanager
def reported(settings: Settings, job: str, track: bool = True) -> Iterator[None]:
    """Writes the report and logs the run when a job ends well, and when a gate refuses what it made.

    Whatever is wrong with the report, or where runs are logged, is told and does not undo the job.

    Args:
      job: its name.
      track: False: the run is not logged, and what that needs may be missing.
    Raises: UserError before the job begins where tracking needs a package that is not there.
    """
    if track:
        check_tracking(settings)
    paths = RunPaths(settings.run_folder)
    try:
        yield
    except GateError as refused:
        _write_and_log(paths, settings, job, refused, track)
        raise
    _write_and_log(paths, settings, job, None, track)


def _write_and_log(paths: RunPaths, settings: Settings, job: str, refused: GateError | None, track: bool) -> None:
    try:
        if refused is None:
            note_refusal(paths, job, None)
        else:
            note_refusal(paths, job, " ".join(str(refused).split()), refused.decisions)
        out.print(f"  {write_report(paths, settings)}", markup=False)
        if track and storage.exists(f"{paths.model}/{MANIFEST}"):  # samples alone are nothing to log
            with _ONE_AT_ONCE:
                log_run(settings, paths)
    except Exception as error:  # whatever it is: the job itself is done
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        warn(f"  report: {kind}{error}")
