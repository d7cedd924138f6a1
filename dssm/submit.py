"""The command behind spark-submit.sh: checks the settings, then submits a job."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dssm.cli import JOBS, TOOLS, VIEWS, exit_with, parse_settings
from dssm.config import Settings
from dssm.console import terminal_environment
from dssm.errors import UserError, did_you_mean
from dssm.workers import IMPORTS

PROJECT = Path(__file__).resolve().parent.parent

USAGE = """usage: ./spark-submit.sh JOB --config conf/X.yaml [--date YYYY-MM-DD | --dates A..B] [--set key=value …]
       ./spark-submit.sh VIEW RUN [options]
       ./spark-submit.sh init NAME --events PATH --items PATH [options]

Submits a job to Spark: on this machine, or on the cluster that the setting spark.master or the
environment's MASTER names. ./spark-submit.sh JOB --help shows a job's options.
"""
# Not profile.py: Python looks for modules beside the script first, and PySpark's cProfile imports one of that name.
VIEW_SCRIPTS = {view: f"{view}.py" for view in [*VIEWS, *TOOLS]} | {"profile": "profile_samples.py"}


def usage() -> str:
    width = max(map(len, [*JOBS, *VIEWS, *TOOLS]))
    lists = {"to begin with": TOOLS, "jobs": JOBS, "views of a run that is there, without Spark": VIEWS}
    return USAGE + "".join(
        f"\n{title}:\n" + "".join(f"  {name:<{width}}  {what}\n" for name, what in of.items())
        for title, of in lists.items()
    )


def command(job: str, arguments: Sequence[str], settings: Settings, environment: Mapping[str, str]) -> list[str]:
    """Returns the command line that runs a job; one that needs no Spark starts without it."""
    script = str(PROJECT / "jobs" / f"{job}.py")
    if not needs_spark(job, settings):
        return [sys.executable, script, *arguments]
    conf = {**_conf(job, settings, is_local(master(settings, environment))), **settings.spark.conf}
    submit = str(Path(sys.executable).with_name("spark-submit"))
    options = [option for key, value in conf.items() for option in ("--conf", f"{key}={value}")]
    return [submit, "--master", master(settings, environment), *options, script, *arguments]


def needs_spark(job: str, settings: Settings) -> bool:
    if job == "train":
        return settings.train.launch in ("spark", "spark-elastic")
    return job != "index_items"


def master(settings: Settings, environment: Mapping[str, str]) -> str:
    return environment.get("MASTER") or settings.spark.master or "local[*]"


def is_local(spark_master: str) -> bool:
    return spark_master.startswith("local")


# A job on one machine is over in a minute or two: C2 would compile until the end, on the cores that the tasks need,
# and so would G1's threads collect.
SHORT_JOB = "-XX:TieredStopAtLevel=1 -XX:+UseParallelGC"


WORKER_IMPORTS = {"build_samples": "dssm.samples.build,pyspark.sql.pandas.serializers"}  # of what their tasks run


def _conf(job: str, settings: Settings, local: bool) -> dict[str, str]:
    java = f"-Dlog4j2.configurationFile={(PROJECT / 'conf' / 'spark' / 'log4j2.properties').as_uri()}"
    if local:
        java = f"{java} {SHORT_JOB}"
    conf = {
        "spark.driver.memory": "2g",
        "spark.executor.memory": "1g",
        "spark.driver.extraJavaOptions": java,
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.executorEnv.PYTHONHASHSEED": "0",
        "spark.executorEnv.TF_CPP_MIN_LOG_LEVEL": "3",
    }
    if local and job == "build_samples":
        conf["spark.driver.memory"] = "1200m"  # of its rows the heap holds a few large values at a time
    if local and job != "train":
        conf["spark.python.daemon.module"] = "dssm.workers"
        conf[f"spark.executorEnv.{IMPORTS}"] = WORKER_IMPORTS.get(job, "pyarrow,pandas")
    if job == "train":
        # Ranks meet in collectives: a task started again alone, twice, or late would wait for ever.
        conf |= {
            "spark.task.maxFailures": "1",
            "spark.speculation": "false",
            "spark.dynamicAllocation.enabled": "false",
        }
    if settings.metastore is not None:
        place = settings.metastore if "://" in settings.metastore else str(Path(settings.metastore).absolute())
        conf |= {
            "spark.hadoop.javax.jdo.option.ConnectionURL": f"jdbc:derby:;databaseName={place};create=true",
            "spark.sql.warehouse.dir": f"{place}_warehouse",
            "spark.driver.extraJavaOptions": f'{java} "-Dderby.stream.error.file={place}.log"',
        }
    return conf


def submit(argv: Sequence[str]) -> None:
    """Checks the command and its settings, then replaces this process by the job.

    Raises: UserError before anything is started.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return
    job, arguments = argv[0], argv[1:]
    if job in VIEW_SCRIPTS:
        line = [sys.executable, str(PROJECT / "jobs" / VIEW_SCRIPTS[job]), *arguments]
        os.execve(line[0], line, dict(os.environ) | terminal_environment())
    if job not in JOBS:
        raise UserError(f"no job is named '{job}'" + did_you_mean(job, [*JOBS, *VIEW_SCRIPTS]))
    settings = parse_settings(arguments, job)[0]
    environment = dict(os.environ)
    line = command(job, arguments, settings, environment)
    environment |= {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    environment |= {"PYTHONHASHSEED": "0", "TF_CPP_MIN_LOG_LEVEL": "3", "SPARK_HOME": _spark_home()}
    environment |= terminal_environment()
    if is_local(master(settings, environment)):
        environment.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    sys.stdout.flush()
    os.execve(line[0], line, environment)


def _spark_home() -> str:
    import pyspark

    return str(Path(pyspark.__file__).parent)


def main() -> None:
    exit_with(lambda: submit(sys.argv[1:]))


if __name__ == "__main__":
    main()
