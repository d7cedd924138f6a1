"""The small demo on a standalone cluster, and what its executors' Pythons have seen."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster.hosts import Cluster, Host, can_hide
from tests.cluster.witness import CHECKOUT
from tests.pipeline import PROJECT, SHORT_LIVED, Pipeline


def on(cluster: Cluster, environments: Path, data: Path, root: Path, *sets: str) -> Pipeline:
    """Returns the small demo on a cluster whose Pythons note what they see."""
    own = [f"data={data}", f"spark.environment={{folder: {environments}, unpacked: true}}", "plugins=[witness]"]
    conf = {"spark.python.daemon.module": "witness", f"spark.executorEnv.{CHECKOUT}": PROJECT}
    own += [f"spark.conf.{key}={value}" for key, value in conf.items()]
    own += ["samples.rows_per_file=1000", "train.epochs=8", "train.batch_size=256", "train.ranks=2"]
    own += [f"spark.conf.spark.executor.extraJavaOptions={SHORT_LIVED}", "samples.shuffle_partitions=2"]
    environment = {
        "MASTER": cluster.url, "PYTHONPATH": str(Path(__file__).parent), "SPARK_SUBMIT_OPTS": SHORT_LIVED,
    }  # fmt: skip
    return Pipeline("conf/demo.yaml", "demo", root, [*own, *sets], environment, cluster.driver.enter)


def notes_of(cluster: Cluster, host: Host) -> list[dict[str, Any]]:
    """Returns what the Pythons of a worker's executors have noted since its work was dropped last."""
    return [json.loads(file.read_text()) for file in cluster.work_folder(host).glob("app-*/*/python-*.json")]


def check_python(note: dict[str, Any], is_prefix: Callable[[str], bool]) -> None:
    """The Python, and all that it imports from, is of the packed environment, of Spark, or the code that was sent."""
    assert is_prefix(note["prefix"]), note
    assert re.search(r"/dssm-[0-9a-f]{16}\.zip/dssm/__init__\.py$", note["dssm"])
    assert not [place for place in note["path"] if Path(place).is_relative_to(PROJECT)], note["path"]
    assert note["checkout"] == [] or not can_hide()


def unpacked_in(folder: Path) -> Callable[[str], bool]:
    return lambda prefix: prefix.startswith(f"{folder}/environment-")


def unpacked_by_executor(prefix: str) -> bool:
    return re.search(r"/work-[ab]/app-[-0-9]+/\d+/environment$", prefix) is not None
