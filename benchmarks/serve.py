"""make bench-serve: how long the service takes to answer, over a run that is published: the demo's, of `make demo`.

The service runs in a process of its own, as `./spark-submit.sh serve` starts it, and its clients in another; both on
loopback, on the same cores. A client sends its next request when it has the answer to the last. A round ends after so
many requests or seconds, whichever is first; the kinds of requests take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from benchmarks.report import report
from dssm.errors import UserError
from dssm.paths import RunPaths
from dssm.report.dataset import open_run
from dssm.report.runs import find_run, published_table

PROJECT = Path(__file__).resolve().parent.parent
RUN, ROOT, INDEX = "demo", "runs", "faiss"
REQUESTS, SECONDS, ROUNDS = 1000, 10.0, 3  # of a kind with so many clients, in a round
CLIENTS = (1, 8)
COUNT = 100  # items of an answer
WARM_UP = 50
START_S = 120
KNOWN, RAW, SIMILAR = "GET /recommend, a user of the samples", "POST /recommend, raw features", "GET /similar"
NOTES = (
    f"{COUNT} items an answer; over connections that stay open, the clients in a process of their own on the same "
    "cores. Milliseconds from a request's first byte to its answer's last, of all rounds together.",
)


def requests_of(paths: RunPaths) -> dict[str, list[tuple[str, str, bytes | None]]]:
    """Returns some requests of each kind, as method, path and body."""
    run = open_run(paths)
    users = [user for batch in run.part("users").batches(["row__user_id"]) for user in batch.column(0).to_pylist()]
    items = [item for batch in run.part("items").batches(["row__item_id"]) for item in batch.column(0).to_pylist()]
    example = json.loads(Path(paths.card).read_text(encoding="utf-8"))["towers"]["user_tower_raw"]["example"]
    body = json.dumps({"features": example, "count": COUNT}).encode()
    drawn = np.random.default_rng(0)
    return {
        KNOWN: [("GET", f"/recommend?count={COUNT}&user={quote(u)}", None) for u in drawn.choice(users, 200).tolist()],
        RAW: [("POST", "/recommend", body)],
        SIMILAR: [("GET", f"/similar?count={COUNT}&item={quote(i)}", None) for i in drawn.choice(items, 200).tolist()],
    }


def load(url: str, requests: Sequence[Sequence[Any]], clients: int, count: int, seconds: float) -> dict[str, Any]:
    """Sends requests from some clients at once.

    Args:
      requests: method, path and body of each, sent in turn.
      count, seconds: bounds of the whole.
    Returns: `times` in seconds, (answers,); `failed`, how many were not answered with 200; `wall_s`.
    """
    turns, lock = itertools.cycle(requests), threading.Lock()
    left, times, failed = count, [], 0
    end = time.perf_counter() + seconds

    def client() -> None:
        nonlocal left, failed
        place = urlsplit(url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
        while True:
            with lock:
                left -= 1
                if left < 0 or time.perf_counter() > end:
                    return
                method, path, body = next(turns)
            began = time.perf_counter()
            connection.request(method, path, body)
            answer = connection.getresponse()
            answer.read()
            took = time.perf_counter() - began
            with lock:
                times.append(took)
                failed += answer.status != 200

    began = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"times": times, "failed": failed, "wall_s": time.perf_counter() - began}


def in_a_process(url: str, requests: Sequence[Sequence[Any]], clients: int, count: int, seconds: float) -> Any:
    """Calls `load` in a process of its own."""
    code = "import json, sys; from benchmarks.serve import load; print(json.dumps(load(**json.load(sys.stdin))))"
    plain = [(method, path, None if body is None else body.decode()) for method, path, body in requests]
    asked = {"url": url, "requests": plain, "clients": clients, "count": count, "seconds": seconds}
    ended = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(asked), capture_output=True, text=True, check=True, cwd=PROJECT
    )
    return json.loads(ended.stdout)


@contextlib.contextmanager
def service(paths: RunPaths, index: str) -> Iterator[str]:
    """Starts the service on a free port. Yields: its URL. Raises: RuntimeError where it does not end well."""
    line = [sys.executable, str(PROJECT / "jobs" / "serve.py"), paths.folder, "--port", "0", "--index", index]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        url = next((text.strip() for text in lines if text.startswith("http://")), None)
        if url is None:
            raise UserError(f"{paths.folder}: the service did not start")
        yield url.removesuffix("/docs")
    finally:
        process.terminate()
        code = process.wait(timeout=60)
    if code:
        raise RuntimeError(f"the service ended with {code}")


def health(url: str) -> dict[str, Any]:
    """Waits until the service answers. Returns: what it says is loaded."""
    place, end = urlsplit(url), time.monotonic() + START_S
    while True:
        try:
            connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
            connection.request("GET", "/health")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return found


def measured(url: str, requests: Mapping[str, Sequence[Any]], given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Returns `kind, clients` → what all its rounds found."""
    found: dict[str, dict[str, Any]] = {}
    for sent in requests.values():
        in_a_process(url, sent, 1, WARM_UP, given.seconds)
    for _, (kind, sent), clients in itertools.product(range(given.rounds), requests.items(), CLIENTS):
        loaded = in_a_process(url, sent, clients, given.requests, given.seconds)
        sums = found.setdefault(f"{kind}, {clients} client{'s' if clients > 1 else ''}", {})
        for name, value in loaded.items():
            sums[name] = sums[name] + value if name in sums else value
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench-serve", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", default=RUN)
    parser.add_argument("--root", default=ROOT)
    parser.add_argument("--index", choices=("exact", "faiss"), default=INDEX)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args(argv)
    paths = find_run(given.run, given.root, need=published_table("items"))
    with service(paths, given.index) as url:
        loaded = health(url)
        found = measured(url, requests_of(paths), given)
    whole = (given.requests, given.seconds, given.rounds) == (REQUESTS, SECONDS, ROUNDS)
    show(found, loaded, given.index, keep=whole)


def show(found: Mapping[str, Mapping[str, Any]], loaded: Mapping[str, Any], index: str, keep: bool) -> None:
    """Prints and keeps the figures."""
    rows, figures = [], {}
    for name, of in found.items():
        p50, p99 = (float(value) * 1e3 for value in np.percentile(of["times"], [50, 99]))
        rate = len(of["times"]) / of["wall_s"]
        rows.append([name, f"{rate:,.0f}", f"{p50:.1f}", f"{p99:.1f}", str(of["failed"])])
        figures[name] = {"requests_per_s": round(rate, 1), "p50_ms": round(p50, 2), "p99_ms": round(p99, 2)}
    p50s = {name: of["p50_ms"] for name, of in figures.items()}
    ratios = {"raw_features_vs_known_user": p50s[f"{RAW}, 1 client"] / p50s[f"{KNOWN}, 1 client"]}
    title = f"{loaded['items']:,} items, index {index}"
    columns = ["", "requests/s", "p50 ms", "p99 ms", "failed"]
    figures["items"] = {"count": loaded["items"]}
    report("serve", title, columns, rows, ratios, notes=NOTES, figures=figures, keep=keep)


if __name__ == "__main__":
    main()
