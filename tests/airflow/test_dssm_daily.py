"""The DAG on a checkout whose jobs only note how they were called."""

from __future__ import annotations

import datetime as dt
import json
import threading
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, DeadlineReference, SyncCallback
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from tests.airflow.conftest import PROJECT, Airflow, FakeProject, running_scheduler, wait_for

pytestmark = pytest.mark.airflow

JOBS = ["build_samples", "train", "evaluate", "score_items", "index_items"]
AWKWARD_CONFIG = """conf/it's "mine" {{ ds }}; $HOME *.yaml"""


def parse(file: Path = PROJECT / "dags" / "dssm_daily.py", dag: str = "dssm_daily") -> DAG:
    bag = DagBag(file)
    assert bag.import_errors == {}
    assert sorted(bag.dags) == ["dssm_daily", "dssm_rollback"]
    return bag.dags[dag]


# Parsing -------------------------------------------------------------------------------------------------


def test_the_five_jobs_follow_each_other():
    dag = parse()
    assert {task.task_id: task.downstream_task_ids for task in dag.tasks} == {
        "build_samples": {"train"},
        "train": {"evaluate"},
        "evaluate": {"score_items"},
        "score_items": {"index_items"},
        "index_items": set(),
    }
    assert {type(task).__mro__[1] for task in dag.tasks} == {SparkSubmitOperator}
    assert (dag.catchup, dag.max_active_runs, dag.deadline) == (False, 1, None)
    assert {(task.retries, task.execution_timeout) for task in dag.tasks} == {(1, dt.timedelta(hours=6))}
    assert {task.max_active_tis_per_dag for task in dag.tasks} == {1}


def test_command_without_any_variable():
    task = parse().get_task("train")
    task.render_template_fields({"ds": "2024-02-29"})
    script = str(PROJECT / "spark-submit.sh")
    assert task.command == [script, "train", "--config", "conf/demo.yaml", "--date", "2024-02-29"]


