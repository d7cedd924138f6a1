"""The log of a job at a date: JSON lines, one a record.

Each has `time` (UTC), `level`, `run_id`, `run` (NAME/DATE), `job`, `date`, `stage` and `message`; where there are some,
`counts`, `seconds`, `measures` and `traceback`. What looks like a secret is not shown.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from dssm import storage
from dssm.console import LOGGER, OFF, warn
from dssm.errors import UserError
from dssm.secrets import hide_secrets, secrets_of

_OF_THREAD: ContextVar[JobLog | None] = ContextVar("job log", default=None)
_OPEN: list[JobLog] = []
_OPENING = threading.Lock()


class JobLog(logging.Handler):
    """Writes the records of one job at one date to a file.

    Dates may run side by side in threads: a record goes to the log of its thread, and one of a thread that has none,
    such as a listener's, to the log that was opened last.
    """

    def __init__(self, path: str, level: int, common: Mapping[str, str]) -> None:
        """Opens the file; records go on behind those that it has.

        Raises: UserError where it can't be written.
        """
        super().__init__(level)
        self._path, self._common = path, dict(common)
        self._secrets = secrets_of(os.environ)
        system, place = storage.filesystem(path)
        self._scratch: str | None = None
        if isinstance(system, LocalFileSystem):
            storage.make_folder(str(Path(place).parent))
        else:  # where files can't grow: written here, and put there at the end
            handle, self._scratch = tempfile.mkstemp(prefix="dssm-", suffix=".jsonl")
            os.close(handle)
            if system.exists(place):
                Path(self._scratch).write_bytes(storage.read_bytes(path))
            place = self._scratch
        try:
            self._file = Path(place).open("a", encoding="utf-8")  # noqa: SIM115  (closed with the handler)
        except OSError as error:
            raise UserError(
                f"{path}: can't be written ({error.strerror}); expected a run's folder to write in"
            ) from error

    @property
    def place(self) -> str:
        """Where it is, or where it could not be put."""
        return self._path if self._scratch is None else f"{self._path} (still in {self._scratch})"

    def filter(self, record: logging.LogRecord) -> bool:
        mine = _OF_THREAD.get()
        return super().filter(record) if mine is self or (mine is None and _OPEN[-1:] == [self]) else False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._file.write(self.line(record) + "\n")
            self._file.flush()
        except Exception:
            self.handleError(record)

    def line(self, record: logging.LogRecord) -> str:
        """Returns a record as a line of JSON, without its end."""
        at = dt.datetime.fromtimestamp(record.created, dt.UTC)
        fields = dict(getattr(record, "fields", {}))
        shown = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            **self._common,
            "stage": fields.pop("stage", None),
            "message": hide_secrets(record.getMessage(), self._secrets),
        }
        if record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info)
            fields["traceback"] = trace
        told = {name: self._without_secrets(value) for name, value in fields.items() if value not in (None, {})}
        return json.dumps(shown | told, ensure_ascii=False)

    def _without_secrets(self, value: Any) -> Any:
        """Returns what a record tells beside its message: texts, such as a table's cells, at any depth."""
        if isinstance(value, Mapping):
            return {name: self._without_secrets(below) for name, below in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._without_secrets(below) for below in value]
        return hide_secrets(value, self._secrets) if isinstance(value, str) else value

    def close(self) -> None:
        super().close()
        self._file.close()
        if self._scratch is not None:
            storage.put_file(self._scratch, self._path)
            Path(self._scratch).unlink()


@contextlib.contextmanager
def logged_to(handler: JobLog) -> Iterator[None]:
    """Lets the records of this thread go to a log while the block runs; the log is closed when it ends."""
    with _OPENING:
        _OPEN.append(handler)
        LOGGER.addHandler(handler)
        LOGGER.setLevel(min(of_date.level for of_date in _OPEN))
    token = _OF_THREAD.set(handler)
    try:
        yield
    finally:
        _OF_THREAD.reset(token)
        with _OPENING:
            _OPEN.remove(handler)
            LOGGER.removeHandler(handler)
            LOGGER.setLevel(min((of_date.level for of_date in _OPEN), default=OFF))
        try:
            handler.close()
        except Exception as error:  # the job is over: that its log is not where it belongs must not end it otherwise
            warn(f"  {handler.place}: the log can't be completed ({error})")
