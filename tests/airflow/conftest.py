"""A throw-away Airflow, and a checkout whose `spark-submit.sh` only notes how it was called.

These tests run in Airflow's own environment (`make airflow-test`); elsewhere nothing is collected.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

PROJECT = Path(__file__).resolve().parents[2]

HAS_AIRFLOW = any(importlib.metadata.distributions(name="apache-airflow"))
collect_ignore_glob = [] if HAS_AIRFLOW else ["test_*.py"]

_home = pytest.StashKey[tempfile.TemporaryDirectory]()


def pytest_configure(config: pytest.Config) -> None:
    """Points Airflow at an empty home before any test imports it: it reads its settings at import."""
    if not HAS_AIRFLOW:
        return
    config.stash[_home] = tempfile.TemporaryDirectory(prefix="airflow")
    for name in [name for name in os.environ if name.startswith(("AIRFLOW", "_AIRFLOW", "DSSM_"))]:
        del os.environ[name]
    os.environ.update(
        AIRFLOW_HOME=config.stash[_home].name,
        AIRFLOW__CORE__DAGS_FOLDER=str(PROJECT / "dags"),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY="1",
    )


def pytest_unconfigure(config: pytest.Config) -> None:
    if HAS_AIRFLOW:
        config.stash[_home].cleanup()


@dataclass(frozen=True)
class Airflow:
    """An Airflow home with a database; commands run in processes of their own."""

    home: Path
    variables: dict[str, str]

    def start(self, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """Starts a command that stays."""
        with log.open("ab") as sink:
            return subprocess.Popen(self._command(arguments), env=self._environment(), stdout=sink, stderr=sink)

    def run(self, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(arguments),
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
        )

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(f"file:{self.home}/airflow.db?mode=ro", uri=True, timeout=30)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def outcome(self) -> dict[str, tuple[str, int]]:
        """Returns the state and the number of tries of each task of the only run."""
        assert self.query("SELECT count(*) FROM dag_run") == [(1,)]
        rows = self.query("SELECT task_id, state, try_number FROM task_instance")
        return {task: (state, tries) for task, state, tries in rows}

    def _environment(self) -> dict[str, str]:
        patient = f"sqlite:///{self.home}/airflow.db?timeout=60"  # several processes write to it
        own = {"AIRFLOW_HOME": str(self.home), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": patient}
        return {**os.environ, **own, **self.variables}

    @staticmethod
    def _command(arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "airflow", *arguments]


@pytest.fixture(scope="session")
def migrated_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    airflow = Airflow(tmp_path_factory.mktemp("migrated"), {})
    done = airflow.run("db", "migrate")
    assert done.returncode == 0, done.stdout
    return airflow.home


@pytest.fixture
def airflow_home(migrated_home: Path, tmp_path: Path) -> Path:
    home = tmp_path / "airflow-home"
    home.mkdir()
    shutil.copy(migrated_home / "airflow.db", home)  # airflow.cfg holds the path of its own home
    return home


def wait_for(condition: Callable[[], bool], what: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain for {what}"
        time.sleep(0.2)


@dataclass
class Services:
    """What a scheduled run needs, each a process that stays."""

    airflow: Airflow
    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, *names: str) -> None:
        for name in names:
            self.running[name] = self.airflow.start(name, log=self.logs / f"{name}.log")

    def stop(self, *names: str) -> None:
        stopped = [self.running.pop(name) for name in names]
        for service in stopped:
            service.terminate()
        for service in stopped:
            try:
                service.wait(30)
            except subprocess.TimeoutExpired:
                service.kill()
                service.wait()


@contextmanager
def running_scheduler(airflow: Airflow, logs: Path) -> Iterator[Services]:
    """Runs a scheduler with what it needs, the API server and the DAG processor, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    airflow.variables.update(
        AIRFLOW__CORE__EXECUTOR="LocalExecutor",
        AIRFLOW__CORE__PARALLELISM="4",
        AIRFLOW__API__HOST="127.0.0.1",
        AIRFLOW__API__PORT=str(port),
        AIRFLOW__API__WORKERS="1",
        AIRFLOW__API__BASE_URL=f"http://127.0.0.1:{port}",
        AIRFLOW__CORE__EXECUTION_API_SERVER_URL=f"http://127.0.0.1:{port}/execution/",
        AIRFLOW__API_AUTH__JWT_SECRET=secrets.token_hex(32),
        AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK="False",
    )
    services = Services(airflow, logs)
    services.start("api-server", "dag-processor", "scheduler")
    try:
        wait_for(
            lambda: airflow.query("SELECT dag_id FROM dag ORDER BY 1") == [("dssm_daily",), ("dssm_rollback",)],
            "the DAG's first parse",
            240,
        )
        yield services
        assert {name: service.poll() for name, service in services.running.items()} == dict.fromkeys(services.running)
    finally:
        services.stop(*services.running)


