"""Task times from Spark's event log: a straggler is a task that takes much longer than the others of its stage."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """Tasks of one stage, in seconds from launch to end."""

    number: int
    name: str
    tasks: tuple[float, ...]

    @property
    def median_s(self) -> float:
        return statistics.median(self.tasks)

    @property
    def longest_s(self) -> float:
        return max(self.tasks)

    @property
    def straggling(self) -> float:
        """The longest task over the median one."""
        return self.longest_s / self.median_s


def stages(log: Iterable[str]) -> list[Stage]:
    """Returns the stages of an event log that ran, by number; tasks that failed are left out.

    Args:
      log: its JSON lines.
    """
    names: dict[int, str] = {}
    tasks: dict[int, list[float]] = {}
    for line in log:
        event = json.loads(line)
        if event["Event"] == "SparkListenerStageCompleted":
            names[event["Stage Info"]["Stage ID"]] = event["Stage Info"]["Stage Name"]
        elif event["Event"] == "SparkListenerTaskEnd" and event["Task End Reason"]["Reason"] == "Success":
            task = event["Task Info"]
            # Below a millisecond Spark notes none: a ratio needs one.
            seconds = max(task["Finish Time"] - task["Launch Time"], 1) / 1000
            tasks.setdefault(event["Stage ID"], []).append(seconds)
    return [Stage(number, names.get(number, ""), tuple(times)) for number, times in sorted(tasks.items())]


def slowest(found: Iterable[Stage], count: int) -> list[Stage]:
    """Returns the stages of several tasks whose longest task is longest, the longest first."""
    several = [stage for stage in found if len(stage.tasks) > 1]
    return sorted(several, key=lambda stage: -stage.longest_s)[:count]
