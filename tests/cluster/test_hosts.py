"""A cluster of several hosts, its connections authenticated and encrypted; a host is cut off in the middle of a job."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cluster.hosts import Cluster, started
from tests.cluster.network import INTERFACE, Network, network, why_not
from tests.cluster.standalone import check_python, notes_of, on, unpacked_in
from tests.cluster.witness import HELD
from tests.pipeline import TABLE_FACTS, Pipeline

REASON = why_not()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]
DATE = "2024-01-15"
SECRET = "a secret that master, workers and driver share"
SECURITY = {
    "spark.authenticate": "true",
    "spark.authenticate.secret": SECRET,
    "spark.network.crypto.enabled": "true",
    "spark.network.crypto.saslFallback": "false",
}
# A host that is silent for so long is given up: by the master, and by the driver.
SILENCE = {
    "spark.executor.heartbeatInterval": "2s",
    "spark.network.timeout": "12s",
    "spark.network.timeoutInterval": "2s",
}


class Hosts(NamedTuple):
    network: Network
    cluster: Cluster
    demo: Pipeline


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory, environments: Path, demo_data: Path) -> Iterator[Hosts]:
    """A driver's host with the master, two workers' hosts, and the small demo's samples, built on them."""
    folder = tmp_path_factory.mktemp("hosts")
    with (
        network(("a", "b")) as net,
        started(folder, net.driver, net.workers, SECURITY | {"spark.worker.timeout": "10"}) as cluster,
    ):
        (cluster.folder / "secret").write_text(SECRET)
        sets = [
            f"spark.security={{secret: {{file: {cluster.folder / 'secret'}}}, interfaces: {INTERFACE}}}",
            *(f"spark.conf.{key}={value}" for key, value in SILENCE.items()),
            "samples.rows_per_file=200", "item_table.gate.better_than=none", "train.stall_shutdown_s=15",
            "train.start_timeout_s=60", "train.checkpoint={every_steps: 20}",
        ]  # fmt: skip
        demo = on(cluster, environments, demo_data, folder / "runs", *sets)
        demo.succeed("build_samples")
        for host in cluster.workers:
            for note in notes_of(cluster, host):
                check_python(note, unpacked_in(environments))
        yield Hosts(net, cluster, demo)


class Running:
    """A job in a process of its own, and what it has said so far."""

    def __init__(self, demo: Pipeline, job: str, *arguments: str) -> None:
        self.said = ""
        self.process = subprocess.Popen(
            demo.line(job, *arguments), cwd=Path(__file__).parents[2], env={**os.environ, **demo.environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def wait_for(self, seen: Callable[[str], bool]) -> None:
        """Reads until what was said fulfils a condition; fails where the job ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if seen(self.said):
                return
        pytest.fail(f"the job ended with exit code {self.process.wait()}:\n{self.said}")

    def end(self) -> int:
        """Reads to the end. Returns: the exit code."""
        assert self.process.stdout is not None
        self.said += self.process.stdout.read()
        return self.process.wait()


def until(seen: Callable[[], object], limit_s: float = 120) -> None:
    """Waits for something to be seen."""
    limit = time.monotonic() + limit_s
    while not seen():
        assert time.monotonic() < limit, "not seen"
        time.sleep(0.2)


@pytest.fixture
def b_is_cut(hosts: Hosts) -> Iterator[Callable[[], None]]:
    """Cuts host b off; mends it at the end, when the master sees it again."""
    b = hosts.network.workers[1]
    yield lambda: hosts.network.cut(b)
    hosts.network.mend(b)
    until(lambda: hosts.cluster.alive_workers() == 2)
    hosts.cluster.drop_work()


def test_a_training_that_loses_a_host_ends_and_goes_on_from_its_checkpoint(
    hosts: Hosts, b_is_cut: Callable[[], None]
) -> None:
    running = Running(hosts.demo, "train", "--set", "train.epochs=300")
    running.wait_for(lambda said: re.search(r"epoch 2/300 ", said) is not None)
    b_is_cut()
    cut_at = time.monotonic()
    code = running.end()
    assert time.monotonic() - cut_at < 120
    assert code == 1, running.said
    assert re.search(r"error: train: a rank was lost: .*10\.77\.0\.3.*; the same command goes on", running.said)
    assert "Traceback" not in running.said


def test_a_scoring_that_loses_a_host_is_completed_by_the_others(
    hosts: Hosts, b_is_cut: Callable[[], None], tmp_path: Path
) -> None:
    held, b = tmp_path / "held", hosts.network.workers[1]
    running = Running(hosts.demo, "score_items", "--set", f"spark.conf.spark.executorEnv.{HELD}={b.address} {held}")
    until(lambda: held.exists() or running.process.poll() is not None)
    assert running.process.poll() is None, running.end()
    b_is_cut()  # with a task that would never end
    assert running.end() == 0, running.said
    (facts,) = hosts.demo.table(TABLE_FACTS.format(table="demo_items", date=DATE))
    assert (facts["row_count"], facts["items"]) == (400, 400)
    assert SECRET not in running.said


def test_an_elastic_training_that_loses_a_host_goes_on_with_the_others(
    hosts: Hosts, b_is_cut: Callable[[], None]
) -> None:
    # Gloo gives a silent rank up after two thirds of the stall's limit; a start takes some time, too.
    sets = [
        "train.launch=spark-elastic",
        "train.stall_shutdown_s=60",
        "train.elastic={min_ranks: 1, max_ranks: 2, commit_every_steps: 10}",
    ]
    running = Running(hosts.demo, "train", *(word for key in [*sets, "train.epochs=40"] for word in ("--set", key)))
    running.wait_for(lambda said: re.search(r"epoch 2/40 ", said) is not None)
    b_is_cut()
    code = running.end()
    print(running.said)
    assert code == 0, running.said
