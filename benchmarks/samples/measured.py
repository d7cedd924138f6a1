"""A command's time and the memory of its whole process tree: the same measure for every side."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

EVERY_S = 0.2
IDLE_PER_SAMPLE = 9  # asking for a process's memory stops it for a moment: at most a tenth of the time goes to it


@dataclass(frozen=True)
class Measured:
    """What a command printed and used.

    wall_s: from its start to its end. cpu_s: of all its processes, also of those that nobody waits for, as Spark's
    Python workers, up to when they were last seen. peak_bytes: the largest sum, at one moment, of
    their proportional set sizes, in which a page that processes share counts once. largest_bytes: the largest
    resident set of a single process, and largest_name that process's name.
    """

    output: str
    wall_s: float
    cpu_s: float
    peak_bytes: int
    largest_bytes: int
    largest_name: str


class Sampler:
    """Samples a process and all below it until `stop`."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes, self.largest_bytes, self.largest_name = 0, 0, ""
        self._cpu_s: dict[int, float] = {}
        self._root = psutil.Process(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    @property
    def cpu_s(self) -> float:
        return sum(self._cpu_s.values())

    def _run(self) -> None:
        spent = 0.0
        while not self._done.wait(max(EVERY_S, IDLE_PER_SAMPLE * spent)):
            started = time.perf_counter()
            self._sample()
            spent = time.perf_counter() - started

    def _sample(self) -> None:
        total = 0
        try:
            processes = [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return
        for process in processes:
            try:
                used = process.cpu_times()
                self._cpu_s[process.pid] = used.user + used.system
                memory, name = process.memory_full_info(), process.name()
            except psutil.Error:  # it has ended since
                continue
            total += memory.pss
            if memory.rss > self.largest_bytes:
                self.largest_bytes, self.largest_name = memory.rss, name
        self.peak_bytes = max(self.peak_bytes, total)


def measured(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> Measured:
    """Runs a command to its end.

    Args:
      folder: its working directory.
      environment: variables over those of this process.
    Raises: RuntimeError with the end of its output where it fails.
    """
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        sampler = Sampler(process.pid)
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - started
        sampler.stop()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n{output[-4000:]}")
    return Measured(
        output=output,
        wall_s=wall_s,
        cpu_s=max(used.ru_utime + used.ru_stime, sampler.cpu_s),
        peak_bytes=sampler.peak_bytes,
        largest_bytes=sampler.largest_bytes,
        largest_name=sampler.largest_name,
    )
