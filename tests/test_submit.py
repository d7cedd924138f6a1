from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from dssm.cli import JOBS, TOOLS, VIEWS
from dssm.config import Settings, load_settings
from dssm.errors import UserError
from dssm.submit import VIEW_SCRIPTS, submit, usage
from dssm.submitting.command import Submission, command
from dssm.submitting.masters import master

PROJECT = Path(__file__).parents[1]
DEMO = str(PROJECT / "conf" / "demo.yaml")


def demo(*overrides: str) -> Settings:
    return load_settings(DEMO, overrides)


def conf_of(line: list[str]) -> dict[str, str]:
    return dict(line[place + 1].split("=", 1) for place, word in enumerate(line) if word == "--conf")


# The command -------------------------------------------------------------------------------------------


def test_a_job_is_submitted_with_its_own_arguments() -> None:
    arguments = ["--config", DEMO, "--set", "data=a b"]
    line = command("build_samples", arguments, demo(), {})
    assert line[0] == str(Path(sys.executable).with_name("spark-submit"))
    assert line[-5:] == [str(PROJECT / "jobs" / "build_samples.py"), *arguments]
    assert Path(line[-5]).is_file()


@pytest.mark.parametrize("job", JOBS)
def test_only_train_turns_retries_and_dynamic_allocation_off(job: str) -> None:
    conf = conf_of(command(job, [], demo(), {}))
    keys = ("spark.task.maxFailures", "spark.speculation", "spark.dynamicAllocation.enabled")
    expected = ("1", "false", "false") if job == "train" else (None, None, None)
    assert tuple(map(conf.get, keys)) == expected


@pytest.mark.parametrize(
    ("environment", "overrides", "expected"),
    [
        ({"MASTER": "spark://a:7077"}, ["spark.master=spark://b:7077"], "spark://a:7077"),
        ({"MASTER": ""}, ["spark.master=spark://b:7077"], "spark://b:7077"),
        ({}, ["spark.master=spark://b:7077"], "spark://b:7077"),
        ({}, [], "local[*]"),
    ],
)
def test_the_environments_master_goes_before_the_setting(
    environment: dict[str, str], overrides: list[str], expected: str
) -> None:
    settings = demo(*overrides)
    assert master(settings, environment) == expected
    line = command("evaluate", [], settings, environment)
    assert line[line.index("--master") + 1] == expected


@pytest.mark.parametrize("launch", ["single", "horovodrun"])
def test_training_without_spark_starts_without_it(launch: str) -> None:
    settings = demo(f"train.launch={launch}", "train.ranks=1")
    script = str(PROJECT / "jobs" / "train.py")
    assert command("train", ["--config", DEMO], settings, {}) == [sys.executable, script, "--config", DEMO]
    assert command("evaluate", [], settings, {})[0].endswith("spark-submit")


def test_indexing_starts_without_spark() -> None:
    script = str(PROJECT / "jobs" / "index_items.py")
    assert command("index_items", ["--config", DEMO], demo(), {}) == [sys.executable, script, "--config", DEMO]


def test_sparks_log_lies_in_the_runs_folder(tmp_path: Path) -> None:
    settings = demo(f"root={tmp_path}/a b", "observe.spark_level=warn")
    java = conf_of(command("evaluate", [], settings, {}))["spark.driver.extraJavaOptions"]
    assert f'"-Ddssm.sparkLog={tmp_path}/a b/demo/2024-01-15/jobs/evaluate.spark.log" -Ddssm.sparkLevel=warn' in java
    remote = conf_of(command("evaluate", [], demo("root=hdfs://nowhere:8020/runs"), {}))[
        "spark.driver.extraJavaOptions"
    ]
    assert "/dssm_demo_2024-01-15_evaluate.spark.log" in remote  # log4j2 writes local files; the job puts it there
    none = conf_of(command("evaluate", [], demo("observe.spark_level=none"), {}))["spark.driver.extraJavaOptions"]
    assert "dssm.sparkLog" not in none


