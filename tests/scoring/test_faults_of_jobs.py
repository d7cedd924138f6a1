"""score_items on Spark, with a tiny model, on a disk that fails at any step; and a driver that is killed."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dssm import published, storage
from dssm.config import Settings
from dssm.errors import UserError
from dssm.paths import RunPaths
from dssm.published import Published
from dssm.submitting.command import command
from tests.scoring.runs import settings_at, write_run
from tests.scoring.steps import FAULTS, KilledError, Steps
from tests.scoring.tables import DATE, folders

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from dssm.scoring.files import FileResult, Scoring

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("no_grace", "quick_expiry")]
SEEN_BY_SPARK = 2  # a write
SPARE = "0123456789abcdef"  # a model that no version is of


@dataclass(frozen=True)
class Job:
    """Publishes a version over another one, of another model; retention then removes that, and a spare model.

    Attributes:
      settings: of the version; `before`: of the one that it replaces.
      old, new: the version's folder and all its vectors, by item.
    """

    spark: SparkSession
    before: Settings
    settings: Settings
    old: tuple[str, dict[str, bytes]]
    new: tuple[str, dict[str, bytes]]

    @property
    def table(self) -> Path:
        return Path(self.settings.table_location)

    def prepare(self) -> None:
        """Leaves the table with the old version alone."""
        storage.remove(str(self.table))
        storage.put_folder(f"{self.table}.before", str(self.table))
        storage.write_text(f"{RunPaths(self.settings.run_folder).models}/{SPARE}/manifest.json", "{}")

    def run(self) -> Published:
        from dssm.scoring.items import score_items

        return score_items(self.spark, self.settings)

    def seen(self) -> tuple[str, dict[str, bytes]]:
        """Returns what a reader of the table sees: which version, and all its rows."""
        found = published.current(str(self.table), DATE)
        assert found is not None
        return seen_in(found)

    def check_rerun(self, dead: bool = False) -> None:
        """Runs the job without a fault. Args: dead: whether files of a killed run may be left, for a day."""
        assert self.seen() in (self.old, self.new)
        self.run()
        assert self.seen() == self.new
        names = folders(self.table / f"dt={DATE}")
        unfinished = [name for name in names if name.startswith((".version=", "._current."))]
        assert [name for name in names if name not in unfinished] == ["_current", self.new[0]]
        assert dead or unfinished == []
        assert storage.folder_names(RunPaths(self.settings.run_folder).models) == []


def seen_in(found: Published) -> tuple[str, dict[str, bytes]]:
    ids, vectors = published.load(found)
    return Path(found.folder).name, {
        item: vector.tobytes() for item, vector in zip(ids.to_pylist(), vectors, strict=True)
    }


@pytest.fixture(scope="module")
def job(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Job:
    from dssm.scoring.items import score_items

    root = tmp_path_factory.mktemp("faults")

    def settings_of(name: str) -> Settings:
        settings = settings_at(root / name, "faults", kind="path", keep_versions=1, keep_days=0)
        items = settings.item_table.model_copy(update={"location": f"{root}/table"})
        return settings.model_copy(update={"item_table": items})

    first, second = settings_of("first"), settings_of("second")
    write_run(first)
    write_run(second, "later", seed=2)
    old = seen_in(score_items(spark, first))
    storage.put_folder(f"{root}/table", f"{root}/table.before")
    new = seen_in(score_items(spark, second))
    assert old[0] != new[0]
    assert old[1].keys() == new[1].keys()
    assert all(old[1][item] != new[1][item] for item in old[1])
    return Job(spark, first, second, old, new)


def test_the_driver_may_die_at_any_step(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step fails once, in one of five ways by turns; test_faults has all five at each, without Spark.

    The lock's own files are left out: test_locks.
    """
    job.prepare()
    steps = Steps(but="_lock.")
    with monkeypatch.context() as patched:
        steps.in_storage(patched)
        job.run()
    # The names of three files in data/ and digests/, of the version, the pointer, the version that goes …
    assert steps.names.count("_rename") >= 9
    assert steps.names.count("pipe_file") == 3  # manifest, pointer, the run's tables
    assert steps.names.count("make_folder") >= 4
    assert steps.names.count("remove") >= 2  # the version, the spare model
    sides = set()
    for at in range(steps.count):
        when, dead = FAULTS[at % len(FAULTS)]
        job.prepare()
        with monkeypatch.context() as patched:
            Steps(at, when, dead, but="_lock.").in_storage(patched)
            with pytest.raises((KilledError, OSError)):
                job.run()
        sides.add(job.seen()[0])
        job.check_rerun(dead)
    assert sides == {job.old[0], job.new[0]}


