"""How each job of a run last went: noted when it begins, and again when it ends, well or not."""

from __future__ import annotations

import datetime as dt
import os
import socket
import uuid
from collections.abc import Mapping

import psutil
from pydantic import BaseModel, ConfigDict

from dssm import storage
from dssm.paths import RunPaths

FOLDER = "attempts"  # in the folder of the jobs
RUN_ID = "DSSM_RUN_ID"  # environment: what a scheduler calls its run


class Attempt(BaseModel):
    """One start of a job at one date.

    Attributes:
      run_id: the scheduler's, or drawn.
      exit_code: None: it has not ended, or was killed.
      error: the first line of what ended it; `stage`: the step that it ended in.
      host, pid: of the driver.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    job: str
    run_id: str
    began: dt.datetime
    ended: dt.datetime | None = None
    exit_code: int | None = None
    error: str | None = None
    stage: str | None = None
    host: str
    pid: int

    @classmethod
    def begin(cls, job: str) -> Attempt:
        run_id = os.environ.get(RUN_ID) or uuid.uuid4().hex[:12]
        return cls(job=job, run_id=run_id, began=dt.datetime.now(dt.UTC), host=socket.gethostname(), pid=os.getpid())

    def end(self, exit_code: int, error: str | None = None, stage: str | None = None) -> Attempt:
        now = dt.datetime.now(dt.UTC)
        return self.model_copy(update={"ended": now, "exit_code": exit_code, "error": error, "stage": stage})

    @property
    def failed(self) -> bool:
        return self.exit_code not in (0, None)

    @property
    def was_killed(self) -> bool:
        """Whether it never ended and its process is gone; False where that can't be known: on another host."""
        if self.exit_code is not None or self.host != socket.gethostname():
            return False
        try:
            return psutil.Process(self.pid).create_time() > self.began.timestamp()  # another process has its number
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:  # another user's
            return False


def note_attempt(paths: RunPaths, attempt: Attempt) -> None:
    place = f"{paths.jobs}/{FOLDER}/{attempt.job}.json"
    storage.write_text(place, attempt.model_dump_json(indent=1) + "\n")


def read_attempts(paths: RunPaths) -> Mapping[str, Attempt]:
    """Returns how each job of a run last went, by its name. What can't be read is left out."""
    folder = f"{paths.jobs}/{FOLDER}"
    if not storage.exists(folder):
        return {}
    found = {}
    for name in storage.file_names(folder, ".json"):
        try:
            attempt = Attempt.model_validate_json(storage.read_bytes(f"{folder}/{name}"))
        except ValueError:  # of another version
            continue
        found[attempt.job] = attempt
    return found
