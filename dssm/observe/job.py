"""A job as its operators see it: one log, its metrics, and how it ended."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dssm import storage
from dssm.attempts import Attempt, note_attempt
from dssm.config import Settings
from dssm.console import LOGGER, log, warn
from dssm.errors import UserError, exit_code_of
from dssm.observe.metrics import Sample, of_attempt, of_measures, of_results, of_stages, push_metrics, write_metrics
from dssm.observe.records import JobLog, logged_to
from dssm.paths import RunPaths, spark_log_file
from dssm.report.run_facts import read_facts
from dssm.secrets import hide_secrets, secrets_of


class _Collector(JobLog):
    """A job's log that also remembers what its records say of steps and of the moment."""

    def __init__(self, settings: Settings, job: str, attempt: Attempt) -> None:
        date = settings.date.isoformat()
        common = {"run_id": attempt.run_id, "run": f"{settings.name}/{date}", "job": job, "date": date}
        self._least = getattr(logging, settings.observe.level.upper())
        # Whatever the level of the file is: what records say counts.
        super().__init__(RunPaths(settings.run_folder).job_log(job), logging.DEBUG, common)
        self.seconds: dict[str, float] = defaultdict(float)
        self.measures: dict[str, float] = {}
        self.failed_stage: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        fields = getattr(record, "fields", {})
        if "seconds" in fields and fields.get("stage"):
            self.seconds[fields["stage"]] += fields["seconds"]
            if fields.get("failed") and self.failed_stage is None:  # the innermost
                self.failed_stage = fields["stage"]
        self.measures |= fields.get("measures", {})
        if record.levelno >= self._least:
            super().emit(record)


@contextlib.contextmanager
def observed(settings: Settings, job: str) -> Iterator[None]:
    """Logs a job at a date to a file, notes how it ended, and writes its metrics.

    What can't be written at its end, or pushed, is told as a warning: it never ends the job, nor hides the error that
    does.

    Raises: UserError before the job begins where the run's folder can't be written.
    """
    paths, attempt = RunPaths(settings.run_folder), Attempt.begin(job)
    collector = _Collector(settings, job, attempt)
    with logged_to(collector):
        note_attempt(paths, attempt)
        log(f"{job} begins", pid=attempt.pid, host=attempt.host)
        try:
            yield
        except BaseException as error:
            told = hide_secrets(first_line(error), secrets_of(os.environ))
            ended = attempt.end(exit_code_of(error), told, collector.failed_stage)
            _log_error(error, ended)
            _finish(settings, collector, ended)
            raise
        ended = attempt.end(0)
        log(f"{job} done", exit_code=0, seconds=_seconds(ended))
        _finish(settings, collector, ended)


@contextlib.contextmanager
def starting(dates: Sequence[Settings], job: str) -> Iterator[None]:
    """Notes an error that comes before a job's dates begin, such as a session that can't start, as that of each."""
    try:
        yield
    except BaseException as error:
        for settings in dates:
            with contextlib.suppress(type(error)), observed(settings, job):
                raise
        raise


def first_line(error: BaseException) -> str:
    """Returns the type of an error that is not the user's, and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[0] if lines else ""
    return told if isinstance(error, UserError) and told else f"{type(error).__name__}: {told}".rstrip(": ")


def _log_error(error: BaseException, ended: Attempt) -> None:
    fields = {"stage": ended.stage, "exit_code": ended.exit_code}
    told = f"{ended.job} failed: {error if isinstance(error, UserError) else first_line(error)}"
    trace = None if isinstance(error, UserError) else (type(error), error, error.__traceback__)
    LOGGER.error("%s", told, exc_info=trace, extra={"fields": fields})


def _seconds(ended: Attempt) -> float:
    assert ended.ended is not None
    return round((ended.ended - ended.began).total_seconds(), 3)


def _finish(settings: Settings, collector: _Collector, ended: Attempt) -> None:
    paths, job, observe = RunPaths(settings.run_folder), ended.job, settings.observe
    samples = _samples(settings, collector, ended)
    places = [paths.metrics(job), *filter(None, [settings.metrics_file(job)])]
    steps: list[Callable[[], None]] = [
        lambda: note_attempt(paths, ended),
        lambda: write_metrics(samples, settings.name, job, places, ended.failed),
        lambda: _keep_spark_log(settings, job),
    ]
    if observe.push_gateway is not None:
        steps.append(lambda: push_metrics(samples, settings.name, job, observe, ended.failed))
    for step in steps:
        try:
            step()
        except Exception as error:  # stores have errors of their own; the job is over: nothing else may come of it
            warn(f"  {first_line(error)}")


def _samples(settings: Settings, collector: _Collector, ended: Attempt) -> list[Sample]:
    date = dt.datetime.combine(settings.date, dt.time(), dt.UTC).timestamp()
    found = [*of_attempt(ended, date), *of_stages(collector.seconds), *of_measures(collector.measures)]
    if not ended.failed:
        try:
            found += of_results(ended.job, read_facts(RunPaths(settings.run_folder), settings))
        except Exception as error:
            warn(f"  metrics without what the job left: {first_line(error)}")
    return found


def _keep_spark_log(settings: Settings, job: str) -> None:
    """Puts Spark's log into the run's folder, where that is not local: log4j2 writes local files only."""
    written, kept = Path(spark_log_file(settings, job)), RunPaths(settings.run_folder).spark_log(job)
    if "://" in kept.removeprefix("file://") and written.exists():
        storage.put_file(str(written), kept)
