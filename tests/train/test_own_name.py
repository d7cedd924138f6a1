"""A host's own name, as a training over several hosts needs it."""

from __future__ import annotations

import pytest

from dssm.train.own_name import unreachable_name

OVER_HOSTS = {"HOROVOD_CROSS_SIZE": "2", "HOROVOD_GLOO_IFACE": "eth0"}


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.1.1", "::1"])
def test_a_name_that_stands_for_the_loopback_is_told(address: str) -> None:
    told = unreachable_name(OVER_HOSTS, "worker1", address)
    assert told is not None
    assert f"host worker1 takes its own name for {address}" in told
    assert "/etc/hosts" in told


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        (OVER_HOSTS, "10.77.0.2"),
        (OVER_HOSTS | {"HOROVOD_CROSS_SIZE": "1"}, "127.0.0.1"),
        (OVER_HOSTS | {"HOROVOD_GLOO_IFACE": "lo"}, "127.0.0.1"),
        ({}, "127.0.0.1"),
    ],
)
def test_any_other_is_not(environment: dict[str, str], address: str) -> None:
    assert unreachable_name(environment, "worker1", address) is None
