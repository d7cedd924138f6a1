"""A Pushgateway's stand-in on loopback: it keeps what is pushed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Push:
    method: str
    path: str
    authorization: str | None
    body: str


@dataclass
class Gateway:
    """Where it listens, what came, and what it answers."""

    url: str = ""
    pushes: list[Push] = field(default_factory=list)
    status: int = 200


@contextmanager
def gateway() -> Iterator[Gateway]:
    found = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            found.pushes.append(Push(self.command, self.path, self.headers.get("Authorization"), body))
            self.send_response(found.status)
            self.end_headers()

        do_PUT = do_POST = answer  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
