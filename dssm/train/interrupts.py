"""Ctrl-C in a training: told at once, and not as the loss of a rank."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


class Interrupts:
    """The handler of SIGINT while a training goes on.

    Attributes: met: whether there was one.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        self._launched: threading.Event | None = None
        self._held = False
        self.met = False

    def __call__(self, *_: object) -> None:
        """Raises: KeyboardInterrupt, unless it is held, or Horovod's launcher is to end its ranks first; at once the
        second time.
        """
        again, self.met = self.met, True
        if not again:
            # In a thread, for this one may hold a lock of the terminal. At once, for spark-submit's JVM, which a
            # driver's output goes through, hears Ctrl-C too and is gone within a second.
            threading.Thread(target=self._tell, name="broken off").start()
        if self._held:
            return
        if again or self._launched is None:
            raise KeyboardInterrupt
        self._launched.set()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Has KeyboardInterrupt come at the end of the body: a process that is being started would be left behind."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self.met:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def ending_ranks(self) -> Iterator[None]:
        """Has Horovod's launcher in this process wait for this handler: it would put its own in this one's place."""
        from horovod.runner import gloo_run

        def register() -> threading.Event:
            self._launched = launched = threading.Event()
            signal.signal(signal.SIGTERM, lambda *_: launched.set())
            return launched

        own, gloo_run.register_shutdown_event = gloo_run.register_shutdown_event, register
        try:
            yield
        finally:
            gloo_run.register_shutdown_event = own
            self._launched = None


@contextlib.contextmanager
def interrupts_told(tell: Callable[[], None]) -> Iterator[Interrupts]:
    """Has Ctrl-C call `tell` in a thread, once, and end what goes on.

    Where SIGINT is ignored, as in what a script starts with &, it stays so.

    Raises: KeyboardInterrupt in the place of what a launcher makes of it, a good end too: it is told as broken off.
    """
    interrupts = Interrupts(tell)
    if threading.current_thread() is not threading.main_thread():  # no other one may set a handler
        yield interrupts
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if before[signal.SIGINT] != signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupts)
    try:
        yield interrupts
    except Exception:
        if not interrupts.met:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if interrupts.met:  # without an error, too: once the ranks have ended, nobody looks at the launcher's event
        raise KeyboardInterrupt
