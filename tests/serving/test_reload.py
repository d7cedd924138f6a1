"""A new version is loaded beside the old one and swapped in: no request is dropped, none is answered by halves."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from dssm.errors import UserError
from dssm.paths import RunPaths
from dssm.serving.loaded import Loaded
from dssm.serving.metrics import Metrics
from dssm.serving.reload import Current
from dssm.serving.serve import listening
from jobs.serve import main
from tests.datasets import ITEMS
from tests.serving.clients import app_of, serving
from tests.serving.runs import USERS, publish_day, publish_fewer

pytestmark = pytest.mark.slow

CLIENTS = 4
PAUSE_S = 0.005  # of a client, between requests: the version that is loaded needs the processor as well


class Table:
    """What `find` and `load` see: versions by number; those in `broken` can't be loaded."""

    def __init__(self) -> None:
        self.version, self.loads = 1, 0
        self.broken: set[int] = set()

    def find(self) -> Any:
        return self.version

    def load(self, version: Any) -> Any:
        self.loads += 1
        if version in self.broken:
            raise UserError("disk on fire")
        return SimpleNamespace(version=version, facts={"version": version, "date": "d", "index": "exact"})


def wait_for(done: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_a_version_is_loaded_once_and_swapped() -> None:
    table, metrics = Table(), Metrics()
    current = Current(table.find, table.load, metrics, every_s=0.01)
    with current:
        time.sleep(0.05)
        assert (current.loaded.version, table.loads) == (1, 1)
        table.version = 2
        wait_for(lambda: "dssm_reloads_total 1" in metrics.text({}, {}))
    assert (current.loaded.version, table.loads) == (2, 2)
    table.version = 3
    time.sleep(0.05)
    assert current.loaded.version == 2  # the watch has ended


def test_a_version_that_can_not_be_loaded_leaves_the_old_one_to_answer(capsys: pytest.CaptureFixture[str]) -> None:
    table, metrics = Table(), Metrics()
    current = Current(table.find, table.load, metrics)
    table.version, table.broken = 2, {2}
    assert not current.look()
    assert current.loaded.version == 1
    assert "dssm_reload_failures_total 1" in metrics.text({}, {})
    assert "reload failed, the loaded version goes on: disk on fire" in capsys.readouterr().err
    table.broken = set()
    assert current.look()
    assert current.loaded.version == 2
    table.version = 1  # a rollback
    assert current.look()
    assert current.loaded.version == 1


@contextmanager
def hammered(url: str) -> Iterator[list[tuple[int, str, list[str]]]]:
    """Sends requests from some clients until the block ends. Yields: status, version and items of each answer."""
    stop, answers = threading.Event(), []

    def ask(number: int) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not stop.is_set():
                if number % 2:
                    answer = client.get("/recommend", params={"user": USERS[number], "count": ITEMS, "seen": True})
                else:
                    answer = client.post("/recommend", json={"features": {"age": number}, "count": ITEMS})
                body = answer.json()
                answers.append((answer.status_code, body.get("version"), [row["item"] for row in body["items"]]))
                time.sleep(PAUSE_S)

    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(ask, number) for number in range(CLIENTS)]
        try:
            yield answers
        finally:
            stop.set()
        for one in asking:
            one.result(timeout=30)  # an error of a client's is an error here


def test_reloads_and_the_end_drop_nothing(own_run: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"v1": ITEMS, "v2": 7, "v3": 12}
    begun, top = threading.Event(), Loaded.top

    def slow(*asked: Any) -> Any:
        begun.set()
        time.sleep(0.5)
        return top(*asked)

    with ThreadPoolExecutor(1) as pool:
        with serving(app_of(own_run, every_s=0.02)) as url:
            with hammered(url) as answers:
                for version in sizes:
                    if version != "v1":
                        publish_fewer(own_run, version, sizes[version])
                    wait_for(lambda version=version: any(told == version for _, told, _ in answers))  # type: ignore[misc]
            monkeypatch.setattr(Loaded, "top", slow)
            last = pool.submit(httpx.get, f"{url}/recommend?user=user1", timeout=30)
            assert begun.wait(10)
        assert last.result().status_code == 200  # the service was told to end while it answered
    assert {status for status, _, _ in answers} == {200}
    assert {version for _, version, _ in answers} == set(sizes)
    for _, version, items in answers:  # each answer is of one version: all of its items, and no other's
        assert set(items) == {f"item{number:02d}" for number in range(sizes[version])}


DAY, NEXT = "2024-01-08", "2024-01-09"


@pytest.mark.parametrize(
    ("asked", "follows"), [("{pipeline}", True), ("{pipeline}/" + DAY, False), ("{folder}", False)]
)
def test_a_service_of_a_name_goes_on_to_a_newer_date_others_stay(
    own_run: RunPaths, asked: str, follows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    apps: list[FastAPI] = []

    class Kept:
        def __init__(self, config: uvicorn.Config) -> None:
            apps.append(config.app)  # type: ignore[arg-type]

        def run(self, sockets: list[socket.socket]) -> None: ...

    monkeypatch.setattr("jobs.serve.THREADS", ())
    monkeypatch.setattr("dssm.serving.serve.uvicorn.Server", Kept)
    monkeypatch.setattr("dssm.serving.serve.signal.signal", lambda *_: None)
    monkeypatch.setattr("dssm.serving.serve.Current", partial(Current, every_s=0.02))
    root, pipeline, _ = own_run.folder.rsplit("/", 2)
    main([asked.format(pipeline=pipeline, folder=own_run.folder), "--root", root, "--port", "0"])

    def told() -> tuple[str, str, int]:
        found = client.get("/health").json()
        return found["date"], found["version"], found["items"]

    with TestClient(apps[0]) as client:
        assert told() == (DAY, "v1", ITEMS)
        publish_day(own_run, NEXT, "v1", 4)
        if follows:
            wait_for(lambda: told() == (NEXT, "v1", 4))
            answer = client.get("/recommend", params={"user": USERS[0], "seen": True}).json()
            assert sorted(row["item"] for row in answer["items"]) == [f"item{number:02d}" for number in range(4)]
        publish_fewer(own_run, "v2", 7)
        publish_day(own_run, NEXT, "v2", 5) if follows else None
        wait_for(lambda: told() == ((NEXT, "v2", 5) if follows else (DAY, "v2", 7)))


def test_a_port_that_is_taken_is_named() -> None:
    with listening("127.0.0.1", 0) as taken:
        assert taken.proto == socket.IPPROTO_TCP  # without it asyncio leaves Nagle's algorithm on
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"--port {port}: .*expected a free address, or port 0"):
            listening("127.0.0.1", port)
    with pytest.raises(UserError, match="--port 99999"):
        listening("127.0.0.1", 99999)
