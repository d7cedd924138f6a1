"""What a launch by Spark needs where the ranks run on other hosts than the driver.

Horovod 0.28.1 starts the ranks by the driver's Python, tells them the driver's environment, listens on all
interfaces, and waits for a host that was cut off as long as TCP does, which is for ever: each is put right here.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

from py4j.protocol import Py4JJavaError
from pyspark import SparkContext

from dssm.console import warn
from dssm.errors import LostRankError
from dssm.train.watchdog import how_it_ended

# Horovod tries a broken connection three times, and all of it is to end well within the limit of a silent rank.
OF_STALL = 6
ASKED_TIMES = 3
PASSED_ON = ("HOROVOD_", "NCCL_", "GLOO_", "TF_", "XLA_", "OMP_")


def is_local(context: SparkContext) -> bool:
    return str(context.master).startswith("local")


def passed_on(context: SparkContext) -> dict[str, str]:
    """Returns what of the driver's environment the ranks are told.

    On a cluster only what tunes them: the rest is of this host, or secret, and would travel unencrypted.
    """
    if is_local(context):
        return dict(os.environ)
    return {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}


@contextlib.contextmanager
def ranks_start_with(python: str) -> Iterator[None]:
    """Has an elastic launch start its ranks by this Python: it takes the driver's, and has no argument for another."""
    import horovod.spark.gloo_run as launcher

    with mock.patch.object(launcher, "sys", SimpleNamespace(executable=python)):
        yield


@contextlib.contextmanager
def listening_at(address: str | None) -> Iterator[None]:
    """Has the driver's rendezvous and service listen at one address: they have no argument for it, and take all.

    The rendezvous asks nobody who they are.
    """
    if address is None:
        yield
        return
    import horovod.runner.common.util.network as services
    import horovod.runner.http.http_server as rendezvous
    from horovod.runner.util.network import find_port

    def find_port_there(server_factory: Callable[[tuple[str, int]], Any]) -> tuple[Any, int]:
        return find_port(lambda found: server_factory((address, found[1])))

    with (
        mock.patch.object(services, "find_port", find_port_there),
        mock.patch.object(rendezvous, "find_port", find_port_there),
    ):
        yield


class _KeptAlive:
    """The module `socket`, whose sockets notice that the other host is gone."""

    def __init__(self, limit_s: int) -> None:
        """Args: limit_s: silence after which a connection, or the wait for one, is given up."""
        self._limit_s = limit_s

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)

    def socket(self, *arguments: Any) -> socket.socket:
        made = socket.socket(*arguments)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, self._limit_s // 2))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, self._limit_s // 2 // ASKED_TIMES))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, ASKED_TIMES)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * self._limit_s)  # of connecting as well
        return made


@dataclass
class _Noticed:
    """What threads of a launch have met: why Spark gave up its job, and how connections to ranks' hosts ended."""

    executors: list[str] = field(default_factory=list)
    connections: list[str] = field(default_factory=list)

    def note(self, error: BaseException | None) -> bool:
        """Returns whether an error is one of a lost host, to be told at the end and not by its thread."""
        if isinstance(error, Py4JJavaError):
            said = str(error.java_exception.getMessage())
            lost = re.search(r"\(([\w.-]+ executor \w+)\): (ExecutorLostFailure[^\n]*)", said)
            self.executors += [f"{lost[1]}: {lost[2]}"] if lost else []
            return True
        if isinstance(error, (OSError, EOFError)):
            self.connections.append(f"the connection to its host broke ({error})")
            return True
        return False


@contextlib.contextmanager
def lost_hosts_noticed(context: SparkContext, stall_shutdown_s: int) -> Iterator[None]:
    """Has the driver notice a host that was cut off, and says so in one message.

    Args: stall_shutdown_s: of the training; a silent host is given up within half of it.
    Raises: LostRankError where a rank ended, or its host was lost, and the launch with it.
    """
    import horovod.runner.common.util.network as services
    import horovod.spark.driver.rsh as waiting
    from horovod.runner.common.util.timeout import TimeoutException

    noticed, began = _Noticed(), executor_hosts(context)
    as_before = threading.excepthook

    def of_thread(failure: threading.ExceptHookArgs) -> None:
        if not noticed.note(failure.exc_value):
            as_before(failure)

    def of_wait() -> None:
        if not noticed.note(sys.exc_info()[1]):
            traceback.print_exc()

    with (
        mock.patch.object(services, "socket", _KeptAlive(max(3, stall_shutdown_s // OF_STALL))),
        mock.patch.object(threading, "excepthook", of_thread),
        mock.patch.object(waiting, "traceback", SimpleNamespace(print_exc=of_wait)),
    ):
        try:
            yield
        except (RuntimeError, TimeoutException) as error:
            if isinstance(error, TimeoutException):
                ended = "it did not start within train.start_timeout_s"
            elif "Horovod detected" in str(error):
                code = re.search(r"Exit code: (-?\d+)", str(error))
                ended = how_it_ended(int(code[1])) if code else "its output is above"
            else:
                raise
            gone = [f"Spark has lost {host}" for host in sorted(began - executor_hosts(context))]
            found = next(iter([*noticed.executors, *gone, *noticed.connections, ended]))
            raise LostRankError(found) from error
        for met in [*noticed.executors, *noticed.connections]:  # an elastic training has gone on without
            warn(f"  on the way a rank was lost: {met}")


def executor_hosts(context: SparkContext) -> set[str]:
    """Returns the addresses of the hosts with an executor, or the driver, at the moment."""
    scala = context._jsc.sc()
    return set(re.findall(r"([\w.-]+):\d+", str(scala.getExecutorMemoryStatus().keySet().toString())))
