"""A lock on a folder, among processes and hosts, kept in the folder's own storage.

Whoever wants it writes a file of its own beside the others' and then lists them: it has the lock where its file is the
only one. Of two that come at once at least one sees the other, for each lists after it has written; who sees another
takes its file back and comes again after a random while. Of the store it is asked only that a listing shows what was
written before it: neither a rename that refuses to overwrite nor clocks that agree.

The holder writes a file of the next number every few seconds, and removes one that is no longer its last. One whose
files have not changed for `EXPIRES_S` died: whoever waits removes them. A holder that was stopped for so long
finds its files gone, at `check`.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence

from dssm import storage
from dssm.console import out
from dssm.errors import UserError

PREFIX = "_lock."
EXPIRES_S, BEAT_S = 60.0, 10.0
WAIT_S = 1800.0  # for another that is alive
PAUSE_S = 0.05, 0.5  # between two looks
TELL_S = 1.0
UNNAMED = "another process"


class Held:
    """A lock that this process has. Args: folder: what it locks."""

    def __init__(self, folder: str) -> None:
        self._folder, self.token = folder, uuid.uuid4().hex
        self._beats = 0
        self.beat()

    def beat(self) -> None:
        """Shows that this process is alive.

        The last file but one goes, not the last: a listing that began before this one was written still finds that.
        """
        system, place = storage.filesystem(self._path(self._beats + 1))
        system.pipe_file(place, f"{socket.gethostname()}, process {os.getpid()}\n".encode())
        self._beats += 1
        storage.remove(self._path(self._beats - 2))

    def is_there(self) -> bool:
        return self.token in _files(self._folder)

    def check(self) -> None:
        """Raises: RuntimeError where the lock is lost: this process stood still for so long that it counted as dead."""
        if not self.is_there():
            raise RuntimeError(
                f"{self._folder}: the lock was lost to another process, since this one stood still for more than "
                f"{EXPIRES_S:.0f} s; run the job again"
            )

    def release(self) -> None:
        _remove(_files(self._folder).get(self.token, ()))

    def _path(self, beat: int) -> str:
        return f"{self._folder}/{PREFIX}{self.token}.{beat}"


def _say(message: str) -> None:
    out.print(f"  {message}", markup=False)


@contextlib.contextmanager
def locked(folder: str, tell: Callable[[str], None] = _say) -> Iterator[Held]:
    """Holds the lock of a folder while the block runs.

    Args:
      folder: it is made where there is none.
      tell: is told once whom this process waits for.
    Raises: UserError where others have held it for `WAIT_S`.
    """
    storage.make_folder(folder)
    held = _acquire(folder, tell)
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(held, done), daemon=True)
    beating.start()
    try:
        yield held
    finally:
        done.set()
        beating.join()
        held.release()


def _acquire(folder: str, tell: Callable[[str], None]) -> Held:
    began, told = time.monotonic(), False
    others = _Others(folder)
    while True:
        if not others.look():
            held = Held(folder)
            try:
                if not others.look(but=held.token):
                    return held
            except BaseException:
                held.release()
                raise
            held.release()
        waited = time.monotonic() - began
        if waited > WAIT_S:
            raise UserError(
                f"{folder}: {others.name()} has been changing it for {WAIT_S / 60:.0f} minutes; expected it to end; "
                "see what it does, then run the job again"
            )
        if not told and waited > TELL_S:
            tell(f"waiting for {others.name()}, which changes {folder}")
            told = True
        time.sleep(random.uniform(*PAUSE_S))


class _Others:
    """Those who have a lock or want it, as one who waits sees them."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._seen: dict[str, tuple[list[str], float]] = {}  # by token: the files, and since when they are the same

    def look(self, but: str | None = None) -> bool:
        """Returns whether there are any, and removes the files of those that died. Args: but: this process."""
        now, seen = time.monotonic(), self._seen
        found = {token: paths for token, paths in _files(self._folder).items() if token != but}
        self._seen = {
            token: seen[token] if token in seen and seen[token][0] == paths else (paths, now)
            for token, paths in found.items()
        }
        dead = [token for token, (_, since) in self._seen.items() if now - since > EXPIRES_S]
        for token in dead:
            _remove(self._seen.pop(token)[0])
        return bool(self._seen)

    def name(self) -> str:
        """Returns host and process of one of them."""
        for paths, _ in self._seen.values():
            with contextlib.suppress(FileNotFoundError):
                return storage.read_text(paths[-1]).strip() or UNNAMED
        return UNNAMED


def _files(folder: str) -> dict[str, list[str]]:
    """Returns the paths of the files of a lock, by the token of who wrote them."""
    found: dict[str, list[str]] = {}
    try:
        names = storage.file_names(folder, "", fresh=True)
    except FileNotFoundError:  # an object store knows no empty folder
        names = []
    for name in names:
        if name.startswith(PREFIX):
            found.setdefault(name.removeprefix(PREFIX).partition(".")[0], []).append(f"{folder}/{name}")
    return found


def _remove(paths: Sequence[str]) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # another who waits removes it too
            storage.remove(path)


def _beat(held: Held, done: threading.Event) -> None:
    while not done.wait(BEAT_S):
        with contextlib.suppress(OSError):  # the next one may succeed; a lock that was lost is found by `check`
            if held.is_there():
                held.beat()
