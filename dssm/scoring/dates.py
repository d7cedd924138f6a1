"""A table over several dates: a backfill that goes on where a gate refuses one, so many dates at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from dssm.config import Settings
from dssm.console import heading, out, warn
from dssm.errors import GateError
from dssm.observe.job import observed
from dssm.report.run_report import reported
from dssm.usage import usage_reported


def publish_dates(job: str, dates: Sequence[Settings], at_once: int, publish: Callable[[Settings], object]) -> None:
    """Publishes each date. What is published already is found so, and made no second time.

    A date that a gate refuses does not keep the others back; any other error ends the job when the dates that have
    begun are done, and those refused until then are said before it. Each date's run gets its report.
    Dates at once see as `published last` whatever is there when they begin.

    Args:
      job: its name.
      dates: settings of each.
      at_once: dates side by side, at most.
      publish: one date.
    Raises: GateError that names the dates refused, once all are done.
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
    with ThreadPoolExecutor(at_once) as pool:
        waiting = [pool.submit(run, settings) for settings in dates]
        try:
            for done in waiting:
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _told(refused: Mapping[str, GateError], dates: int) -> str:
    """Returns which of so many dates the gates refused, each with its first reason."""
    reasons = (f"{date}: {str(error).splitlines()[0]}" for date, error in sorted(refused.items()))
    return f"{len(refused)} of {dates} dates were refused: {'; '.join(reasons)}"
