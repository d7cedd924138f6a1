"""The Spark session of all Spark tests, the browser of all that open pages, a tiny feed to build samples from."""

from __future__ import annotations

import functools
import gc
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.browser import Browser, find_chromium
from tests.samples.feed import TinyFeed, write_tiny_feed

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PROJECT = Path(__file__).parents[1]
# The same examples each time, without a time limit: how long one takes says more of the machine than of the code.
# HYPOTHESIS_PROFILE=search looks for new ones.
hypothesis.settings.register_profile("dssm", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, derandomize=False, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dssm"))

# What is begun in the background of a shell ignores SIGINT, and so would all that it starts: tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Ranks ask each other once a millisecond what there is to exchange, also for as long as all of them trace their graphs:
# where they are more than the cores, that was a tenth of what the tests of ranks took.
os.environ.setdefault("HOROVOD_CYCLE_TIME", "10")  # ms

# Collecting the tests imports TensorFlow and Spark: a million objects that live to the end. The garbage collector
# would walk them again and again, while they are made (a third of the time of collecting the tests) and later.
gc.disable()

# Files that take minutes, longest first: begun last, one would keep one worker busy when the other has ended.
LONGEST = (
    "train/test_ranks.py", "train/test_chaos.py", "train/test_lost_rank.py", "train/test_spark_kills.py",
    "train/test_elastic.py", "train/test_resume_ranks.py", "test_pipeline.py", "test_recipes.py", "test_docs.py",
    "scoring/test_score.py", "scoring/test_faults_of_jobs.py", "samples/test_build_rich.py", "train/test_resume.py",
    "samples/test_leaks.py", "model/test_raw_agreement.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {PROJECT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


# What tests on the session of Spark import. They are half of the work, and one worker runs all of them: Spark begins
# slowly, for its classes are loaded and compiled as they are used.
OF_SPARK = re.compile(r"SparkSession|tests\.samples\.(reading|feed) import")


@functools.cache
def _uses_spark(file: str) -> bool:
    return OF_SPARK.search((PROJECT / file).read_text(encoding="utf-8")) is not None


@pytest.hookimpl(optionalhook=True)  # of xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Has one of two workers run all files that use the session of Spark; a file goes to one worker in any case."""
    if config.getoption("dist") != "loadfile" or config.getoption("numprocesses") != 2:
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return "spark" if _uses_spark(file) else file

    return Scheduling(config, log)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture
def kept_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder where benchmarks keep results, and page.md their tables, instead of the project's own."""
    (tmp_path / "page.md").touch()
    monkeypatch.setattr("benchmarks.report.PAGE", tmp_path / "page.md")
    monkeypatch.setattr("benchmarks.report.RESULTS", tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A session on two cores with Hive in a folder of its own, set up as spark-submit.sh and the jobs do.

    But for what suits tests of few rows: plans are interpreted.
    """
    from dssm.config import load_settings
    from dssm.spark import spark_session
    from dssm.submitting.command import session_environment
    from tests.pipeline import OF_FEW_ROWS

    folder = tmp_path_factory.mktemp("spark")
    conf = {
        "spark.driver.memory": "1g",
        "spark.ui.enabled": False,
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.local.dir": str(folder),
        "spark.sql.catalogImplementation": "hive",
        **OF_FEW_ROWS,
    }
    overrides = [
        "samples.shuffle_partitions=2",
        f"root={folder}/runs",
        f"item_table.metastore={folder}/metastore_db",
        f"spark.conf={conf}",
    ]
    settings = load_settings(str(PROJECT / "conf" / "demo.yaml"), overrides)
    with pytest.MonkeyPatch.context() as patched:
        variables = session_environment("build_samples", settings, {**os.environ, "MASTER": "local[2]"})
        for name, value in variables.items():
            patched.setenv(name, value)
        patched.setenv("PYTHONPATH", os.pathsep.join([str(PROJECT), *sys.path]))  # the workers import dssm, too
        if "JAVA_HOME" not in os.environ:
            found = subprocess.run([PROJECT / "scripts" / "java_home.sh"], capture_output=True, text=True, check=True)
            patched.setenv("JAVA_HOME", found.stdout.strip())
        with spark_session(settings, "tests", hive=True) as session:
            yield session


@pytest.fixture
def tiny_feed(tmp_path: Path) -> TinyFeed:
    return write_tiny_feed(tmp_path / "feed")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium; tests that need it are left out where there is none."""
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed")
    opened = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()
