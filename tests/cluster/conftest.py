"""A standalone Spark cluster on loopback: a master and two workers of one core, from the PySpark wheel."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyspark
import pytest

WORKERS = 2
START_LIMIT_S = 90


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def _alive_workers(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/", timeout=5) as answer:
            return int(json.load(answer)["aliveworkers"])
    except OSError:
        return 0


@pytest.fixture(scope="session")
def spark_master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yields the master's URL, spark://…, with both workers registered."""
    folder = tmp_path_factory.mktemp("cluster")
    home = Path(pyspark.__file__).parent
    port, web = _free_port(), _free_port()
    environment = {**os.environ, "SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_NO_DAEMONIZE": "1"}
    environment |= {"PYSPARK_PYTHON": sys.executable}
    started = []

    def start(name: str, *arguments: str) -> None:
        log = (folder / f"{name}.log").open("w")
        line = [str(home / "bin/spark-class"), *arguments]
        started.append(subprocess.Popen(line, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT))

    master = "org.apache.spark.deploy.master.Master"
    start("master", master, "--host", "127.0.0.1", "--port", str(port), "--webui-port", str(web))
    url = f"spark://127.0.0.1:{port}"
    try:
        for number in range(WORKERS):
            place = str(folder / f"worker-{number}")
            options = [
                "--host",
                "127.0.0.1",
                "--cores",
                "1",
                "--memory",
                "3g",
                "--work-dir",
                place,
                "--webui-port",
                "0",
            ]
            start(f"worker-{number}", "org.apache.spark.deploy.worker.Worker", *options, url)
        limit = time.monotonic() + START_LIMIT_S
        while _alive_workers(web) < WORKERS:
            if time.monotonic() > limit:
                logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
                pytest.fail(f"the cluster did not start in {START_LIMIT_S} s:\n{logs}")
            time.sleep(0.5)
        yield url
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(timeout=30)
