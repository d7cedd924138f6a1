"""The DAG with the project's own jobs on a demo feed, from the log to the published table."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.airflow.conftest import PROJECT, Airflow

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(1500)]

DATE = "2024-01-15"
JOBS = ("build_samples", "train", "evaluate", "score_items", "index_items")
POSTS = 400


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def spoken(command: list[str]) -> str:
    """Runs a command in the project's own environment. Returns: what it printed."""
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@dataclass(frozen=True)
class Feed:
    """A small demo feed, and where the runs over it lie."""

    data: Path
    root: Path

    def sets(self, *more: str) -> str:
        """Returns DSSM_SET: sizes for a small feed, its place, and more."""
        sizes = ("samples.rows_per_file=1000", "samples.shuffle_partitions=2", "train.batch_size=256")
        return " ".join([f"data='{self.data}' root='{self.root}'", *sizes, *more])

    def version(self, date: str) -> str:
        """Returns the version that readers of the table's partition get."""
        return read(self.root / "demo" / "item_table" / f"dt={date}" / "_current")["version"]

    def manifest(self, date: str) -> Any:
        version = self.version(date)
        return read(self.root / "demo" / "item_table" / f"dt={date}" / f"version={version}" / "manifest.json")


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Feed:
    folder = tmp_path_factory.mktemp("feed")
    sizes = ["--events", "40000", "--clients", "800", "--posts", str(POSTS), "--set", f"data={folder}/data"]
    spoken([".venv/bin/python", "-m", "dssm.demo", "--config", "conf/demo.yaml", *sizes])
    return Feed(folder / "data", folder / "runs")


def test_one_date_of_the_demo_is_published(airflow_home: Path, feed: Feed):
    airflow = Airflow(airflow_home, {"DSSM_SET": feed.sets("train.epochs=8")})
    done = airflow.run("dags", "test", "dssm_daily", DATE, timeout_s=1200)
    assert done.returncode == 0, done.stdout
    assert airflow.outcome() == dict.fromkeys(JOBS, ("success", 1))

    run = feed.root / "demo" / DATE
    samples = read(run / "samples" / "manifest.json")
    assert samples["date"] == DATE
    assert samples["sources"]["sources.feed"]["rows_read"] == 40_000
    model = read(run / "model" / "manifest.json")
    assert (model["samples_build"], model["ranks"]) == (samples["build"], 2)
    evaluation = read(run / "evaluation.json")
    assert evaluation["model_version"] == model["model_version"]
    recall = {name: metrics["recall@50"] for name, metrics in evaluation["seen_kept"].items()}
    assert 0 < recall["popularity"] < recall["model"] < recall["best_reachable"] < 1

    table = feed.manifest(DATE)
    assert (table["rows"], table["model_version"]) == (POSTS, model["model_version"])
    assert f"{POSTS:,} rows read back" in done.stdout  # of the published partition, by the job itself
    updates = airflow.query("SELECT source_task_id, extra FROM asset_event")
    assert [(task, json.loads(extra)["date"]) for task, extra in updates] == [("score_items", DATE)]


def test_a_gate_that_fails_stops_the_date_and_the_table_stays(airflow_home: Path, feed: Feed):
    """The weights are those that the training began with: no better than popularity."""
    before = feed.version(DATE)
    spoilt = feed.sets("train.launch=single", "train.ranks=1", "train.epochs=1", "train.learning_rate=1e-9")
    airflow = Airflow(airflow_home, {"DSSM_SET": spoilt})
    done = airflow.run("dags", "test", "dssm_daily", DATE, timeout_s=1200)
    assert done.returncode == 1
    assert airflow.outcome() == {
        **dict.fromkeys(("build_samples", "train", "evaluate"), ("success", 1)),
        "score_items": ("failed", 1),
        "index_items": ("upstream_failed", 0),
    }
    assert "exit code 3, the quality gate refused to publish; not retried" in done.stdout
    assert feed.version(DATE) == before
    assert f"│ ● │ {before}" in spoken(["./spark-submit.sh", "versions", "demo", "--root", str(feed.root)])
    assert airflow.query("SELECT count(*) FROM asset_event") == [(0,)]