def test_command_with_awkward_variables(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DSSM_HOME", "/the lake/dssm")
    monkeypatch.setenv("DSSM_CONFIG", AWKWARD_CONFIG)
    monkeypatch.setenv("DSSM_SET", """root='/tmp/a b' train.epochs=1 "name={{ ds }}" """)
    task = parse().get_task("evaluate")
    task.render_template_fields({"ds": "2024-01-15"})
    assert task.command == [
        "/the lake/dssm/spark-submit.sh", "evaluate", "--config", AWKWARD_CONFIG, "--date", "2024-01-15",
        "--set", "root=/tmp/a b", "--set", "train.epochs=1", "--set", "name={{ ds }}",
    ]  # fmt: skip


def test_a_linked_dag_finds_its_checkout(tmp_path: Path):
    link = tmp_path / "dssm_daily.py"
    link.symlink_to(PROJECT / "dags" / "dssm_daily.py")
    assert parse(link).get_task("train").command[0] == str(PROJECT / "spark-submit.sh")


def test_training_waits_for_its_pool(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DSSM_TRAIN_POOL", "gpus")
    dag = parse()
    assert {task.task_id: task.pool for task in dag.tasks} == {**dict.fromkeys(JOBS, "default_pool"), "train": "gpus"}
    assert [outlet.name for outlet in dag.get_task("score_items").outlets] == ["dssm_item_table"]


def test_two_configs_are_two_pipelines_whose_trainings_share_a_pool_of_one_slot(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
):
    assert airflow.run("pools", "set", "dssm_train", "1", "trainings, one at a time").returncode == 0
    assert airflow.query("SELECT slots FROM slot_pool WHERE pool = 'dssm_train'") == [(1,)]
    monkeypatch.setenv("DSSM_CONFIG", "conf/demo.yaml, /the lake/my videos.yaml")
    monkeypatch.setenv("DSSM_TRAIN_POOL", "dssm_train")
    bag = DagBag(PROJECT / "dags" / "dssm_daily.py")
    assert bag.import_errors == {}
    assert set(bag.dags) == {f"dssm_{dag}_{name}" for dag in ("daily", "rollback") for name in ("demo", "my_videos")}
    for name, config in {"demo": "conf/demo.yaml", "my_videos": "/the lake/my videos.yaml"}.items():
        daily, [back] = bag.dags[f"dssm_daily_{name}"], bag.dags[f"dssm_rollback_{name}"].tasks
        pools = {task.task_id: (task.pool, task.pool_slots) for task in daily.tasks}
        assert pools == {**dict.fromkeys(JOBS, ("default_pool", 1)), "train": ("dssm_train", 1)}
        assert {task.command[3] for task in [*daily.tasks, back]} == {config}
        [asset] = daily.get_task("score_items").outlets
        assert (asset.name, back.item_table) == (f"dssm_item_table_{name}", asset)


def test_two_configs_of_one_name_are_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DSSM_CONFIG", "a/my videos.yaml,b/my_videos.yaml")
    [error] = DagBag(PROJECT / "dags" / "dssm_daily.py").import_errors.values()
    assert "DSSM_CONFIG: found a/my videos.yaml and b/my_videos.yaml, which would both be dssm_daily_my_videos" in error


def test_a_late_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_deadlines.py").write_text("def late(context):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DSSM_DEADLINE_HOURS", "5.5")
    monkeypatch.setenv("DSSM_LATE", "my_deadlines:late")
    [alert] = parse().deadline
    assert alert.reference == DeadlineReference.DAGRUN_QUEUED_AT
    assert alert.interval == dt.timedelta(hours=5, minutes=30)
    assert alert.callback == SyncCallback("my_deadlines.late")


@pytest.mark.parametrize(
    ("variable", "value", "other"),
    [("DSSM_DEADLINE_HOURS", "5.5", "DSSM_LATE"), ("DSSM_LATE", "my_deadlines:late", "DSSM_DEADLINE_HOURS")],
)
def test_half_a_deadline_is_an_error(
    variable: str, value: str, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "my_deadlines.py").write_text("def late(context):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(variable, value)
    [error] = DagBag(PROJECT / "dags" / "dssm_daily.py").import_errors.values()
    assert f"{variable} is set without {other}, " in error


@pytest.mark.parametrize("hours", ["six", "0", "-1", "nan", "inf"])
@pytest.mark.parametrize("variable", ["DSSM_TIMEOUT_HOURS", "DSSM_DEADLINE_HOURS"])
def test_hours_that_are_none_are_an_error(variable: str, hours: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, hours)
    [error] = DagBag(PROJECT / "dags" / "dssm_daily.py").import_errors.values()
    assert f"{variable}: found '{hours}', expected a number of hours above 0" in error


def test_a_start_is_caught_up_from(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DSSM_START", "2024-01-14")
    dag = parse()
    assert (dag.start_date, dag.catchup) == (dt.datetime(2024, 1, 14, tzinfo=dt.UTC), True)


def test_empty_variables_are_as_unset(monkeypatch: pytest.MonkeyPatch):
    names = ("HOME", "CONFIG", "SET", "START", "TRAIN_POOL", "TIMEOUT_HOURS", "DEADLINE_HOURS", "ALERT", "LATE")
    for name in names:
        monkeypatch.setenv(f"DSSM_{name}", "")
    dag = parse()
    assert (dag.start_date, dag.catchup, dag.deadline) == (dt.datetime(2020, 1, 1, tzinfo=dt.UTC), False, None)
    train = dag.get_task("train")
    assert train.command[:4] == [str(PROJECT / "spark-submit.sh"), "train", "--config", "conf/demo.yaml"]
    assert train.command[4:] == ["--date", "{{ ds }}"]
    assert (train.pool, list(train.on_failure_callback)) == ("default_pool", [])
    assert train.execution_timeout == dt.timedelta(hours=6)


# One task ------------------------------------------------------------------------------------------------


def test_a_job_does_not_get_airflows_python(project: FakeProject, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DSSM_HOME", str(project.home))
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("MASTER", "local[2]")
    task = parse().get_task("train")
    task.execute({"run_id": "scheduled__2024-01-15"})
    [call] = project.calls()
    assert call["environment"]["DSSM_RUN_ID"] == "scheduled__2024-01-15"
    assert call["environment"]["DSSM_DEPLOY_MODE"] == "client"
    assert {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}.isdisjoint(call["environment"])
    assert call["environment"]["MASTER"] == "local[2]"
    assert call["cwd"] == str(project.home)


def test_a_missing_checkout_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DSSM_HOME", "/nowhere")
    with pytest.raises(
        AirflowFailException, match=r"^DSSM_HOME: /nowhere/spark-submit\.sh not found; set DSSM_HOME to"
    ):
        parse().get_task("train").execute({})


def test_a_driver_on_the_cluster_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """By this checkout's own spark-submit.sh."""
    monkeypatch.setenv("MASTER", "yarn")
    monkeypatch.setenv("HADOOP_CONF_DIR", "/etc/hadoop/conf")
    monkeypatch.setenv("DSSM_SET", "spark.deploy_mode=cluster root=hdfs:///runs data=hdfs:///feed")
    task = parse().get_task("build_samples")
    task.date = "2024-01-15"
    with pytest.raises(
        AirflowFailException, match=r"^build_samples 2024-01-15: exit code 2, a setting, .* not retried$"
    ):
        task.execute({})
    assert "spark.deploy_mode: found cluster, expected client" in capsys.readouterr().out


def test_a_killed_task_takes_its_job_along_and_all_that_it_started(
    project: FakeProject, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DSSM_HOME", str(project.home))
    project.end_with(train=["sleep"])
    task = parse().get_task("train")
    errors: list[AirflowException] = []

    def execute() -> None:
        try:
            task.execute({})
        except AirflowException as error:
            errors.append(error)

    thread = threading.Thread(target=execute, daemon=True)
    thread.start()
    wait_for(lambda: len(project.children()) == 2, "the job's children", 30)
    task.on_kill()
    wait_for(lambda: project.children() == [], "the children's end", 10)
    thread.join(30)
    assert task._hook.exit_code == -15
    assert [str(error).split(";")[0] for error in errors] == ["train {{ ds }}: exit code -15"]


# One date ------------------------------------------------------------------------------------------------


def test_one_date_runs_every_job_once(airflow: Airflow, project: FakeProject):
    airflow.variables.update(DSSM_CONFIG=AWKWARD_CONFIG, DSSM_SET="root='/tmp/a b'")
    done = airflow.run("dags", "test", "dssm_daily", "2024-01-15")
    assert done.returncode == 0, done.stdout
    assert airflow.outcome() == dict.fromkeys(JOBS, ("success", 1))
    assert [call["arguments"] for call in project.calls()] == [
        [job, "--config", AWKWARD_CONFIG, "--date", "2024-01-15", "--set", "root=/tmp/a b"] for job in JOBS
    ]
    assert "job score_items is on its try 1" in done.stdout


def alerts_are_written_to(file: Path) -> dict[str, str]:
    """Returns the variables by which a failed task is told to a file, a line each."""
    module = file.parent / "my_alerts.py"
    line = "{task.dag_id} {task.task_id}, try {task.try_number}: {context['exception']}"
    module.write_text(
        "def tell(context):\n"
        "    task = context['task_instance']\n"
        f"    print(f{line!r}, file=open({str(file)!r}, 'a'))\n"
    )
    return {"PYTHONPATH": str(file.parent), "DSSM_ALERT": "my_alerts:tell"}


def test_a_refusal_ends_the_date_without_another_try_and_is_told(
    airflow: Airflow, project: FakeProject, tmp_path: Path
):
    """Exit code 2; that of the gate, 3, is met in tests/airflow/test_demo_date.py."""
    told = tmp_path / "told"
    airflow.variables.update(alerts_are_written_to(told))
    project.end_with(evaluate=[2])
    done = airflow.run("dags", "test", "dssm_daily", "2024-01-15")
    assert done.returncode == 1
    assert airflow.outcome() == {
        "build_samples": ("success", 1),
        "train": ("success", 1),
        "evaluate": ("failed", 1),
        "score_items": ("upstream_failed", 0),
        "index_items": ("upstream_failed", 0),
    }
    assert project.jobs() == ["build_samples", "train", "evaluate"]
    failure = "evaluate 2024-01-15: exit code 2, a setting, a path or the data needs mending; not retried"
    assert failure in done.stdout
    assert told.read_text() == f"dssm_daily evaluate, try 1: {failure}\n"


def test_a_crash_is_tried_once_more_and_told_when_it_fails_again(
    airflow: Airflow, project: FakeProject, tmp_path: Path
):
    told = tmp_path / "told"
    airflow.variables.update(alerts_are_written_to(told))
    project.end_with(build_samples=[1], evaluate=[1, 137])
    done = airflow.run("dags", "test", "dssm_daily", "2024-01-15")
    assert done.returncode == 1
    assert airflow.outcome() == {
        "build_samples": ("success", 2),
        "train": ("success", 1),
        "evaluate": ("failed", 2),
        "score_items": ("upstream_failed", 0),
        "index_items": ("upstream_failed", 0),
    }
    assert project.jobs() == ["build_samples", "build_samples", "train", "evaluate", "evaluate"]
    failure = "evaluate 2024-01-15: exit code 137; the log above says why"
    assert failure in done.stdout
    assert told.read_text() == f"dssm_daily evaluate, try 2: {failure}\n"


def test_a_try_that_takes_too_long_is_ended_with_all_that_it_started(airflow: Airflow, project: FakeProject):
    airflow.variables.update(DSSM_TIMEOUT_HOURS=str(15 / 3600))
    project.end_with(train=["sleep"])
    done = airflow.run("dags", "test", "dssm_daily", "2024-01-15")
    assert done.returncode == 0, done.stdout
    assert airflow.outcome() == {**dict.fromkeys(JOBS, ("success", 1)), "train": ("success", 2)}
    assert project.jobs() == ["build_samples", "train", *JOBS[1:]]
    assert (project.home / "children.json").exists()
    assert project.children() == []


@pytest.mark.parametrize("table", ["items", "users"])
def test_a_rollback_updates_the_asset_of_the_item_table_alone(airflow: Airflow, project: FakeProject, table: str):
    asked = {"date": "2024-01-14", "version": "1a2b", "table": table}
    done = airflow.run("dags", "test", "dssm_rollback", "-c", json.dumps(asked))
    assert done.returncode == 0, done.stdout
    assert airflow.outcome() == {"rollback": ("success", 1)}
    [call] = project.calls()
    assert call["arguments"] == [
        "rollback", "--config", "conf/demo.yaml", "--date", "2024-01-14", "--to", "1a2b", "--table", table,
    ]  # fmt: skip
    updates = airflow.query(
        "SELECT name, source_dag_id, asset_event.extra FROM asset_event JOIN asset ON asset.id = asset_id"
    )
    assert [(name, dag, json.loads(extra)) for name, dag, extra in updates] == {
        "items": [("dssm_item_table", "dssm_rollback", {"date": "2024-01-14", "config": "conf/demo.yaml"})],
        "users": [],
    }[table]


# The scheduler -------------------------------------------------------------------------------------------


def late_runs_are_written_to(file: Path) -> dict[str, str]:
    """Returns the variables by which a run that takes longer than a second is told to a file."""
    module = file.parent / "my_deadlines.py"
    module.write_text(f"def late(context):\n    open({str(file)!r}, 'w').write(context['dag_run']['dag_id'])\n")
    return {"PYTHONPATH": str(file.parent), "DSSM_DEADLINE_HOURS": str(1 / 3600), "DSSM_LATE": "my_deadlines:late"}


@pytest.mark.timeout(1800)
def test_the_scheduler_runs_the_day_that_ended_tells_that_it_is_late_and_backfills_three_days_in_turn(
    airflow: Airflow, project: FakeProject, tmp_path: Path
):
    def today() -> dt.date:
        return dt.datetime.now(dt.UTC).date()

    told, before = tmp_path / "told", today()
    airflow.variables.update(late_runs_are_written_to(told))
    project.end_with(train=["wait"])
    with running_scheduler(airflow, tmp_path) as services:
        assert airflow.run("dags", "unpause", "dssm_daily").returncode == 0
        wait_for(lambda: told.exists() and told.read_text() == "dssm_daily", "the alert of the late run", 300)
        assert "evaluate" not in project.jobs()  # it is told while the run goes on
        project.go()
        wait_for(lambda: ("success",) in airflow.query("SELECT state FROM dag_run"), "the scheduled run", 300)
        assert project.jobs() == JOBS
        days_that_ended = {(before - dt.timedelta(days=1)).isoformat(), (today() - dt.timedelta(days=1)).isoformat()}
        assert set(project.dates()) <= days_that_ended

        # The command reads before it writes, in one transaction: of that SQLite refuses the writing, without any wait,
        # while another process writes. The database of a real Airflow waits.
        services.stop("scheduler", "dag-processor")
        created = airflow.run(
            "backfill", "create", "--dag-id", "dssm_daily",
            "--from-date", "2024-01-13", "--to-date", "2024-01-15", "--max-active-runs", "1",
        )  # fmt: skip
        assert created.returncode == 0, created.stdout
        services.start("scheduler")
        wait_for(lambda: len(project.calls()) == 20, "the backfill", 600)
    assert project.jobs() == 4 * JOBS
    assert project.dates()[5:] == [date for date in ("2024-01-13", "2024-01-14", "2024-01-15") for _ in JOBS]
