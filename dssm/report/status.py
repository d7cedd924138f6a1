"""`status`: which jobs of a run have ended well, when, what they took, and with what counts."""

from __future__ import annotations

import datetime as dt

from dssm.console import out, table
from dssm.report.pipeline_picture import Box, boxes, duration
from dssm.report.run_facts import RunFacts

COLUMNS = ("job", "began", "took", "largest process", "left")
NOT_YET = "–"


def status_rows(facts: RunFacts, zone: dt.tzinfo | None = None) -> list[list[str]]:
    """Returns a row a job, in the order of the work.

    Args: zone: of the times shown; default: this machine's.
    """
    return [_row(facts, box, zone) for box in boxes(facts) if box.job is not None]


def _row(facts: RunFacts, box: Box, zone: dt.tzinfo | None) -> list[str]:
    assert box.job is not None
    used = facts.used.get(box.job)
    refused = facts.refusals.get(box.job)
    lines = [", ".join(box.lines)] if box.lines else []
    if refused is not None:
        lines.append(f"refused {refused.at.astimezone(zone):%Y-%m-%d %H:%M}: {refused.reason}")
    left = "; ".join(lines) or "has not run"
    if used is None:
        return [box.job, NOT_YET, NOT_YET, NOT_YET, left]
    size = f"{used.peak_bytes / 2**30:.2f} GiB ({used.peak_process})"
    return [box.job, f"{used.began.astimezone(zone):%Y-%m-%d %H:%M}", duration(used.seconds), size, left]


def show_status(facts: RunFacts) -> None:
    table(facts.run.title, COLUMNS, status_rows(facts), texts=(0, 1, 4))
    for warning in facts.warnings:
        out.print(f"[yellow]{warning}[/yellow]")
