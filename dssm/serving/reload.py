"""The version that answers, and the watch that replaces it by a newer one."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dssm.console import err, out
from dssm.serving.loaded import Loaded, Target
from dssm.serving.metrics import Metrics

EVERY_S = 2.0  # between looks at `_current` and index.json: small files
AGAIN_S = 30.0  # before a version that could not be loaded is tried again
FINISH_S = 30.0  # for a load that has begun when the service ends: Python aborts where a thread is in TensorFlow then


class Current:
    """Holds what is loaded. Who answers takes `loaded` once and keeps to it: a swap drops no request."""

    def __init__(
        self,
        find: Callable[[], Target | None],
        load: Callable[[Target], Loaded],
        metrics: Metrics,
        every_s: float = EVERY_S,
    ) -> None:
        """Loads what is current.

        Args:
          find: returns the version that readers of the table take now.
          load: loads it.
          metrics: counts reloads, and those that failed.
          every_s: between looks.
        Raises: UserError where there is none, or it can't be loaded.
        """
        self._find, self._load, self._metrics, self._every_s = find, load, metrics, every_s
        found = find()
        assert found is not None  # the caller has looked
        self._target = found
        self.loaded = load(found)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> Current:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(timeout=FINISH_S)

    def _watch(self) -> None:
        wait = self._every_s
        while not self._stopped.wait(wait):
            wait = self._every_s if self.look() else AGAIN_S

    def look(self) -> bool:
        """Loads another version, where there is one, and swaps it in. Returns: False where that failed."""
        try:
            found = self._find()
            if found is None or found == self._target:
                return True
            loaded = self._load(found)
        except Exception as error:  # whatever it is, the version that is loaded goes on answering
            self._metrics.add("reload_failures")
            err.print(f"reload failed, the loaded version goes on: {error}", markup=False)
            return False
        self.loaded, self._target = loaded, found
        self._metrics.add("reloads")
        told = loaded.facts
        out.print(f"now: version {told['version']} of {told['date']}, index: {told['index']}", markup=False)
        return True
