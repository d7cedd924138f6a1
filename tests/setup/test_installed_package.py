"""What `pip install` puts into an environment does what the checkout does, from any folder."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import copy_of_project
from tests.documents import PROJECT

pytestmark = pytest.mark.slow

CLUSTER = ["--set", "spark.deploy_mode=cluster", "--set", "root=hdfs:///runs", "--set", "data=hdfs:///feed"]
IMAGE = ["--set", "spark.conf.spark.kubernetes.container.image=apache/spark:3.5"]
UPLOAD = ["--set", "spark.conf.spark.kubernetes.file.upload.path=s3a://a/b"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installs from a copy of the checkout, which is elsewhere then. Returns: the folder that Python finds it in."""
    folder = tmp_path_factory.mktemp("package")
    copy, target = copy_of_project(folder), folder / "installed"
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(copy)], check=True, capture_output=True)
    copy.rename(folder / "moved")
    return target


def dssm(installed: Path, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dssm.submit", *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(installed), "HADOOP_CONF_DIR": "/etc/hadoop/conf", **environment},
    )  # fmt: skip


def config(installed: Path) -> str:
    return str(installed.parent / "moved" / "conf" / "demo.yaml")


@pytest.mark.parametrize(
    ("master", "job", "options", "shipped"),
    [
        ("local[2]", "evaluate", [], {"jobs/evaluate.py", "conf/spark/log4j2.properties"}),
        ("yarn", "train", ["--set", "spark.gpus=1"], {"jobs/train.py", "conf/spark/gpu_discovery.sh"}),
        ("k8s://https://a", "score_items", [*CLUSTER, *IMAGE, *UPLOAD], {"conf/spark/log4j2.properties"}),
        ("local[2]", "index_items", [], {"jobs/index_items.py"}),
    ],
)
def test_a_command_names_files_of_the_package(
    installed: Path, tmp_path: Path, master: str, job: str, options: list[str], shipped: set[str]
) -> None:
    ended = dssm(installed, tmp_path, job, "--config", config(installed), *options, "--dry-run", MASTER=master)
    assert ended.returncode == 0, ended.stderr
    words = " ".join(shlex.split(ended.stdout)).replace("file://", "").replace("=", " ").replace(",", " ").split()
    named = {word for word in words if word.startswith(str(installed))}
    assert {f"{installed}/dssm/{name}" for name in shipped} <= named
    assert [path for path in named if not Path(path).exists()] == []
    assert not [word for word in words if word.startswith(str(installed.parent / "dssm"))]


def test_a_job_and_a_view_run_from_the_package(installed: Path, tmp_path: Path) -> None:
    job = dssm(installed, tmp_path, "index_items", "--config", config(installed))
    assert (job.returncode, job.stderr.count("\n")) == (2, 1)
    assert job.stderr.startswith("error: ")
    assert "run score_items for it first" in job.stderr
    view = dssm(installed, tmp_path, "profile", "demo")
    assert (view.returncode, view.stdout) == (2, "")
    assert view.stderr.startswith(f"error: RUN demo: {tmp_path}/runs/demo holds no finished samples")


def test_the_script_that_looks_for_gpus_can_be_started_and_editors_have_the_schema(installed: Path) -> None:
    assert os.access(installed / "dssm/conf/spark/gpu_discovery.sh", os.X_OK)
    assert (installed / "dssm/conf/schema.json").read_text() == (PROJECT / "conf/schema.json").read_text()
