"""What a host calls itself, as far as a training over several hosts depends on it.

Gloo's contexts of process sets, of which Horovod 0.28.1 always makes one, listen at the address that the host's own
name stands for, whatever interface was chosen (GlooContext::InitializeForProcessSet). Where that is the loopback's,
as in many an /etc/hosts, ranks on other hosts connect to themselves and end with "connect [127.0.0.1]".
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Mapping

OF_LOOPBACK = "lo"


def unreachable_name(environment: Mapping[str, str], name: str, address: str) -> str | None:
    """Returns what to tell the user where ranks of other hosts can't reach this one by its own name; else None.

    Args:
      environment: of a rank, as Horovod's launcher made it.
      name, address: of the host, and what its name stands for on it.

    >>> unreachable_name({"HOROVOD_CROSS_SIZE": "2", "HOROVOD_GLOO_IFACE": "eth0"}, "worker1", "10.0.0.7")
    """
    over_hosts = int(environment.get("HOROVOD_CROSS_SIZE", "1")) > 1
    if not over_hosts or environment.get("HOROVOD_GLOO_IFACE", "") == OF_LOOPBACK:
        return None
    if not ipaddress.ip_address(address).is_loopback:
        return None
    return (
        f"train: host {name} takes its own name for {address}, where ranks of other hosts can't reach it; expected its "
        f"address on their network: put that before {name} in its /etc/hosts, in the place of {address}"
    )


def warn_of_own_name(environment: Mapping[str, str]) -> None:
    """Prints what is wrong with this host's name, before the ranks wait for each other in vain."""
    name = socket.gethostname()
    try:
        address = str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return  # no address at all: Gloo says so itself
    told = unreachable_name(environment, name, address.partition("%")[0])
    if told is not None:
        print(told, file=sys.stderr, flush=True)
