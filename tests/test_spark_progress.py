from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import pytest

from dssm import spark_progress
from dssm.spark_progress import Running, progress_shown, running

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class Job(NamedTuple):
    stageIds: list[int]  # noqa: N815  (Spark's name)


class Stage(NamedTuple):
    numTasks: int  # noqa: N815
    numActiveTasks: int  # noqa: N815
    numCompletedTasks: int  # noqa: N815


@dataclass
class Tracker:
    """Spark's tracker: jobs and stages by number; what it has forgotten is None."""

    jobs: dict[int, Job | None] = field(default_factory=dict)
    stages: dict[int, Stage] = field(default_factory=dict)

    def getActiveJobsIds(self) -> list[int]:  # noqa: N802
        return list(self.jobs)

    def getJobInfo(self, job: int) -> Job | None:  # noqa: N802
        return self.jobs[job]

    def getStageInfo(self, stage: int) -> Stage | None:  # noqa: N802
        return self.stages.get(stage)


def test_tasks_of_the_stages_that_have_begun() -> None:
    stages = {1: Stage(4, 0, 4), 2: Stage(8, 2, 3), 3: Stage(200, 0, 0), 4: Stage(5, 1, 0)}
    tracker = Tracker({7: Job([1, 2, 3]), 8: Job([2, 4]), 9: None}, stages)
    assert running(tracker) == Running(jobs=3, done=7, tasks=17)
    assert running(Tracker({7: Job([6])}, stages)) == Running(1, 0, 0)
    assert running(Tracker()) == Running(0, 0, 0)


@pytest.mark.spark
def test_a_job_of_spark_is_seen_while_it_runs(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where there is a terminal: one task waits until the other was seen to be done."""
    shown: list[tuple[int, int, str]] = []
    seen = threading.Event()

    def show(done: int, total: int, state: str) -> None:
        shown.append((done, total, state))
        if (done, total) == (1, 2):
            seen.set()

    monkeypatch.setattr(spark_progress, "show_progress", show)
    monkeypatch.setattr(spark_progress, "POLL_EVERY_S", 0.05)
    context = spark.sparkContext
    with progress_shown(spark):
        assert context.parallelize([1], 1).count() == 1
    assert shown == []
    monkeypatch.setattr(type(spark_progress.out), "is_terminal", property(lambda _: True))

    def wait_for_ever(number: int) -> int:
        while number == 1:
            time.sleep(0.1)
        return number

    def run() -> None:
        context.setJobGroup("progress", "waits", interruptOnCancel=True)
        with pytest.raises(Exception, match="cancelled"):
            context.parallelize([0, 1], 2).map(wait_for_ever).count()

    thread = threading.Thread(target=run)
    with progress_shown(spark):
        thread.start()
        assert seen.wait(60)
        context.cancelJobGroup("progress")
        thread.join(60)
    assert not thread.is_alive()
    assert (1, 2, "1/2 tasks") in shown
