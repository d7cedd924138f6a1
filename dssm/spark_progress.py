"""How far Spark's running jobs are, shown beside the step that waits for them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from py4j.protocol import Py4JError
from pyspark import StatusTracker
from pyspark.sql import SparkSession

from dssm.console import out, show_progress

POLL_EVERY_S = 0.5
JOIN_LIMIT_S = 5.0  # a session that hangs must not keep a job from ending


@dataclass(frozen=True)
class Running:
    """Tasks of the stages that have begun, of all running jobs."""

    jobs: int
    done: int
    tasks: int

    @property
    def shown(self) -> str:
        """Says how far they are.

        >>> Running(jobs=2, done=3, tasks=8).shown, Running(jobs=1, done=3, tasks=8).shown, Running(0, 0, 0).shown
        ('3/8 tasks of 2 jobs', '3/8 tasks', '')
        """
        if not self.tasks:
            return ""
        return f"{self.done:,}/{self.tasks:,} tasks" + (f" of {self.jobs} jobs" if self.jobs > 1 else "")


def running(tracker: StatusTracker) -> Running:
    """Returns how far the jobs that run now are.

    A stage that has not begun is not counted: nobody can tell it from one that Spark will skip.
    """
    jobs, stages = tracker.getActiveJobsIds(), set()
    for job in jobs:
        info = tracker.getJobInfo(job)
        stages |= set(info.stageIds) if info is not None else set()
    known = (tracker.getStageInfo(stage) for stage in stages)
    begun = [stage for stage in known if stage is not None and stage.numActiveTasks + stage.numCompletedTasks]
    done, tasks = (sum(getattr(stage, name) for stage in begun) for name in ("numCompletedTasks", "numTasks"))
    return Running(len(jobs), done, tasks)


@contextlib.contextmanager
def progress_shown(session: SparkSession) -> Iterator[None]:
    """Shows the tasks of Spark's jobs beside the steps while the block runs, where there is a terminal."""
    if not out.is_terminal:
        yield
        return
    done = threading.Event()
    tracker = session.sparkContext.statusTracker()

    def poll() -> None:
        while not done.wait(POLL_EVERY_S):
            try:
                now = running(tracker)
            except (Py4JError, OSError):  # the session is gone: the job ends for another reason
                return
            show_progress(now.done, now.tasks, now.shown)

    poller = threading.Thread(target=poll, name="Spark's progress", daemon=True)
    poller.start()
    try:
        yield
    finally:
        done.set()
        poller.join(JOIN_LIMIT_S)