def test_the_settings_go_over_the_defaults() -> None:
    line = command(
        "train", [], demo("spark.conf={spark.driver.memory: 9g, spark.task.maxFailures: 3, spark.x: true}"), {}
    )
    conf = conf_of(line)
    assert conf["spark.driver.memory"] == "9g"
    assert conf["spark.task.maxFailures"] == "3"
    assert conf["spark.x"] == "true"
    assert line.count("--conf") == len(conf)


def test_the_embedded_metastore_lies_where_the_settings_say(tmp_path: Path) -> None:
    place = f"{tmp_path}/a b/metastore_db"
    conf = conf_of(command("score_items", [], demo(f"item_table.metastore={place}"), {}))
    url = conf["spark.hadoop.javax.jdo.option.ConnectionURL"]
    assert url == f"jdbc:derby:;databaseName={place};create=true"
    assert conf["spark.sql.warehouse.dir"] == f"{place}_warehouse"
    assert f'"-Dderby.stream.error.file={place}.log"' in conf["spark.driver.extraJavaOptions"]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("thrift://a:9083", {"spark.hadoop.hive.metastore.uris": "thrift://a:9083"}),
        ("jdbc:derby:/m;user=me", {"spark.hadoop.javax.jdo.option.ConnectionURL": "jdbc:derby:/m;user=me"}),
    ],
)
def test_a_metastore_is_a_service_or_a_database(place: str, expected: dict[str, str]) -> None:
    conf = conf_of(command("score_items", [], demo(f"item_table.metastore={place}"), {}))
    assert {key: value for key, value in conf.items() if "hadoop" in key or "warehouse" in key} == expected
    assert "derby.stream" not in conf["spark.driver.extraJavaOptions"]


def test_the_clusters_own_hive_is_left_as_it_is() -> None:
    conf = conf_of(command("score_items", [], demo("item_table.metastore=null"), {}))
    assert "spark.sql.warehouse.dir" not in conf
    assert not [key for key in conf if "jdo" in key]


@pytest.mark.parametrize(
    ("job", "spark_master", "daemon", "imports"),
    [
        ("build_samples", "local[2]", "dssm.workers", "dssm.samples.build,pyspark.sql.pandas.serializers"),
        ("score_items", "local[*]", "dssm.workers", "pyarrow,pandas"),
        ("build_samples", "spark://a:7077", None, None),  # a worker of a cluster has the project when its task has
        ("train", "local[2]", None, None),
    ],
)
def test_workers_of_one_machine_come_with_their_imports(
    job: str, spark_master: str, daemon: str | None, imports: str | None
) -> None:
    conf = conf_of(command(job, [], demo("train.launch=spark"), {"MASTER": spark_master}))
    found = (conf.get("spark.python.daemon.module"), conf.get("spark.executorEnv.DSSM_WORKER_IMPORTS"))
    assert found == (daemon, imports)


@pytest.mark.parametrize(
    ("job", "spark_master", "given", "told"),
    [
        ("build_samples", "local[2]", {}, "2"),
        ("build_samples", "local[2]", {"MALLOC_ARENA_MAX": "8"}, "8"),
        ("build_samples", "spark://a:7077", {}, None),
        ("train", "local[2]", {}, None),
    ],
)
def test_javas_threads_share_arenas(job: str, spark_master: str, given: dict[str, str], told: str | None) -> None:
    made = Submission(job, [], demo("train.launch=spark"), {"MASTER": spark_master, **given})
    assert made.environment.get("MALLOC_ARENA_MAX") == told


def test_usage_lists_every_job() -> None:
    shown = usage()
    for job, what in JOBS.items():
        assert f"  {job:<13}  {what}\n" in shown
        assert (PROJECT / "jobs" / f"{job}.py").is_file()
    for view, what in {**VIEWS, **TOOLS}.items():
        assert f"  {view:<13}  {what}\n" in shown
        assert (PROJECT / "jobs" / VIEW_SCRIPTS[view]).is_file()


def test_no_job_hides_a_module_of_python() -> None:
    """Beside a script its own folder is searched first: PySpark imports cProfile, and that a module `profile`."""
    assert {path.stem for path in (PROJECT / "jobs").glob("*.py")}.isdisjoint(sys.stdlib_module_names)


