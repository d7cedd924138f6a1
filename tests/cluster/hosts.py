"""A standalone Spark cluster of the PySpark wheel, whose workers can't see this checkout.

On loopback, or each worker on a host of its own: a network namespace with its own address, which can be cut off.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyspark
import pytest

from tests.pipeline import PROJECT, SHORT_LIVED

START_LIMIT_S = 90
PYSPARK = Path(pyspark.__file__).parent
CLASSES = "org.apache.spark.deploy"
ASK = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=5).read().decode())"


@dataclass
class Host:
    """Where processes run: the command that brings them there, and their address."""

    name: str
    address: str = "127.0.0.1"
    enter: list[str] = field(default_factory=list)


@dataclass
class Cluster:
    """A master with the driver's host, and workers."""

    url: str
    folder: Path
    driver: Host
    workers: list[Host]
    page: str

    def alive_workers(self) -> int:
        """Asks the master's page, from its host."""
        asked = subprocess.run(
            [*self.driver.enter, sys.executable, "-c", ASK, self.page], capture_output=True, text=True, check=False
        )
        return int(json.loads(asked.stdout)["aliveworkers"]) if asked.returncode == 0 else 0

    def work_folder(self, host: Host) -> Path:
        return self.folder / f"work-{host.name}"

    def drop_work(self) -> None:
        """Removes what ended applications have left with the workers."""
        for host in self.workers:
            shutil.rmtree(self.work_folder(host), ignore_errors=True)
            self.work_folder(host).mkdir()


def can_hide() -> bool:
    """Whether a mount namespace of its own can be had, in which a folder is covered by an empty one."""
    tried = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(tried, capture_output=True).returncode == 0


def _hiding(folder: Path) -> list[str]:
    """Returns the command that runs another one where this checkout is empty; Spark and Java stay, at other paths."""
    java = Path(os.environ["JAVA_HOME"])
    script = folder / "hidden.sh"
    script.write_text(
        "#!/bin/sh\n# $0 COMMAND…: runs it where the checkout is an empty folder\nset -e\n"
        f"mkdir -p {shlex.quote(str(folder / 'spark'))} {shlex.quote(str(folder / 'java'))}\n"
        f"mount --bind {shlex.quote(str(PYSPARK))} {shlex.quote(str(folder / 'spark'))}\n"
        f"mount --bind {shlex.quote(str(java))} {shlex.quote(str(folder / 'java'))}\n"
        f"mount -t tmpfs -o size=1m tmpfs {shlex.quote(str(PROJECT))}\n"
        f"export SPARK_HOME={shlex.quote(str(folder / 'spark'))} JAVA_HOME={shlex.quote(str(folder / 'java'))}\n"
        'exec "$@"\n'
    )
    script.chmod(0o755)
    return ["unshare", "--mount", str(script)]


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@contextlib.contextmanager
def started(
    folder: Path, driver: Host, workers: Sequence[Host], conf: Mapping[str, str], memory: str = "3g"
) -> Iterator[Cluster]:
    """Yields a cluster whose workers of one core each have registered. Args: conf: of master and workers."""
    home = folder / "cluster"
    home.mkdir()
    port, web = free_port(), free_port()
    properties = home / "daemons.conf"
    properties.touch(mode=0o600)
    properties.write_text("".join(f"{key} {value}\n" for key, value in conf.items()))
    hiding = _hiding(home) if can_hide() else []
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    processes: list[subprocess.Popen[bytes]] = []

    def start(host: Host, kind: str, enter: Sequence[str], *arguments: str) -> None:
        log = (home / f"{kind.lower()}-{host.name}.log").open("w")
        spark = home / "spark" if enter[-1:] == hiding[-1:] != [] else PYSPARK
        line = [*enter, str(spark / "bin/spark-class"), f"{CLASSES}.{kind.lower()}.{kind}"]
        line += ["--properties-file", str(properties), "--host", host.address, *arguments]
        environment = {
            **kept, "SPARK_HOME": str(PYSPARK), "SPARK_LOCAL_IP": host.address, "SPARK_NO_DAEMONIZE": "1",
            "SPARK_DAEMON_JAVA_OPTS": SHORT_LIVED,
        }  # fmt: skip
        processes.append(subprocess.Popen(line, env=environment, cwd=home, stdout=log, stderr=subprocess.STDOUT))

    page = f"http://{driver.address}:{web}/json/"
    cluster = Cluster(f"spark://{driver.address}:{port}", home, driver, list(workers), page)
    try:
        start(driver, "Master", driver.enter, "--port", str(port), "--webui-port", str(web))
        for host in workers:
            place = cluster.work_folder(host)
            place.mkdir()
            options = ["--cores", "1", "--memory", memory, "--work-dir", str(place), "--webui-port", "0"]
            start(host, "Worker", [*host.enter, *hiding], *options, cluster.url)
        limit = time.monotonic() + START_LIMIT_S
        while cluster.alive_workers() < len(workers):
            if time.monotonic() > limit:
                logs = "\n".join(path.read_text()[-2000:] for path in home.glob("*.log"))
                pytest.fail(f"the cluster did not start in {START_LIMIT_S} s:\n{logs}")
            time.sleep(0.3)
        yield cluster
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=30)
