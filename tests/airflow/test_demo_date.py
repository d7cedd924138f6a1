"""The DAG with the project's own jobs: one date of the demo feed, from the log to the published table."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.airflow.conftest import PROJECT, Airflow

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(1500)]

DATE = "2024-01-15"


def rows(*csv_files: Path) -> int:
    return sum(len(file.read_text().splitlines()) - 1 for file in csv_files)


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def test_one_date_of_the_demo_is_published(airflow_home: Path, tmp_path: Path):
    data, root = tmp_path / "data", tmp_path / "runs"
    feed = subprocess.run(
        [".venv/bin/python", "-m", "dssm.demo", "--config", "conf/demo.yaml", "--set", f"data={data}"],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert feed.returncode == 0, feed.stdout

    airflow = Airflow(airflow_home, {"DSSM_SET": f"data='{data}' root='{root}'"})
    done = airflow.run("dags", "test", "dssm_daily", DATE, timeout_s=1200)
    assert done.returncode == 0, done.stdout
    jobs = ("build_samples", "train", "evaluate", "score_items", "index_items")
    assert airflow.outcome() == dict.fromkeys(jobs, ("success", 1))

    run = root / "demo" / DATE
    samples = read(run / "samples" / "manifest.json")
    assert samples["date"] == DATE
    assert samples["sources"]["sources.feed"]["rows_read"] == rows(*data.glob("events/*/*.csv")) > 0
    model = read(run / "model" / "manifest.json")
    assert model["samples_build"] == samples["build"]
    evaluation = read(run / "evaluation.json")
    assert evaluation["model_version"] == model["model_version"]
    recall = {name: metrics["recall@50"] for name, metrics in evaluation["seen_kept"].items()}
    assert 0 < recall["popularity"] < recall["model"] < recall["best_reachable"] < 1

    posts = rows(data / "posts.csv")
    [manifest] = (root / "demo" / "item_table" / f"dt={DATE}").glob("version=*/manifest.json")
    table = read(manifest)
    assert (table["rows"], table["model_version"]) == (posts, model["model_version"])
    assert f"{posts:,} rows read back" in done.stdout  # of the published partition, by the job itself
