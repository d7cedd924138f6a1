"""Hosts of their own on one machine: network namespaces, each with an address, on one switch."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.hosts import Host

INTERFACE = "eth0"  # of every host, as a launch by Horovod wants it
ADDRESS = "10.77.0.{}"
OWN_FILES = Path("/etc/netns")  # ip-netns(8): a file below a namespace's name is what its commands see in /etc


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def why_not() -> str | None:
    """Returns why there can be no such hosts here; None where there can."""
    if shutil.which("ip") is None:
        return "needs ip (iproute2)"
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    name = f"dssm-try-{os.getpid()}"
    try:
        _ip("netns", "add", name)
        try:
            _ip("-n", name, "link", "add", INTERFACE, "type", "bridge")
            _ip("-n", name, "link", "add", "port-a", "type", "veth", "peer", "name", "port-b")
        finally:
            _ip("netns", "del", name)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode().strip()
        if not re.search(r"not permitted|Permission denied|not supported|Unknown device type", said):
            raise  # no skip for a mistake of ours
        return f"no network namespace can be made here: {said}"
    return None


@dataclass
class Network:
    """The driver's host, which holds the switch, and the workers'."""

    driver: Host
    workers: list[Host]

    def cut(self, host: Host) -> None:
        """Takes a host's cable out: nothing reaches it, and no connection is closed."""
        _ip("-n", _namespace(self.driver), "link", "set", _port(host), "down")

    def mend(self, host: Host) -> None:
        _ip("-n", _namespace(self.driver), "link", "set", _port(host), "up")


def _namespace(host: Host) -> str:
    return host.enter[-1]


def _port(host: Host) -> str:
    return f"port-{host.name}"


def _host(name: str, number: int) -> Host:
    return Host(name, ADDRESS.format(number), ["ip", "netns", "exec", f"dssm-{name}-{os.getpid()}"])


def _name_itself(host: Host) -> None:
    """Lets a host's own name mean its address to it, as it does on a host of its own."""
    own = OWN_FILES / _namespace(host)
    own.mkdir(parents=True)
    (own / "hosts").write_text(f"127.0.0.1 localhost\n{host.address} {socket.gethostname()}\n")


@contextlib.contextmanager
def network(workers: tuple[str, ...]) -> Iterator[Network]:
    """Yields hosts that reach each other, and nothing else."""
    made = Network(_host("driver", 1), [_host(name, number) for number, name in enumerate(workers, start=2)])
    switch = _namespace(made.driver)
    hosts = [made.driver, *made.workers]
    try:
        for host in hosts:
            _ip("netns", "add", _namespace(host))
            _ip("-n", _namespace(host), "link", "set", "lo", "up")
            _name_itself(host)
        _ip("-n", switch, "link", "add", INTERFACE, "type", "bridge")
        for host in made.workers:
            own = _namespace(host)
            _ip("-n", own, "link", "add", INTERFACE, "type", "veth", "peer", "name", _port(host), "netns", switch)
            _ip("-n", switch, "link", "set", _port(host), "master", INTERFACE, "up")
        for host in hosts:
            _ip("-n", _namespace(host), "addr", "add", f"{host.address}/24", "dev", INTERFACE)
            _ip("-n", _namespace(host), "link", "set", INTERFACE, "up")
        yield made
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "del", _namespace(host)], capture_output=True, check=False)
            shutil.rmtree(OWN_FILES / _namespace(host), ignore_errors=True)
