"""The service in the tests' own process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from dssm import published
from dssm.paths import RunPaths
from dssm.serving.loaded import IndexKind, find_target, load
from dssm.serving.metrics import Metrics
from dssm.serving.reload import EVERY_S, Current
from dssm.serving.serve import listening, server_config
from dssm.serving.service import make_app


def app_of(paths: RunPaths, kind: IndexKind = "exact", every_s: float = EVERY_S) -> FastAPI:
    metrics, pipeline = Metrics(), str(Path(paths.folder).parent)
    find = partial(find_target, published.run_table(paths.folder, "items"), pipeline, kind)
    return make_app(Current(find, partial(load, pipeline=pipeline, kind=kind), metrics, every_s), metrics)


def client_of(paths: RunPaths, kind: IndexKind = "exact") -> TestClient:
    return TestClient(app_of(paths, kind))


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Runs the service in a thread, on a free port of loopback. Yields: its URL."""
    server = uvicorn.Server(server_config(app))
    listener = listening("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()
