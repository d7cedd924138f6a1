"""A headless Chromium for tests: pages as a person sees them, and what the browser has to say against them.

It is driven over its debugging pipe: file descriptors 3 and 4, JSON ended by a zero byte
(https://chromedevtools.github.io/devtools-protocol). Scripts of a test run in a page whatever the page's own policy
forbids its scripts.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
TIMEOUT_S = 60.0  # of one answer: the machine may be busy
DESKTOP, PHONE = (1280, 900), (390, 844)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip


def find_chromium() -> str | None:
    """Returns the path of a Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Page:
    """A page that is open.

    Attributes:
      complaints: the console's errors and warnings, exceptions of scripts, and what the page's policy refused.
      requests: addresses asked for, the page's own left out.
    """

    browser: Browser
    session: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> Any:
        return self.browser.call(method, self.session, **parameters)

    def go(self, url: str) -> None:
        """Opens another address in the page and waits until it is loaded."""
        self.browser.load(self, url)

    def evaluate(self, script: str) -> Any:
        """Returns the value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def show(self, size: tuple[int, int], dark: bool = False, media: str = "") -> None:
        """Sets the window's width and height, and what the page is shown on: `screen`, `print`, or as it is used."""
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def move_to(self, x: float, y: float) -> None:
        """Moves the mouse, in the window's pixels."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path: Path, full: bool = True) -> None:
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self) -> bytes:
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True)["data"])


class Browser:
    """A Chromium of its own, with a profile in `folder`. Close it."""

    def __init__(self, program: str, folder: Path) -> None:
        to_child, self._write = os.pipe()
        self._read, from_child = os.pipe()
        line = [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        shell = ["bash", "-c", f'exec "$@" 3<&{to_child} 4>&{from_child}', "bash", *line]
        self._process = subprocess.Popen(
            shell, pass_fds=(to_child, from_child), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_child)
        os.close(from_child)
        self._numbers = itertools.count(1)
        self._pending = b""
        self._pages: dict[str, Page] = {}
        self._loaded: set[str] = set()

    def close(self) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self.call("Browser.close")
        for end in (self._write, self._read):
            os.close(end)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @contextlib.contextmanager
    def page(self, url: str, size: tuple[int, int] = DESKTOP, dark: bool = False) -> Iterator[Page]:
        """Opens a page and waits until it is loaded; closes it at the end of the block."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.show(size, dark)
        self.load(page, url)
        yield page
        self.call("Target.closeTarget", targetId=target)

    def load(self, page: Page, url: str) -> None:
        self._loaded.discard(page.session)
        answer = page.call("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        self._wait(lambda: page.session in self._loaded, f"{url} to load")
        page.requests[:] = [asked for asked in page.requests if asked != url]

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Sends a command and returns its answer."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer: dict[str, Any] = {}
        self._wait(lambda: bool(answer), method, number, answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _wait(self, is_done: Any, what: str, number: int = 0, answer: dict[str, Any] | None = None) -> None:
        """Handles messages until something is so; the message with this number goes to `answer`."""
        end = time.monotonic() + TIMEOUT_S
        while not is_done():
            for message in self._messages(end, what):
                if number and message.get("id") == number and answer is not None:
                    answer.update(message)
                elif "method" in message:
                    self._heard(message)

    def _messages(self, end: float, what: str) -> Iterator[dict[str, Any]]:
        ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"Chromium: no answer in {TIMEOUT_S:g} s, waiting for {what}"
        data = os.read(self._read, 1 << 20)
        assert data, f"Chromium ended, waiting for {what}"
        *whole, self._pending = (self._pending + data).split(b"\0")
        yield from map(json.loads, whole)

    def _heard(self, message: dict[str, Any]) -> None:
        page = self._pages.get(message.get("sessionId", ""))
        if page is None:
            return
        method, told = message["method"], message["params"]
        if method == "Page.loadEventFired":
            self._loaded.add(page.session)
        elif method == "Network.requestWillBeSent":
            page.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            page.complaints.append(str(told["exceptionDetails"]))
        elif method == "Log.entryAdded":
            page.complaints.append(f"{told['entry']['level']}: {told['entry']['text']}")
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            page.complaints.append(f"{told['type']}: {told['args']}")
