"""Builds the samples, trains, evaluates, publishes the item table of each day and indexes it.

The environment of the scheduler and the workers says what to run:

| variable | meaning | default |
|---|---|---|
| `DSSM_HOME` | the project's checkout | the one that holds this file |
| `DSSM_CONFIG` | the pipeline's YAML, relative to the checkout; several with commas between them | `conf/demo.yaml` |
| `DSSM_SET` | overrides as `key=value key='other value'`; each becomes a `--set` | none |
| `DSSM_START` | first day that is caught up; without it the DAG begins with the day that ended last | none |
| `DSSM_TRAIN_POOL` | Airflow's pool for `train`; see below | `default_pool` |
| `DSSM_TIMEOUT_HOURS` | hours that a try of a job may take; after them it is ended, with all that it started | 6 |
| `DSSM_DEADLINE_HOURS` | hours that a run may take from when it is queued; after them `DSSM_LATE` is called | none |
| `DSSM_ALERT` | `module:function`, called with the task's context when a task has failed for good | none |
| `DSSM_LATE` | `module:function`, called with the run's context when it is late; goes with the hours | none |

Each of several configs is a pipeline of its own, with the file's name behind that of its DAGs and its asset:
`dssm_daily_NAME`, `dssm_rollback_NAME`, `dssm_item_table_NAME`. The other variables hold for all of them.

Trainings wait for each other, over all pipelines, in a pool of one slot, where somebody has made it. The default pool
has 128 slots, and keeps no two trainings from sharing the GPUs:

    airflow pools set dssm_train 1 "trainings, one at a time"     # and DSSM_TRAIN_POOL=dssm_train

Days are UTC's. The run of day D starts when D is over, because D itself is the test window. Past days:

    airflow backfill create --dag-id dssm_daily --from-date 2024-01-01 --to-date 2024-01-07 --max-active-runs 1

A backfill does not follow the DAG's own limit of one run at a time; without --max-active-runs it starts ten, whose
tasks of one kind still wait for each other. The same without Airflow: `--dates 2024-01-01..2024-01-07` on each job.

Every job is idempotent, so each may be tried again: it writes under a temporary name and commits by one rename, the
manifest last; `train` goes on from its last checkpoint, `score_items` finds the version that it has made, by a digest
of date, model and samples, and `index_items` switches to a version only when all of it is loaded and found well. A
refusal (exit code 2 or 3) is not tried again: it would end the same way. `spark.deploy_mode: cluster` is one: Airflow
can neither end a driver on the cluster nor read its exit code.

Airflow 3 has no SLAs. What comes nearest is a deadline alert: the scheduler notices that a run is late while it still
goes on, and its executor calls `DSSM_LATE`. A run is queued when its day is over; those of a backfill all at once.

`dssm_rollback` points the table of a date at one of its earlier versions, by hand:

    airflow dags trigger dssm_rollback --conf '{"date": "2024-01-15", "version": "1a2b3c4d5e6f7a8b"}'

The embedded Derby metastore, the default of `item_table.metastore`, takes one process at a time. Tasks of one kind
wait for each other, but not for those of another DAG: `dssm_rollback` may open it beside `score_items`, and so may
pipelines with the same `root`, whereupon the second fails. In production use a real one, `thrift://…` or `jdbc:…`.

A published item table is an update of the asset `dssm_item_table`, on which other DAGs can wait; `score_items` and
`dssm_rollback` say in it which date and config it was. A rollback of the users' table updates no asset.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib
import os
import re
import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from airflow.providers.apache.spark.hooks.spark_submit import SparkSubmitHook
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import (
    DAG,
    Asset,
    AssetAlias,
    CronDataIntervalTimetable,
    DeadlineAlert,
    DeadlineReference,
    Param,
    SyncCallback,
    chain,
)
from airflow.sdk.exceptions import AirflowException, AirflowFailException

HOME = Path(os.environ.get("DSSM_HOME") or Path(__file__).resolve().parents[1])
OVERRIDES = shlex.split(os.environ.get("DSSM_SET", ""))

START = os.environ.get("DSSM_START")
TRAIN_POOL = os.environ.get("DSSM_TRAIN_POOL") or "default_pool"

JOBS = ("build_samples", "train", "evaluate", "score_items", "index_items")
REFUSALS = {2: "a setting, a path or the data needs mending", 3: "the quality gate refused to publish"}
AIRFLOWS_OWN_PYTHON = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
GRACE_S = 4  # Airflow's supervisor kills a task 5 s after its SIGTERM, and the job is to be gone before


def processes_of(job: int) -> set[psutil.Process]:
    """Returns the processes of a job's session, whose leader may have ended, and all below them.

    Ranks have sessions of their own: a signal to the job's group does not reach them.
    """
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if process not in found and os.getsid(process.pid) == job:
                found |= {process, *process.children(recursive=True)}
    return found


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def kill(processes: set[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


class Submission(SparkSubmitHook):
    """Starts `spark-submit.sh`, which makes Spark's arguments: the settings are written down once, in the config.

    Which master runs the job is among them, so none is looked up in Airflow's connections. The driver is the task's
    own child: when it ends, Spark ends the application on the cluster. With `spark.deploy_mode: cluster` it would be
    neither: a killed task would leave its application there, and a refusal would end with another code. So that mode
    is refused.
    """

    def __init__(self, command: Sequence[str], run_id: str) -> None:
        self.command = list(command)
        self.run_id = run_id
        super().__init__()

    def _resolve_connection(self) -> dict[str, Any]:
        nothing = ("queue", "deploy_mode", "namespace", "principal", "keytab", "rest_endpoint")
        return {"master": "local", "spark_binary": self.command[0], **dict.fromkeys(nothing)}

    def _build_spark_submit_command(self, application: str) -> list[str]:
        return self.command

    def submit(self, application: str = "", **kwargs: Any) -> str | None:
        environment = {name: value for name, value in os.environ.items() if name not in AIRFLOWS_OWN_PYTHON}
        environment["DSSM_RUN_ID"] = self.run_id  # so that the job's log names this run
        environment["DSSM_DEPLOY_MODE"] = "client"
        return super().submit(application, cwd=str(HOME), env=environment, start_new_session=True, **kwargs)

    @property
    def exit_code(self) -> int | None:
        return self._submit_sp.returncode if self._submit_sp else None

    def on_kill(self) -> None:
        """Ends the job and all that it has started, so that no further try begins beside an old rank.

        SIGTERM goes to the group, where Horovod's launcher passes it on; who is left after GRACE_S is killed. The
        hook's own SIGKILL would leave the driver's Python and its ranks behind.
        """
        if self._submit_sp is None:
            return
        end, job = time.monotonic() + GRACE_S, self._submit_sp.pid
        started = processes_of(job)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job, signal.SIGTERM)
        while time.monotonic() < end and any(map(is_alive, started)):
            time.sleep(0.1)
        kill(started)
        kill(processes_of(job))  # a second look takes its time on a busy host


class SparkSubmit(SparkSubmitOperator):
    """Runs one job for the run's date; its output goes to the task's log.

    No shell reads the command and only the date and `more` are templates, so that a config's name may hold any
    character.
    """

    template_fields = ("date", "more")

    def __init__(
        self, *, job: str, config: str, date: str = "{{ ds }}", more: Sequence[str] = (), **kwargs: Any
    ) -> None:
        super().__init__(name=job, **kwargs)
        self.job = job
        self.config = config
        self.date = date
        self.more = list(more)

    @property
    def command(self) -> list[str]:
        overrides = [argument for override in OVERRIDES for argument in ("--set", override)]
        return [
            str(HOME / "spark-submit.sh"),
            self.job,
            "--config",
            self.config,
            "--date",
            self.date,
            *overrides,
            *self.more,
        ]

    def execute(self, context: Mapping[str, Any]) -> None:
        """Raises: AirflowFailException, which is not retried, where a second try would end the same way."""
        script = Path(self.command[0])
        if not script.is_file():
            raise AirflowFailException(f"DSSM_HOME: {script} not found; set DSSM_HOME to the project's checkout")
        self._hook = Submission(self.command, str(context.get("run_id", "")))
        try:
            super().execute(context)
        except AirflowException as error:
            code = self._hook.exit_code
            if code in REFUSALS:
                raise AirflowFailException(
                    f"{self.job} {self.date}: exit code {code}, {REFUSALS[code]}; not retried"
                ) from error
            raise AirflowException(f"{self.job} {self.date}: exit code {code}; the log above says why") from error
        self.tell(context)

    def tell(self, context: Mapping[str, Any]) -> None:
        """Says in the assets' updates which date and config it was."""
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = self.told

    @property
    def told(self) -> dict[str, str]:
        return {"date": self.date, "config": self.config}

    def on_kill(self) -> None:
        if self._hook is not None:
            self._hook.on_kill()


