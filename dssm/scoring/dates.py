"""A table over several dates: a backfill that goes on where a gate refuses one, so many dates at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from dssm.config import Settings
from dssm.console import heading, out, warn
from dssm.errors import GateError
from dssm.observe.job import first_line, observed
from dssm.report.run_report import reported
from dssm.usage import usage_reported


def publish_dates(job: str, dates: Sequence[Settings], at_once: int, publish: Callable[[Settings], object]) -> None:
    """Publishes each date. What is published already is found so, and made no second time.

    A date that a gate refuses does not keep the others back; with any other error no further date begins, and the job
    ends when those that have begun are done. The dates refused until then, and the errors of others, are said before
    it. Each date's run gets its report.
    Dates at once see as `published last` whatever is there when they begin.

    Args:
      job: its name.
      dates: settings of each.
      at_once: dates side by side, at most.
      publish: one date.
    Raises: GateError that names the dates refused, once all are done; else the error of the first date that has one.
    """
    refused: dict[str, GateError] = {}

    def run(settings: Settings) -> None:
        heading(f"{job} {settings.name} {settings.date.isoformat()}")
        try:
            with observed(settings, job), reported(settings, job), usage_reported(job, settings.run_folder):
                publish(settings)
        except GateError as error:
            if len(dates) == 1:
                raise
            refused[settings.date.isoformat()] = error
            out.print(str(error), markup=False)

    try:
        _run_all(run, dates, at_once)
    except BaseException:
        if refused:  # the error that ends the job says nothing of them
            warn(_told(refused, len(dates)))
        raise
    if refused:
        raise GateError(_told(refused, len(dates)))


def _run_all(run: Callable[[Settings], None], dates: Sequence[Settings], at_once: int) -> None:
    if at_once == 1:
        for settings in dates:
            run(settings)
        return
    ends = threading.Event()

    def run_next(settings: Settings) -> None:
        if ends.is_set():
            return
        try:
            run(settings)
        except BaseException:
            ends.set()  # here: this thread takes up the next date before another hears of the error
            raise

    with ThreadPoolExecutor(at_once) as pool:
        begun = [pool.submit(run_next, settings) for settings in dates]
        try:
            wait(begun)
        finally:
            ends.set()  # where this thread is interrupted
    failed = [(settings, error) for settings, done in zip(dates, begun, strict=True) if (error := done.exception())]
    for settings, error in failed[1:]:
        warn(f"  {settings.date.isoformat()}: {first_line(error)}")
    if failed:
        raise failed[0][1]


def _told(refused: Mapping[str, GateError], dates: int) -> str:
    """Returns which of so many dates the gates refused, each with its first reason."""
    reasons = (f"{date}: {str(error).splitlines()[0]}" for date, error in sorted(refused.items()))
    return f"{len(refused)} of {dates} dates were refused: {'; '.join(reasons)}"
