"""Runs jobs as a user does, ./spark-submit.sh in a process of its own; or in this one, for a start of Spark less."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dssm.submitting.command import archived_classes

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PROJECT = Path(__file__).resolve().parent.parent
SHORT_LIVED = "-XX:TieredStopAtLevel=1 -XX:+UseParallelGC"  # Java, as in conf/spark/local.conf
# Spark plans anew behind each stage, and compiles Java for each plan: on few rows both take longer than the work.
# Jobs that tests run as a user does have both, and one build of test_build_rich.py (`planned_as_in_jobs`).
OF_FEW_ROWS = {
    "spark.sql.adaptive.enabled": False,
    "spark.sql.codegen.wholeStage": False,
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}
JOBS = ("build_samples", "train", "evaluate", "score_items", "index_items")


@dataclass
class Pipeline:
    """A config, the overrides and environment that every job gets, and where its runs lie.

    Attributes: enter: a command that runs another one, such as on another host.
    """

    config: str
    name: str
    root: Path
    sets: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    enter: list[str] = field(default_factory=list)

    def run(self, job: str, *arguments: str, timeout: int = 900) -> subprocess.CompletedProcess[str]:
        """Runs a job to its end, whatever its exit code is."""
        return subprocess.run(
            self.line(job, *arguments),
            cwd=PROJECT,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def line(self, job: str, *arguments: str) -> list[str]:
        """Returns the command of a job."""
        return [*self.enter, str(PROJECT / "spark-submit.sh"), job, *self.options(), *arguments]

    def options(self) -> list[str]:
        """Returns what every job is told."""
        overrides = [option for value in [f"root={self.root}", *self.sets] for option in ("--set", value)]
        return ["--config", self.config, *overrides]

    def succeed(self, job: str, *arguments: str) -> str:
        """Runs a job that must succeed. Returns: what it printed."""
        ended = self.run(job, *arguments)
        assert ended.returncode == 0, f"{job}: exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    def succeed_view(self, view: str, *arguments: str) -> str:
        """Runs a view of a run, which takes no config. Returns: what it printed."""
        ended = subprocess.run(
            [str(PROJECT / "spark-submit.sh"), view, *arguments, "--root", str(self.root)],
            cwd=PROJECT, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip
        assert ended.returncode == 0, f"{view}: exit code {ended.returncode}\n{said(ended)}"
        return ended.stdout

    def run_folder(self, date: str) -> Path:
        return self.root / self.name / date

    def evaluation(self, date: str) -> dict[str, Any]:
        return json.loads((self.run_folder(date) / "evaluation.json").read_text())

    def table(self, sql: str) -> list[dict[str, Any]]:
        """Runs a query on the metastore in a process of its own, as another team would."""
        script = (
            "import json, sys\n"
            "from pyspark.sql import SparkSession\n"
            f"place, options = {str(self.root / 'metastore_db')!r}, {SHORT_LIVED!r}\n"
            "spark = (SparkSession.builder.master('local[1]').enableHiveSupport()\n"
            "    .config('spark.hadoop.javax.jdo.option.ConnectionURL', f'jdbc:derby:;databaseName={place}')\n"
            "    .config('spark.driver.extraJavaOptions', f'{options} -Dderby.stream.error.file={place}.log')\n"
            "    .config('spark.sql.warehouse.dir', f'{place}_warehouse')\n"
            "    .config('spark.ui.enabled', 'false').getOrCreate())\n"
            f"rows = [row.asDict() for row in spark.sql({sql!r}).collect()]\n"
            "print('ROWS ' + json.dumps(rows))\n"
        )
        environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
        environment |= archived_classes(environment)
        ended = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        lines = [line for line in ended.stdout.splitlines() if line.startswith("ROWS ")]
        assert lines, ended.stdout + ended.stderr
        return json.loads(lines[0].removeprefix("ROWS "))


@contextmanager
def planned_as_in_jobs(spark: SparkSession) -> Iterator[None]:
    """Has the tests' session plan as those of jobs do, for as long as the block runs."""
    for name in OF_FEW_ROWS:
        spark.conf.unset(name)
    try:
        yield
    finally:
        for name, value in OF_FEW_ROWS.items():
            spark.conf.set(name, value)


def run_in_process(
    spark: SparkSession, patched: pytest.MonkeyPatch, pipeline: Pipeline, job: str, *arguments: str
) -> None:
    """Runs a job's entry point in this process, on a session that is there."""
    entry = importlib.import_module(f"jobs.{job}")
    if hasattr(entry, "spark_session"):
        patched.setattr(entry, "spark_session", lambda *_, **__: nullcontext(spark))
    entry.main([*pipeline.options(), *arguments])


def said(ended: subprocess.CompletedProcess[str]) -> str:
    """Returns all that a job printed: spark-submit joins the driver's errors to its output."""
    return ended.stdout + ended.stderr


def write_small_demo(folder: Path, events: int = 40_000, clients: int = 800, posts: int = 400) -> None:
    """Writes a demo feed small enough for a test."""
    sizes = ["--events", str(events), "--clients", str(clients), "--posts", str(posts)]
    subprocess.run(
        [sys.executable, "-m", "dssm.demo", "--config", "conf/demo.yaml", "--set", f"data={folder}", *sizes],
        cwd=PROJECT,
        check=True,
        capture_output=True,
    )


NORMS = "sqrt(aggregate(vector, cast(0 as double), (t, x) -> t + cast(x as double) * x))"
TABLE_FACTS = (
    "select count(*) as row_count, count(distinct item_id) as items, count(distinct model_version) as versions, "
    f"min({NORMS}) as shortest, max({NORMS}) as longest, min(size(vector)) as width, max(dt) as dt from {{table}} "
    "where dt = '{date}'"
)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@contextmanager
def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Iterator[None]:
    """Changes a JSON file for as long as the block runs."""
    good = path.read_text()
    content = json.loads(good)
    change(content)
    path.write_text(json.dumps(content))
    try:
        yield
    finally:
        path.write_text(good)
