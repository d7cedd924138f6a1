"""Builds the samples, trains, evaluates, publishes the item table of each day and indexes it.

The environment of the scheduler and the workers says what to run:

| variable | meaning | default |
|---|---|---|
| `DSSM_HOME` | the project's checkout | the one that holds this file |
| `DSSM_CONFIG` | the pipeline's YAML, relative to the checkout | `conf/demo.yaml` |
| `DSSM_SET` | overrides as `key=value key='other value'`; each becomes a `--set` | none |
| `DSSM_TRAIN_POOL` | Airflow's pool for `train`: with one slot, two pipelines never share the GPUs | `default_pool` |
| `DSSM_ALERT` | `module:function`, called with the task's context when a task has failed for good | none |

Days are UTC's. The run of day D starts when D is over, because D itself is the test window. Past days:

    airflow backfill create --dag-id dssm_daily --from-date 2024-01-01 --to-date 2024-01-07 --max-active-runs 1

A backfill does not follow the DAG's own limit of one run at a time; without --max-active-runs it starts ten. The same
without Airflow: `--dates 2024-01-01..2024-01-07` on each job. Every job may be tried again: it commits its output by a
rename, the manifest last. A refusal (exit code 2 or 3) is not tried again: it would end the same way.

`dssm_rollback` points the table of a date at one of its earlier versions, by hand:

    airflow dags trigger dssm_rollback --conf '{"date": "2024-01-15", "version": "1a2b3c4d5e6f7a8b"}'

A published table is an update of the asset `dssm_item_table`, on which other DAGs can wait.
"""

from __future__ import annotations

import datetime as dt
import importlib
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import DAG, Asset, BaseOperator, CronDataIntervalTimetable, Param, chain
from airflow.sdk.exceptions import AirflowException, AirflowFailException

HOME = Path(os.environ.get("DSSM_HOME") or Path(__file__).resolve().parents[1])
CONFIG = os.environ.get("DSSM_CONFIG") or "conf/demo.yaml"
OVERRIDES = shlex.split(os.environ.get("DSSM_SET", ""))

TRAIN_POOL = os.environ.get("DSSM_TRAIN_POOL") or "default_pool"

JOBS = ("build_samples", "train", "evaluate", "score_items", "index_items")
ITEM_TABLE = Asset("dssm_item_table")
REFUSALS = {2: "a setting, a path or the data needs mending", 3: "the quality gate refused to publish"}
AIRFLOWS_OWN_PYTHON = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


class SparkSubmit(BaseOperator):
    """Runs one job for the run's date; its output goes to the task's log.

    No shell reads the command and only the date and `more` are templates, so that a config's name may hold any
    character.
    """

    template_fields = ("date", "more")

    def __init__(self, *, job: str, date: str = "{{ ds }}", more: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.date = date
        self.more = list(more)

    @cached_property
    def hook(self) -> SubprocessHook:
        return SubprocessHook()

    @property
    def command(self) -> list[str]:
        overrides = [argument for override in OVERRIDES for argument in ("--set", override)]
        return [
            str(HOME / "spark-submit.sh"),
            self.job,
            "--config",
            CONFIG,
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
        environment = {name: value for name, value in os.environ.items() if name not in AIRFLOWS_OWN_PYTHON}
        environment["DSSM_RUN_ID"] = str(context.get("run_id", ""))  # so that the job's log names this run
        code = self.hook.run_command(self.command, env=environment, cwd=str(HOME)).exit_code
        if code in REFUSALS:
            raise AirflowFailException(f"{self.job} {self.date}: exit code {code}, {REFUSALS[code]}; not retried")
        if code != 0:
            raise AirflowException(f"{self.job} {self.date}: exit code {code}; the log above says why")

    def on_kill(self) -> None:
        self.hook.send_sigterm()


def alert() -> Callable[[Mapping[str, Any]], None] | None:
    """Returns what DSSM_ALERT names."""
    module, _, function = os.environ.get("DSSM_ALERT", "").partition(":")
    return getattr(importlib.import_module(module), function) if module else None


def pool_of(job: str) -> str:
    return TRAIN_POOL if job == "train" else "default_pool"


DEFAULTS = {
    "retries": 1,  # a job commits its output by a rename, so that a second try starts clean
    "execution_timeout": dt.timedelta(hours=6),
    # Holds over all runs, a backfill's too: score_items needs the embedded Derby metastore to itself.
    "max_active_tis_per_dag": 1,
    "on_failure_callback": alert(),
}

with DAG(
    dag_id="dssm_daily",
    # Airflow 3 reads "@daily" as a trigger: a run at 00:00 of D, for D, before D has any events.
    schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
    start_date=dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULTS,
    doc_md=__doc__,
):
    published = {"score_items": [ITEM_TABLE]}
    chain(*(SparkSubmit(task_id=job, job=job, pool=pool_of(job), outlets=published.get(job, [])) for job in JOBS))

with DAG(
    dag_id="dssm_rollback",
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
    SparkSubmit(
        task_id="rollback",
        job="rollback",
        date="{{ params.date }}",
        more=["--to", "{{ params.version }}", "--table", "{{ params.table }}"],
        outlets=[ITEM_TABLE],
    )