@dataclass(frozen=True)
class FailingTask:
    """Takes the place of `_score_files` in Spark's workers, where a step of the task's own fails.

    The error goes to the driver as a UserError does: one that Spark sees ends the worker, and the next one needs
    seconds to start TensorFlow. Of all steps the one at `SEEN_BY_SPARK` is left to it.

    Attributes: kill: whether the worker is killed instead.
    """

    at: int
    kill: bool = False

    def __call__(self, scoring: Scoring, names: Iterable[str]) -> Iterator[FileResult | UserError]:
        from dssm.scoring.files import score_file

        with pytest.MonkeyPatch.context() as patched:
            Steps(self.at, kill=self.kill).in_files(patched)
            for name in list(names):
                try:
                    yield score_file(scoring, name)
                except OSError as error:
                    if self.at == SEEN_BY_SPARK:
                        raise
                    yield UserError(str(error))


def test_a_task_may_fail_at_any_step(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders made, files opened, each write. A run is the rerun of the one before, until none of its steps fails."""
    from dssm.scoring import tasks

    job.prepare()
    for at in range(100):
        with monkeypatch.context() as patched:
            patched.setattr(tasks, "_score_files", FailingTask(at))
            told = error_of(job)
        if not told:
            break
        assert "No space left on device" in told
        assert job.seen() == job.old
    assert 6 < at < 99
    job.check_rerun(dead=True)  # Spark may have been ending other tasks, which wrote


def test_a_worker_may_be_killed_in_the_midst_of_a_file(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a lack of memory: nothing in the worker cleans up."""
    from dssm.scoring import tasks

    job.prepare()
    with monkeypatch.context() as patched:
        patched.setattr(tasks, "_score_files", FailingTask(SEEN_BY_SPARK + 1, kill=True))
        told = error_of(job)
    assert "Python worker exited unexpectedly (crashed)" in told
    assert job.seen() == job.old
    job.check_rerun(dead=True)


def error_of(job: Job) -> str:
    """Runs the job. Returns: how it failed, with what came before that; nothing where it ended well."""
    try:
        job.run()
    except Exception as error:
        return "".join(traceback.format_exception(error))
    return ""


# A process that is killed -----------------------------------------------------------------------------------

DRIVER = """
import sys, time
from pyspark.sql import SparkSession
from dssm import published, storage
from dssm.config import Settings
from dssm.scoring.items import score_items

def stops(*_):
    print("at the step", flush=True)
    time.sleep(600)

def stops_at_the_second_file(source, target, rename=storage.rename, seen=[]):
    seen.append(target)
    stops() if "/data/" in target and len(seen) > 2 else rename(source, target)

if sys.argv[2] == "files":
    storage.rename = stops_at_the_second_file
else:
    published.write_pointer = stops
settings = Settings.model_validate_json(sys.stdin.read())
score_items(SparkSession.builder.getOrCreate(), settings)
"""


@pytest.mark.parametrize("step", ["files", "pointer"])
def test_a_driver_that_is_killed_in_the_midst_of_publishing(job: Job, step: str) -> None:
    """While its files get their names; and with the lock, when the version is there and readers have not been moved."""
    job.prepare()
    submit = "--master local[1] --driver-memory 1g --conf spark.ui.enabled=false pyspark-shell"
    environment: dict[str, Any] = {**os.environ, "PYSPARK_SUBMIT_ARGS": submit}
    command, pipe = [sys.executable, "-c", DRIVER, "-", step], subprocess.PIPE
    with subprocess.Popen(command, env=environment, text=True, stdin=pipe, stdout=pipe) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        driver.stdin.write(job.settings.model_dump_json())
        driver.stdin.close()
        assert "at the step\n" in iter(driver.stdout.readline, "")
        driver.kill()
        assert driver.wait(60) == -9
    assert job.seen() == job.old
    there = [name for name in folders(job.table / f"dt={DATE}") if job.new[0] in name]
    assert len(there) == 1
    assert there[0].startswith("." if step == "files" else "version=")
    assert bool(list(job.table.glob("_lock.*"))) == (step == "pointer")
    job.check_rerun(dead=True)


IN_HIVE = """
import datetime as dt, json, sys, time
import numpy as np
from dssm import locks
from dssm.config import Settings
from dssm.scoring import retention
from dssm.scoring.items import score_items
from dssm.scoring.metastore import HiveMetastore
from dssm.spark import spark_session

step, again, then = sys.argv[1], *map(Settings.model_validate_json, sys.stdin)
name, move = again.item_table.name, HiveMetastore.move
retention.GRACE, locks.EXPIRES_S = dt.timedelta(0), 0.01

def stops(*given):
    if step == "after":
        move(*given)
    print("at the step", flush=True)
    time.sleep(600)

def tell():
    rows = spark.table(name).where(f"dt = '{again.date}'").collect()
    vectors = {row.item_id: np.array(row.vector, np.float32).tobytes().hex() for row in rows}
    print("seen:", json.dumps([spark.catalog.getTable(name).description, vectors]), flush=True)

with spark_session(again, "score_items", hive=True) as spark:
    if spark.catalog.tableExists(name):
        tell()
    score_items(spark, again)
    tell()
    if step:
        HiveMetastore.move = stops
        score_items(spark, then)
"""


def run_in_hive(step: str, again: Settings, then: Settings) -> list[tuple[str, dict[str, bytes]]]:
    """Publishes twice in a driver of its own, which is killed with its Java at a step of the second.

    Args:
      step: `before` or `after` the call that moves the partition; nothing where the driver ends after the first.
      again: what is published first; `then`: what is published when it is killed.
    Returns: what readers of the table saw before, where it was there, and when the first was published: the table's
      comment, and all vectors by item.
    """
    options = [*command("score_items", [], again, {"MASTER": "local[1]"})[1:-1], "--driver-memory", "1g"]
    submit = shlex.join([*options, "--conf", "spark.ui.enabled=false", "pyspark-shell"])
    line, pipe = [sys.executable, "-c", IN_HIVE, step], subprocess.PIPE
    environment = {**os.environ, "PYSPARK_SUBMIT_ARGS": submit}
    with subprocess.Popen(line, env=environment, text=True, stdin=pipe, stdout=pipe, start_new_session=True) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        driver.stdin.write("\n".join(settings.model_dump_json() for settings in (again, then)))
        driver.stdin.close()
        printed = list(itertools.takewhile(lambda line: line != "at the step\n", iter(driver.stdout.readline, "")))
        if step and driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
        assert driver.wait(60) == (-signal.SIGKILL if step else 0)
    seen = [json.loads(line.removeprefix("seen:")) for line in printed if line.startswith("seen:")]
    return [(comment, {item: bytes.fromhex(vector) for item, vector in rows.items()}) for comment, rows in seen]


def test_a_driver_that_is_killed_beside_the_call_of_the_metastore(job: Job, tmp_path: Path) -> None:
    """Before it readers keep what they had, after it they have the new rows; the next driver runs the job again."""

    def in_hive(settings: Settings) -> Settings:
        given = {"kind": "hive", "location": f"{tmp_path}/table", "metastore": f"{tmp_path}/metastore_db"}
        return settings.model_copy(update={"item_table": settings.item_table.model_copy(update=given)})

    def check_left(*names: str, current: str) -> None:
        """Checks what is in the table's folder after a kill, with the lock: its versions, and the pointer's."""
        assert folders(tmp_path / f"table/dt={DATE}") == ["_current", *sorted(names)]
        assert len(list((tmp_path / "table").glob("_lock.*"))) == 1
        found = published.current(f"{tmp_path}/table", DATE)
        assert found is not None
        assert seen_in(found)[0] == current

    old, new = in_hive(job.before), in_hive(job.settings)
    (first,) = run_in_hive("before", old, new)
    assert first[1] == job.old[1]
    check_left(job.old[0], job.new[0], current=job.old[0])

    kept, second = run_in_hive("after", new, old)
    assert kept == first
    assert second[1] == job.new[1]
    assert job.new[0].removeprefix("version=") in second[0]
    check_left(job.old[0], job.new[0], current=job.new[0])

    moved, third = run_in_hive("", old, old)
    assert moved == (second[0], job.old[1])
    assert third == first
    assert folders(tmp_path / f"table/dt={DATE}") == ["_current", job.old[0]]
    assert list((tmp_path / "table").glob("_lock.*")) == []