def test_an_unknown_job() -> None:
    with pytest.raises(UserError, match=r"^no job is named 'buildsamples' \(did you mean 'build_samples'\?\)$"):
        submit(["buildsamples", "--config", DEMO])


def test_a_dry_run_prints_the_command_and_starts_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PYSPARK_DRIVER_PYTHON", raising=False)  # what stands there already is not told
    monkeypatch.setenv("MASTER", "spark://a:7077")
    monkeypatch.setenv("A_PLACE", "hush-1")
    (tmp_path / "a.secret").write_text("hush-2")
    given = [
        "--config", DEMO, "--set", f"spark.environment.folder={tmp_path}/cache", "--set",
        "spark.conf.spark.hadoop.fs.proxy=http://me:hush-3@proxy", "--set",
        f"spark.secrets={{spark.a.token: {{env: A_PLACE}}, spark.b.token: {{file: {tmp_path}/a.secret}}}}",
    ]  # fmt: skip
    submit(["evaluate", "--dry-run", *given])
    shown = capsys.readouterr().out
    words = shlex.split(shown)
    spark_submit = str(Path(sys.executable).with_name("spark-submit"))
    told = dict(word.split("=", 1) for word in words[1 : words.index(spark_submit)])
    assert words[0] == "env"
    assert told["PYSPARK_DRIVER_PYTHON"] == sys.executable
    assert "SPARK_LOCAL_IP" not in told  # of a local master alone
    assert words[words.index("--master") + 1] == "spark://a:7077"
    assert conf_of(words)["spark.pyspark.python"] == "./environment/bin/python"
    assert "--dry-run" not in words
    assert "hush" not in shown
    assert words[-3:] == [
        "spark.conf.spark.hadoop.fs.proxy=http://(not shown)@proxy",
        "--set",
        given[-1],
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["a.secret"]  # nothing is packed


def test_a_dry_run_of_a_job_without_spark(capsys: pytest.CaptureFixture[str]) -> None:
    submit(["index_items", "--config", DEMO, "--dry-run"])
    line = command("index_items", ["--config", DEMO], demo(), {})
    assert shlex.split(capsys.readouterr().out)[-len(line) :] == line


def test_what_a_dry_run_prints_runs_as_the_job_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In an empty environment, with something in the place of spark-submit that tells its own."""
    for name, value in {
        "PYTHONPATH": "/a b:/c",
        "JAVA_HOME": "/java",
        "SPARK_SUBMIT_OPTS": "-Da.password=hush",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONHASHSEED", "0")  # as the job has it: not told again
    added_here = {"PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON", "SPARK_HOME", "SPARK_LOCAL_IP"}
    for name in added_here:  # other tests' session may have set them
        monkeypatch.delenv(name, raising=False)
    told: dict[str, str] = {}
    monkeypatch.setattr(os, "execve", lambda path, line, environment: told.update(environment))
    submit(["evaluate", "--config", DEMO])
    submit(["evaluate", "--config", DEMO, "--dry-run"])
    shown = capsys.readouterr().out
    (tmp_path / "spark-submit").write_text("#!/bin/sh\nenv -0\n")
    (tmp_path / "spark-submit").chmod(0o755)
    spark_submit = str(Path(sys.executable).with_name("spark-submit"))
    line = [
        "env",
        "-i",
        f"PATH={os.environ['PATH']}",
        "sh",
        "-c",
        shown.replace(spark_submit, f"{tmp_path}/spark-submit"),
    ]
    printed = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    found = dict(entry.split("=", 1) for entry in printed.rstrip("\0").split("\0"))
    added = {name: value for name, value in told.items() if os.environ.get(name) != value}
    assert added_here <= added.keys()
    options, shown_options = added.pop("SPARK_SUBMIT_OPTS"), found.pop("SPARK_SUBMIT_OPTS")
    assert shown_options == options.replace("=hush", "=(not shown)")
    assert added.items() <= found.items()
    assert (found["PYTHONPATH"], found["JAVA_HOME"]) == ("/a b:/c", "/java")  # spark-submit.sh has set these
    assert "PYTHONHASHSEED" not in found


# The script --------------------------------------------------------------------------------------------


class Ended(NamedTuple):
    code: int
    out: str
    error: str


def spark_submit(*arguments: str, folder: Path, **environment: str) -> Ended:
    done = subprocess.run(
        [str(PROJECT / "spark-submit.sh"), *arguments],
        cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_runs_without_spark(view: str, tmp_path: Path) -> None:
    asked = ["--user", "7"] if view == "recommend" else []
    ended = spark_submit(view, "demo", "--root", "runs", *asked, folder=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.error == (
        f"error: RUN demo: no such folder, and {tmp_path}/runs holds no run with samples; "
        "expected NAME, NAME/DATE or a folder: run build_samples first, or give --root\n"
    )
    assert sorted(tmp_path.rglob("*")) == []
    assert spark_submit(view, "--help", folder=tmp_path).out.startswith(f"usage: ./spark-submit.sh {view} [-h] [--root")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_the_script_says_how_it_is_used(arguments: list[str], tmp_path: Path) -> None:
    ended = spark_submit(*arguments, folder=tmp_path)
    assert (ended.code, ended.out, ended.error) == (0, usage(), "")


GOOD = (PROJECT / "conf" / "demo.yaml").read_text()
TYPO = GOOD.replace("share_embedding: topic_id   #", "share_embedding: topicid   #")
TWICE = GOOD + "seed: 1\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (
            TYPO,
            [],
            "x.yaml: features.follow_topic_id.share_embedding: no feature is named 'topicid' "
            "(did you mean 'topic_id'?)",
        ),
        (GOOD, ["--set", "train.epoch=2"], "x.yaml: train: unknown key 'epoch' (did you mean 'epochs'?)"),
        (GOOD, ["--date", "2024-02-30"], "--date 2024-02-30: not a date; expected YYYY-MM-DD"),
        (None, [], "--config x.yaml: No such file or directory; expected a YAML file, such as conf/demo.yaml"),
        (TWICE, [], "x.yaml: malformed YAML: while reading a mapping"),
    ],
    ids=["typo", "unknown key", "date", "no file", "a key twice"],
)
def test_a_fault_ends_the_script_at_once_with_one_message(
    text: str | None, arguments: list[str], message: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "x.yaml").write_text(text)
    java = tmp_path / "java"
    (java / "bin").mkdir(parents=True)
    is_17 = f"echo java.home = {java}; echo java.specification.version = 17"  # asked by scripts/java_home.sh
    marks = f"touch {tmp_path}/started"
    (java / "bin/java").write_text(f"#!/bin/sh\ncase $* in -Xshow*) {is_17} ;; *) {marks} ;; esac\n")
    (java / "bin/java").chmod(0o755)
    before = sorted(tmp_path.rglob("*"))
    ended = spark_submit("build_samples", "--config", "x.yaml", *arguments, folder=tmp_path, JAVA_HOME=str(java))
    assert ended.code == 2
    assert ended.out == ""
    assert ended.error.startswith(f"error: {message}")
    assert len(ended.error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before  # no Java was started, either


@pytest.mark.slow
def test_what_the_script_prints_in_a_dry_run_runs_in_an_empty_environment(tmp_path: Path) -> None:
    shown = spark_submit("index_items", "--config", DEMO, "--dry-run", folder=tmp_path).out
    assert f"PYTHONPATH={PROJECT}" in shown
    line = ["env", "-i", f"PATH={os.environ['PATH']}", f"HOME={tmp_path}", "sh", "-c", shown]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "error: runs/demo/item_table: nothing is published for 2024-01-15; run score_items for it first\n",
    )


def test_the_script_works_from_anywhere_and_through_a_link(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(PROJECT / "spark-submit.sh")
    done = subprocess.run([str(link), "no_job"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "error: no job is named 'no_job' (known: build_samples, compare, evaluate, index_items, init, plan, "
        "profile, recommend, report, rollback, score_items, score_users, serve, show, status, train, versions)\n"
    )


def test_the_script_without_an_environment(tmp_path: Path) -> None:
    script = tmp_path / "spark-submit.sh"
    script.write_bytes((PROJECT / "spark-submit.sh").read_bytes())
    done = subprocess.run(
        ["bash", str(script)], capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/.venv/bin/python not found; run 'make setup' first\n"