class Rollback(SparkSubmit):
    """Points a table at one of its earlier versions; of the item table alone it is an update of the asset."""

    template_fields = (*SparkSubmit.template_fields, "table")

    def __init__(self, *, table: str, to: str, item_table: Asset, **kwargs: Any) -> None:
        super().__init__(job="rollback", more=["--to", to, "--table", table], **kwargs)
        self.table = table
        self.item_table = item_table
        # Stands for the item table's asset, or for none: which table it is, a run says.
        self.outlets = [AssetAlias(f"{item_table.name}_rolled_back")]

    def tell(self, context: Mapping[str, Any]) -> None:
        if self.table == "items":
            context["outlet_events"][self.outlets[0]].add(self.item_table, extra=self.told)


def configs() -> dict[str, str]:
    """Returns the pipelines' configs, each by how the names of its DAGs end: the only one's as they are.

    Raises: ValueError, which Airflow shows as the DAGs' import error, where two would have the same names.
    """
    found = [name.strip() for name in os.environ.get("DSSM_CONFIG", "").split(",") if name.strip()]
    if len(found) < 2:
        return {"": found[0] if found else "conf/demo.yaml"}
    named: dict[str, str] = {}
    for config in found:
        ending = "_" + re.sub(r"[^\w.-]", "_", Path(config).stem)
        if ending in named:
            raise ValueError(
                f"DSSM_CONFIG: found {named[ending]} and {config}, which would both be dssm_daily{ending}; "
                "rename one of the files"
            )
        named[ending] = config
    return named