SPARK_SUBMIT = """#!{python}
import json, os, signal, subprocess, sys, time
from pathlib import Path

here, job = Path(__file__).parent, sys.argv[1]
calls = here / "calls.jsonl"
with calls.open("a") as log:
    log.write(json.dumps({{"arguments": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}}) + "\\n")
print("job", job, "is on its try", sum(json.loads(line)["arguments"][0] == job for line in calls.open()), flush=True)
codes = json.loads((here / "codes.json").read_text())
code = codes.get(job, [0]).pop(0)
(here / "codes.json").write_text(json.dumps({{name: left for name, left in codes.items() if left}}))
if code == "sleep":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as both children inherit
    children = [subprocess.Popen(["sleep", "600"], start_new_session=own).pid for own in (False, True)]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    (here / "children.new").write_text(json.dumps(children))
    (here / "children.new").rename(here / "children.json")
    time.sleep(600)
if code == "wait":
    while not (here / "go").exists():
        time.sleep(0.1)
    code = 0
sys.exit(code)
"""


@dataclass(frozen=True)
class FakeProject:
    """A checkout in a folder with a space in its name."""

    home: Path

    def end_with(self, **codes: list[int | str]) -> None:
        """Says how the first, second, … call of each job ends; 0 where nothing is said.

        An exit code, "wait" to end well after `go`, or "sleep" to be killed, with two children that heed no SIGTERM:
        one in the job's group, as Spark's Python, and one in a session of its own, as a rank.
        """
        (self.home / "codes.json").write_text(json.dumps(codes))

    def go(self) -> None:
        (self.home / "go").touch()

    def calls(self) -> list[dict[str, Any]]:
        log = self.home / "calls.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def children(self) -> list[int]:
        """Returns which children of a job that sleeps are alive; none before it has started both."""
        noted = self.home / "children.json"
        pids = json.loads(noted.read_text()) if noted.exists() else []
        found = psutil.process_iter(["status"])
        return [child.pid for child in found if child.pid in pids and child.info["status"] != psutil.STATUS_ZOMBIE]

    def jobs(self) -> list[str]:
        return [call["arguments"][0] for call in self.calls()]

    def dates(self) -> list[str]:
        return [call["arguments"][4] for call in self.calls()]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[FakeProject]:
    fake = FakeProject(tmp_path / "a checkout")
    fake.home.mkdir()
    script = fake.home / "spark-submit.sh"
    script.write_text(SPARK_SUBMIT.format(python=sys.executable))
    script.chmod(0o755)
    fake.end_with()
    yield fake
    for child in fake.children():
        os.kill(child, signal.SIGKILL)


@pytest.fixture
def airflow(airflow_home: Path, project: FakeProject) -> Airflow:
    """Airflow on the fake checkout, started from an activated virtual environment."""
    return Airflow(airflow_home, {"DSSM_HOME": str(project.home), "PYTHONPATH": "/nowhere", "VIRTUAL_ENV": sys.prefix})
