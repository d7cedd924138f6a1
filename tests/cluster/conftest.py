"""A standalone cluster on loopback, and the environment that its executors run from, packed once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dssm.sections.spark import Environment
from dssm.submitting.archives import Packed
from tests.cluster.hosts import Cluster, Host, started
from tests.pipeline import write_small_demo


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master and two workers on loopback."""
    workers = [Host("a"), Host("b")]
    with started(tmp_path_factory.mktemp("loopback"), Host("driver"), workers, conf={}) as running:
        yield running


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with this environment as an archive, and unpacked."""
    folder = tmp_path_factory.mktemp("environments")
    packed = Packed(Environment(folder=str(folder), unpacked=True))
    packed.make()
    assert packed.archive.is_file()
    assert packed.unpacked.is_dir()
    return folder


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "data"
    write_small_demo(folder)
    return folder
