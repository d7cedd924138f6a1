from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "conf/spark/gpu_discovery.sh"


@pytest.mark.parametrize(("listed", "addresses"), [("0\n", ["0"]), ("0\n1\n 10\n", ["0", "1", "10"]), ("", [])])
def test_the_script_says_what_spark_reads(listed: str, addresses: list[str], tmp_path: Path) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text(f"#!/bin/sh\n[ \"$1\" = --query-gpu=index ] && printf '{listed}'\n")
    fake.chmod(0o755)
    assert said_by_script(tmp_path) == {"name": "gpu", "addresses": addresses}


@pytest.mark.parametrize(
    ("visible", "addresses"), [("2,3", ["0", "1"]), ("GPU-aa", ["0"]), ("1,-1,2", ["0"]), ("-1", []), ("", [])]
)
def test_of_chosen_gpus_an_address_is_a_place_among_them(visible: str, addresses: list[str], tmp_path: Path) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n3\\n'\n")
    fake.chmod(0o755)
    assert said_by_script(tmp_path, CUDA_VISIBLE_DEVICES=visible)["addresses"] == addresses


def said_by_script(folder: Path, **more: str) -> dict[str, Any]:
    kept = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment = {**kept, **more, "PATH": f"{folder}:{os.environ['PATH']}"}
    said = subprocess.run([str(SCRIPT)], env=environment, capture_output=True, text=True, check=True).stdout
    return dict(json.loads(said))


def test_without_a_driver_it_fails(tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho no driver >&2\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ended = subprocess.run([str(SCRIPT)], env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (9, "")