def function_of(variable: str) -> Callable[..., None] | None:
    """Returns what `module:function` in the environment names."""
    module, _, function = os.environ.get(variable, "").partition(":")
    return getattr(importlib.import_module(module), function) if module else None


def hours_of(variable: str) -> dt.timedelta | None:
    """Returns how long a variable of hours says; None where it is not set.

    Raises: ValueError, which Airflow shows as the DAG's import error.
    """
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        found = dt.timedelta(hours=float(text))
    except (ValueError, OverflowError):
        found = dt.timedelta(0)
    if found <= dt.timedelta(0):
        raise ValueError(f"{variable}: found '{text}', expected a number of hours above 0, such as 6 or 0.5")
    return found


def deadline() -> DeadlineAlert | None:
    """Returns the alert of a late run; None where none is asked for.

    Raises: ValueError where only one of its two variables is set.
    """
    interval, late = hours_of("DSSM_DEADLINE_HOURS"), function_of("DSSM_LATE")
    if interval is None and late is None:
        return None
    if interval is None:
        raise ValueError("DSSM_LATE is set without DSSM_DEADLINE_HOURS, so it would never be called; set both, or none")
    if late is None:
        raise ValueError("DSSM_DEADLINE_HOURS is set without DSSM_LATE, so nobody would be told; set both, or none")
    return DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, interval, SyncCallback(late), name="item table is late")


def pool_of(job: str) -> str:
    return TRAIN_POOL if job == "train" else "default_pool"


DEFAULTS = {
    "retries": 1,
    "execution_timeout": hours_of("DSSM_TIMEOUT_HOURS") or dt.timedelta(hours=6),
    # Holds over all runs of a DAG, a backfill's too: score_items needs the embedded Derby metastore to itself.
    "max_active_tis_per_dag": 1,
    "on_failure_callback": function_of("DSSM_ALERT"),
}


def daily(ending: str, config: str, item_table: Asset) -> None:
    with DAG(
        dag_id=f"dssm_daily{ending}",
        # Airflow 3 reads "@daily" as a trigger: a run at 00:00 of D, for D, before D has any events.
        schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
        start_date=dt.datetime.fromisoformat(START or "2020-01-01").replace(tzinfo=dt.UTC),
        catchup=bool(START),
        max_active_runs=1,
        deadline=deadline(),
        default_args=DEFAULTS,
        doc_md=__doc__,
    ):
        published = {"score_items": [item_table]}
        tasks = [
            SparkSubmit(task_id=job, job=job, config=config, pool=pool_of(job), outlets=published.get(job, []))
            for job in JOBS
        ]
        chain(*tasks)


def rollback(ending: str, config: str, item_table: Asset) -> None:
    with DAG(
        dag_id=f"dssm_rollback{ending}",
        schedule=None,
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULTS,
        params={
            "date": Param(type="string", format="date", description="of the partition"),
            "version": Param(type="string", description="one that `./spark-submit.sh versions NAME/DATE` lists"),
            "table": Param("items", enum=["items", "users"]),
        },
        doc_md="Points the table of a date at one of its earlier versions. Nothing else changes, and no job runs.",
    ):
        Rollback(
            task_id="rollback",
            config=config,
            date="{{ params.date }}",
            to="{{ params.version }}",
            table="{{ params.table }}",
            item_table=item_table,
        )


for ending, config in configs().items():
    item_table = Asset(f"dssm_item_table{ending}")
    daily(ending, config, item_table)
    rollback(ending, config, item_table)
