from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import tensorflow as tf

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of this folder: they are those of a machine with a GPU."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    """Skips where TensorFlow sees no GPU; this process, which compares, keeps to the processor."""
    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("TensorFlow sees no GPU here: these tests need one, and its CUDA libraries (pip install '.[gpu]')")
    tf.config.set_visible_devices([], "GPU")


def run(module: str, *arguments: str, on_gpu: bool = True, launcher: tuple[str, ...] = ()) -> str:
    """Runs `python -m module arguments` in a process of its own. Returns: its output. Fails where it fails."""
    hidden: Mapping[str, str] = {} if on_gpu else {"CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(
        [*launcher, sys.executable, "-m", module, *arguments],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **hidden},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout
