"""A cluster of several hosts, its connections authenticated and encrypted; a host is cut off in the middle of a job."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from dssm import published
from tests.cluster.hosts import Cluster, started
from tests.cluster.network import INTERFACE, Network, network, why_not
from tests.cluster.standalone import check_python, notes_of, on, unpacked_in
from tests.cluster.witness import HELD
from tests.pipeline import TABLE_FACTS, Pipeline, said

REASON = why_not()
pytestmark = [
    pytest.mark.hosts,
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
            "samples.rows_per_file=200", "item_table.gate.better_than=none", "train.stall_shutdown_s=24",
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


@contextmanager
def mended(hosts: Hosts) -> Iterator[Callable[[], None]]:
    """Yields what cuts host b off; mends it at the end, and waits until the master sees it again."""
    b = hosts.network.workers[1]
    try:
        yield lambda: hosts.network.cut(b)
    finally:
        hosts.network.mend(b)
    until(lambda: hosts.cluster.alive_workers() == 2)
    hosts.cluster.drop_work()


def train_if_none_is(demo: Pipeline) -> None:
    if not demo.run_folder(DATE).joinpath("model/manifest.json").exists():
        demo.succeed("train", "--set", "train.ranks=1", "--set", "train.launch=single")


class Lost(NamedTuple):
    """A training that lost a host: its exit code, how long it took to end, what it said; what the next try printed."""

    code: int
    seconds: float
    said: str
    again: str


@pytest.fixture(scope="module")
def lost(hosts: Hosts) -> Lost:
    """A training from which host b is cut off in its fourth epoch, and the same command again when b is back."""
    epochs = ("--set", "train.epochs=16")
    with mended(hosts) as cut_off:
        running = Running(hosts.demo, "train", *epochs)
        running.wait_for(lambda said: "epoch 3/16 " in said)  # the checkpoint of 40 steps is written
        cut_off()
        cut_at = time.monotonic()
        code = running.end()
        seconds = time.monotonic() - cut_at
    again = hosts.demo.run("train", *epochs)
    assert again.returncode == 0, said(again)
    return Lost(code, seconds, running.said, said(again))


def test_a_training_that_loses_a_host_ends_with_one_message(lost: Lost) -> None:
    assert lost.code == 1, lost.said  # a scheduler tries it again
    assert lost.seconds < 120
    assert re.search(r"error: train: a rank was lost: .*10\.77\.0\.3.*; the same command goes on", lost.said), lost.said
    assert "Traceback" not in lost.said
    assert SECRET not in lost.said


def test_the_same_command_goes_on_from_the_last_checkpoint(lost: Lost, hosts: Hosts) -> None:
    assert "epoch 1/16 " in lost.said
    assert "epoch 1/16 " not in lost.again
    assert "epoch 16/16 " in lost.again
    manifest = json.loads((hosts.demo.run_folder(DATE) / "model/manifest.json").read_text())
    assert (manifest["ranks"], len(manifest["loss"])) == (2, 16)


def test_a_scoring_that_loses_a_host_is_completed_by_the_others(hosts: Hosts, tmp_path: Path) -> None:
    train_if_none_is(hosts.demo)
    held, b = tmp_path / "held", hosts.network.workers[1]
    with mended(hosts) as cut_off:
        running = Running(hosts.demo, "score_items", "--set", f"spark.conf.spark.executorEnv.{HELD}={b.address} {held}")
        until(lambda: held.exists() or running.process.poll() is not None)
        assert running.process.poll() is None, running.end()
        cut_off()  # with a task that would never end
        assert running.end() == 0, running.said
    (facts,) = hosts.demo.table(TABLE_FACTS.format(table="demo_items", date=DATE))
    assert (facts["row_count"], facts["items"]) == (400, 400)
    assert SECRET not in running.said


def test_the_model_is_evaluated_and_its_vectors_are_indexed(hosts: Hosts) -> None:
    train_if_none_is(hosts.demo)
    hosts.demo.succeed("evaluate")
    found = hosts.demo.evaluation(DATE)["seen_kept"]
    assert found["popularity"]["recall@50"] < found["model"]["recall@50"]
    if published.read_pointer(f"{hosts.demo.root}/demo/item_table", DATE) is None:
        hosts.demo.succeed("score_items")
    hosts.demo.succeed("index_items")
    (sink,) = json.loads((hosts.demo.run_folder(DATE) / "index.json").read_text())["sinks"]
    assert (sink["count"], sink["switched"]) == (400, True)


def test_an_elastic_training_that_loses_a_host_goes_on_with_the_others(hosts: Hosts) -> None:
    # Gloo gives a silent rank up after two thirds of the stall's limit: 30 s, its own default, for a start takes some.
    sets = [
        "train.launch=spark-elastic", "train.stall_shutdown_s=45", "train.epochs=10", "seed=1",
        "train.elastic={min_ranks: 1, max_ranks: 2, commit_every_steps: 10}",
    ]  # fmt: skip
    with mended(hosts) as cut_off:
        running = Running(hosts.demo, "train", *(word for value in sets for word in ("--set", value)))
        running.wait_for(lambda said: "epoch 1/10 " in said)
        cut_off()
        assert running.end() == 0, running.said
    manifest = json.loads((hosts.demo.run_folder(DATE) / "model/manifest.json").read_text())
    assert (manifest["ranks"], len(manifest["loss"])) == (1, 10)


def test_a_host_that_comes_later_joins_an_elastic_training(hosts: Hosts) -> None:
    sets = [
        "train.launch=spark-elastic", "train.ranks=1", "train.epochs=100", "seed=2",
        "train.elastic={min_ranks: 1, max_ranks: 2, commit_every_steps: 5}",
    ]  # fmt: skip
    b = hosts.network.workers[1]
    with mended(hosts) as cut_off:
        cut_off()
        until(lambda: hosts.cluster.alive_workers() == 1)
        running = Running(hosts.demo, "train", *(word for value in sets for word in ("--set", value)))
        running.wait_for(lambda said: "epoch 1/100 " in said)
        hosts.network.mend(b)
        assert running.end() == 0, running.said
    manifest = json.loads((hosts.demo.run_folder(DATE) / "model/manifest.json").read_text())
    assert (manifest["ranks"], len(manifest["loss"])) == (2, 100)
