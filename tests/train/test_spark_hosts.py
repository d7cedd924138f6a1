from __future__ import annotations

import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from horovod.runner.common.util import network, secret
from horovod.runner.common.util.timeout import TimeoutException
from horovod.runner.http.http_server import RendezvousServer
from py4j.protocol import Py4JJavaError

from dssm.errors import LostRankError
from dssm.train.spark_hosts import listening_at, lost_hosts_noticed, passed_on, ranks_start_with


def on(master: str) -> Any:
    return SimpleNamespace(master=master)


def test_ranks_on_a_cluster_are_told_only_what_tunes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOROVOD_CYCLE_TIME", "NCCL_DEBUG", "REDIS_PASSWORD", "PYTHONPATH", "PYSPARK_PYTHON"):
        monkeypatch.setenv(name, "x")
    told = passed_on(on("spark://a:7077"))
    assert {"HOROVOD_CYCLE_TIME", "NCCL_DEBUG"} <= set(told)
    assert not {"REDIS_PASSWORD", "PYTHONPATH", "PYSPARK_PYTHON", "PATH", "HOME"} & set(told)
    assert {"REDIS_PASSWORD", "PYTHONPATH", "PATH"} <= set(passed_on(on("local[2]")))


def test_the_rendezvous_listens_at_one_address() -> None:
    def addresses() -> tuple[str, str]:
        rendezvous = RendezvousServer(0)
        service = network.BasicService("service", secret.make_secret_key(), None)
        rendezvous.start()
        try:
            return rendezvous._httpd.server_address[0], service._server.server_address[0]
        finally:
            rendezvous.stop()
            service.shutdown()

    with listening_at("127.0.0.1"):
        assert addresses() == ("127.0.0.1", "127.0.0.1")
    with listening_at(None):
        assert addresses() == ("0.0.0.0", "0.0.0.0")


def test_an_elastic_launch_takes_the_executors_python() -> None:
    import horovod.spark.gloo_run as launcher

    here = launcher.sys.executable
    with ranks_start_with("./environment/bin/python"):
        assert launcher.sys.executable == "./environment/bin/python"
    assert launcher.sys.executable == here


class Hosts:
    """A context whose executors are on these hosts, one call after the other."""

    def __init__(self, *hosts: str) -> None:
        self._hosts = list(hosts)
        self._jsc = SimpleNamespace(sc=lambda: self)

    def getExecutorMemoryStatus(self) -> Any:  # noqa: N802
        found = self._hosts.pop(0) if len(self._hosts) > 1 else self._hosts[0]
        return SimpleNamespace(keySet=lambda: SimpleNamespace(toString=lambda: f"Set({found})"))


ALL, WITHOUT_B = "10.77.0.1:35391, 10.77.0.2:1, 10.77.0.3:44311", "10.77.0.1:35391, 10.77.0.2:1"


def test_connections_of_the_launch_notice_a_silent_host() -> None:
    class Service(network.BasicService):
        def _handle(self, req: object, client_address: object) -> object:
            asked.append(network.socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            return super()._handle(req, client_address)

    asked: list[socket.socket] = []
    key = secret.make_secret_key()
    with lost_hosts_noticed(Hosts(ALL), 60):
        service = Service("service", key, None)
        client = network.BasicClient("service", {"lo": [("127.0.0.1", service.get_port())]}, key, 0)
        assert client.addresses()  # pinged
        service.shutdown()
    (made, *_) = asked
    assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
    assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
    for one in asked:
        one.close()
    assert network.socket is socket


LOST = (
    "Job aborted due to stage failure: Task 1 in stage 0.0 failed 1 times, most recent failure: Lost task 1.0 in stage "
    "0.0 (TID 1) (10.77.0.3 executor 1): ExecutorLostFailure (executor 1 exited caused by one of the running tasks) "
    "Reason: Executor heartbeat timed out after 13012 ms\nDriver stacktrace:"
)


def spark_error(message: str) -> Py4JJavaError:
    error = Py4JJavaError.__new__(Py4JJavaError)
    error.java_exception = SimpleNamespace(getMessage=lambda: message)
    return error


def launch(said: str, errors: list[BaseException]) -> None:
    """Fails as Horovod's launches do: threads of its own first, then what the ranks' codes came to."""
    for error in errors:
        in_thread(error)
    raise RuntimeError(said)


def in_thread(error: BaseException) -> None:
    def failing() -> None:
        raise error

    thread = threading.Thread(target=failing)
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    ("errors", "after", "found"),
    [
        (
            [TimeoutError("timed out"), spark_error(LOST)],
            WITHOUT_B,
            "10.77.0.3 executor 1: ExecutorLostFailure (executor 1 exited caused by one of the running tasks) Reason: "
            "Executor heartbeat timed out after 13012 ms",
        ),
        ([TimeoutError("timed out"), spark_error("Job 0 cancelled")], WITHOUT_B, "Spark has lost 10.77.0.3"),
        ([TimeoutError("timed out")], ALL, "the connection to its host broke (timed out)"),
        ([], ALL, "it ended with exit code -1, its output is above"),
    ],
)
def test_a_lost_rank_is_one_message(
    errors: list[BaseException], after: str, found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    as_before, context = threading.excepthook, Hosts(ALL, after)
    with pytest.raises(LostRankError) as raised, lost_hosts_noticed(context, 60):
        launch("Horovod detected that one or more …\nProcess name: 1\nExit code: -1\n", errors)
    assert str(raised.value) == (
        f"train: a rank was lost: {found}; the same command goes on from the last checkpoint (train.checkpoint says "
        "when one is written)"
    )
    assert raised.value.exit_code == 1
    assert capsys.readouterr().err == ""
    assert threading.excepthook is as_before


@pytest.mark.parametrize(
    ("after", "found"),
    [(WITHOUT_B, "Spark has lost 10.77.0.3"), (ALL, "it did not start within train.start_timeout_s")],
)
def test_ranks_that_never_start_are_lost(after: list[str], found: str) -> None:
    with pytest.raises(LostRankError, match=f"a rank was lost: {found}; "), lost_hosts_noticed(Hosts(ALL, after), 60):
        raise TimeoutException("Timed out waiting for Spark tasks to start.")


def test_a_rank_lost_on_the_way_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with lost_hosts_noticed(Hosts(ALL), 60):
        in_thread(TimeoutError("timed out"))
    printed = capsys.readouterr()
    assert "on the way a rank was lost: the connection to its host broke (timed out)" in printed.out + printed.err


def test_other_errors_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: told.append(failure.exc_value))
    defect = ValueError("of a thread")
    with pytest.raises(RuntimeError, match="something else"), lost_hosts_noticed(Hosts(ALL), 60):
        launch("something else", [defect, TimeoutError("of a connection")])
    assert told == [defect]
