"""What a launch by Spark needs where the ranks run on other hosts than the driver.

Horovod 0.28.1 starts the ranks by the driver's Python, tells them the driver's environment, and listens on all
interfaces: each is put right here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

from pyspark import SparkContext

from dssm.config import Settings

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


def interfaces_of(settings: Settings) -> set[str] | None:
    """Returns the names of the interfaces that ranks talk over; None for all that reach them."""
    security = settings.spark.security
    named = settings.train.interfaces or (security.interfaces if security is not None else None)
    return {name.strip() for name in named.split(",")} if named else None


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
