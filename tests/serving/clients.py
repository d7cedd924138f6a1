"""The service in the tests' own process."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fastapi import FastAPI
from fastapi.testclient import TestClient

from dssm import published
from dssm.paths import RunPaths
from dssm.serving.loaded import IndexKind, load
from dssm.serving.metrics import Metrics
from dssm.serving.reload import EVERY_S, Current
from dssm.serving.service import make_app


def app_of(paths: RunPaths, kind: IndexKind = "exact", every_s: float = EVERY_S) -> FastAPI:
    find = partial(published.current, published.run_table(paths.folder, "items"))
    metrics, pipeline = Metrics(), str(Path(paths.folder).parent)
    return make_app(Current(find, lambda items: load(items, pipeline, kind), metrics, every_s), metrics)


def client_of(paths: RunPaths, kind: IndexKind = "exact") -> TestClient:
    return TestClient(app_of(paths, kind))
