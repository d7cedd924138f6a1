"""What a job used: seconds, and the memory of its largest process."""

from __future__ import annotations

import datetime as dt
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from pydantic import BaseModel, ConfigDict

from dssm import storage
from dssm.console import measured, out
from dssm.paths import RunPaths

SAMPLE_EVERY_S = 0.5
PEAK = "peak_bytes"


class Usage(BaseModel):
    """What a job used when it ended well."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: str
    began: dt.datetime
    seconds: float
    peak_bytes: int
    peak_process: str


@contextmanager
def usage_reported(job: str, run_folder: str | None = None) -> Iterator[None]:
    """Prints, when the block ends without error, its seconds and the peak memory of its largest process here.

    The processes are this one, the JVM that started it, and all below them: executors' Python workers
    and Horovod's ranks where they run here. Memory is resident, sampled twice a second.

    Args:
      run_folder: of the run, to keep the figures in; see `read_usage`.
    """
    began, started = dt.datetime.now(dt.UTC), time.monotonic()
    peak: dict[str, int] = {}
    done = threading.Event()

    def sample() -> None:
        while True:
            for name, size in _resident(_root()):
                peak[name] = max(peak.get(name, 0), size)
            if done.wait(SAMPLE_EVERY_S):
                return

    sampler = threading.Thread(target=sample, name="memory sampler", daemon=True)
    sampler.start()
    try:
        yield
    finally:
        done.set()
        sampler.join()
        name, size = max(peak.items(), key=lambda item: item[1])
        seconds = time.monotonic() - started
        told = f"{job}: {seconds:.1f} s, largest process {size / 2**30:.2f} GiB ({name})"
        measured(told, {PEAK: size})  # also of a job that fails: it may be why
    out.print(f"[dim]{told}[/dim]", level=None)
    if run_folder is not None:
        used = Usage(job=job, began=began, seconds=seconds, peak_bytes=size, peak_process=name)
        storage.write_text(f"{RunPaths(run_folder).jobs}/{job}.json", used.model_dump_json(indent=1) + "\n")


def read_usage(run_folder: str) -> list[Usage]:
    """Returns what the jobs of a run used when they last ended well, in the order of their starts."""
    folder = RunPaths(run_folder).jobs
    if not storage.exists(folder):
        return []
    found = [
        Usage.model_validate_json(storage.read_bytes(f"{folder}/{n}")) for n in storage.file_names(folder, ".json")
    ]
    return sorted(found, key=lambda usage: usage.began)


def _root() -> psutil.Process:
    """Returns the JVM of spark-submit, which started this process, or this process."""
    process = psutil.Process()
    parent = process.parent()
    return parent if parent is not None and os.environ.get("PYSPARK_GATEWAY_PORT") else process


def _resident(root: psutil.Process) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    try:
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return found
    for process in processes:
        try:
            found.append((process.name(), process.memory_info().rss))
        except psutil.Error:  # it has ended since
            continue
    return found
