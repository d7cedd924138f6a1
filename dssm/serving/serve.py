"""serve: the service in a process of its own."""

from __future__ import annotations

import posixpath
import signal
import socket
import sys
from functools import partial

import uvicorn
from fastapi import FastAPI

from dssm import published
from dssm.console import out
from dssm.errors import UserError
from dssm.paths import RunPaths
from dssm.serving.loaded import IndexKind, find_target, load
from dssm.serving.metrics import Metrics
from dssm.serving.reload import Current
from dssm.serving.service import make_app

BACKLOG = 2048
FINISH_S = 30  # for requests that are being answered when the service is told to end


def serve(paths: RunPaths, host: str, port: int, index: IndexKind, follow: bool) -> None:
    """Answers until the process is told to end; requests that have come are answered first.

    Args:
      paths: of the run.
      host, port: where to listen; port 0: any free one.
      index: what searches.
      follow: answer from the newest date that is published, not from the run's alone.
    Raises: UserError where nothing is published, or the port is taken.
    """
    location = published.run_table(paths.folder, "items")
    pipeline, date = posixpath.split(paths.folder)
    find = partial(find_target, location, pipeline, index, None if follow else date)
    if find() is None:
        raise UserError(f"{location}: nothing is published for {date}; run score_items for it first")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn's own comes before, and ends when all are answered
    metrics = Metrics()
    with listening(host, port) as listener:
        current = Current(find, partial(load, pipeline=pipeline, kind=index), metrics)
        facts = current.loaded.facts
        out.print(f"version {facts['version']} of {facts['date']}, index: {facts['index']}", markup=False)
        server = uvicorn.Server(server_config(make_app(current, metrics)))
        place = listener.getsockname()
        out.print(f"http://{host}:{place[1]}/docs", markup=False)
        server.run(sockets=[listener])


def server_config(app: FastAPI) -> uvicorn.Config:
    """Returns how uvicorn runs the service: without its own logging, which would close the stream of TensorFlow's."""
    return uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, timeout_graceful_shutdown=FINISH_S
    )


def listening(host: str, port: int) -> socket.socket:
    """Returns a socket that listens. Raises: UserError where the address can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Of TCP by name: asyncio sends at once (TCP_NODELAY) only on such; on others an answer took 44 ms instead of 2.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(f"--host {host} --port {port}: {error}; expected a free address, or port 0") from error
    return listener
