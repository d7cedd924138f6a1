"""Command lines of the kinds of cluster; that Spark knows each of their settings is tested against Spark itself."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest

from dssm.cli import JOBS
from dssm.config import load_settings
from dssm.errors import UserError
from dssm.submitting.command import Submission, archived_classes, command, session_environment

PROJECT = Path(__file__).parents[2]
DEMO = str(PROJECT / "conf" / "demo.yaml")
MASTERS = {"local": "local[2]", "standalone": "spark://a:7077", "yarn": "yarn", "kubernetes": "k8s://https://a:6443"}
CLUSTERS = [kind for kind in MASTERS if kind != "local"]
IMAGE = "spark.conf.spark.kubernetes.container.image=apache/spark:3.5"
UPLOAD = "spark.conf.spark.kubernetes.file.upload.path=s3a://a/b"
REMOTE = ["spark.deploy_mode=cluster", "root=hdfs:///runs", "data=/shared/data"]
SPARK_JOBS = [job for job in JOBS if job != "index_items"]


def submission(kind: str, job: str, *overrides: str) -> Submission:
    settings = load_settings(DEMO, [IMAGE, *overrides] if kind == "kubernetes" else overrides)
    environment = {"MASTER": MASTERS[kind], "HADOOP_CONF_DIR": "/etc/hadoop/conf"}
    return Submission(job, ["--config", DEMO], settings, environment)


def options_of(line: list[str]) -> dict[str, str]:
    """Returns the values of spark-submit's own options, those of --conf left out."""
    script = next(place for place, word in enumerate(line) if word.endswith(".py"))
    pairs = zip(line[1:script:2], line[2:script:2], strict=True)
    return {option: value for option, value in pairs if option != "--conf"}


def conf_of(line: list[str]) -> dict[str, str]:
    return dict(line[place + 1].split("=", 1) for place, word in enumerate(line) if word == "--conf")


# What is sent, and which Python runs -------------------------------------------------------------------


def test_nothing_is_sent_to_a_local_master() -> None:
    made = submission("local", "train")
    assert options_of(made.line) == {"--master": "local[2]"}
    assert not [key for key in conf_of(made.line) if "python" in key.lower().replace("pythonhashseed", "")]
    python = {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    assert python.items() <= made.environment.items()


def test_java_is_told_of_archived_classes_where_there_are_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "an environment"
    folder.mkdir()
    monkeypatch.setattr(sys, "prefix", str(folder))
    assert archived_classes({}) == {}
    (folder / "spark-classes.jsa").touch()
    heap, own, *logs = shlex.split(archived_classes({"SPARK_SUBMIT_OPTS": "-Xmx1g"})["SPARK_SUBMIT_OPTS"])
    assert (heap, own) == ("-Xmx1g", f"-XX:SharedArchiveFile={folder}/spark-classes.jsa")
    assert all(log.startswith("-Xlog:cds") for log in logs)
    for given in ("-XX:SharedArchiveFile=/mine.jsa", "-XX:ArchiveClassesAtExit=/mine.jsa"):
        assert archived_classes({"SPARK_SUBMIT_OPTS": given}) == {}
    assert "SPARK_SUBMIT_OPTS" in submission("local", "evaluate").environment
    assert "SPARK_SUBMIT_OPTS" not in submission("local", "index_items").environment


@pytest.mark.parametrize("kind", CLUSTERS)
@pytest.mark.parametrize("job", SPARK_JOBS)
def test_a_cluster_gets_the_code_and_the_packed_environment(kind: str, job: str) -> None:
    line = submission(kind, job, "spark.environment.folder=/cache").line
    options, conf = options_of(line), conf_of(line)
    assert options.pop("--master") == MASTERS[kind]
    assert options.pop("--deploy-mode") == "client"
    assert re.fullmatch(r"/cache/dssm-[0-9a-f]{16}\.zip", options["--py-files"])
    assert re.fullmatch(r"/cache/environment-[0-9a-f]{16}\.tar\.gz#environment", options.pop("--archives"))
    assert conf["spark.executorEnv.PYTHONPATH"] == Path(options.pop("--py-files")).name
    assert options == {}
    assert conf["spark.pyspark.python"] == conf["spark.executorEnv.PYSPARK_PYTHON"] == "./environment/bin/python"
    assert conf["spark.pyspark.driver.python"] == sys.executable
    assert line[-3:] == [str(PROJECT / "jobs" / f"{job}.py"), "--config", DEMO]


def test_an_unpacked_environment_is_run_from_where_it_lies() -> None:
    line = submission("standalone", "train", "spark.environment={folder: /shared, unpacked: true}").line
    assert "--archives" not in line
    assert re.fullmatch(r"/shared/environment-[0-9a-f]{16}/bin/python", conf_of(line)["spark.pyspark.python"])


def test_a_python_that_the_hosts_have_is_sent_the_code_alone() -> None:
    line = submission("yarn", "evaluate", "spark.environment.python=/opt/dssm/bin/python").line
    assert "--archives" not in line
    assert "--py-files" in line
    assert conf_of(line)["spark.pyspark.python"] == "/opt/dssm/bin/python"


@pytest.mark.parametrize(
    ("kind", "told"), [("yarn", "spark.yarn.appMasterEnv."), ("kubernetes", "spark.kubernetes.driverEnv.")]
)
def test_a_driver_on_the_cluster_gets_the_settings_as_a_file(kind: str, told: str) -> None:
    made = submission(kind, "score_items", *REMOTE, UPLOAD, "spark.environment.folder=/cache", "train.epochs=7")
    options, conf = options_of(made.line), conf_of(made.line)
    log4j, config = options["--files"].split(",")
    assert options["--deploy-mode"] == "cluster"
    assert log4j == str(PROJECT / "conf/spark/log4j2.properties")
    assert "-Dlog4j2.configurationFile=log4j2.properties" in conf["spark.driver.extraJavaOptions"]
    assert made.line[-4:] == ["--config", DEMO, "--config", Path(config).name]  # the last one counts
    assert conf["spark.pyspark.driver.python"] == conf[told + "PYSPARK_PYTHON"] == "./environment/bin/python"
    assert conf[told + "PYTHONHASHSEED"] == "0"


def test_the_settings_file_of_a_driver_on_the_cluster_is_the_same_settings(tmp_path: Path) -> None:
    places = ["spark.secrets={spark.hadoop.fs.s3a.secret.key: {env: S3}}", f"spark.environment.folder={tmp_path}"]
    made = submission("yarn", "train", *REMOTE, *places, "train.epochs=7", "spark.environment.python=/opt/bin/python")
    made.prepare()
    (config,) = tmp_path.glob("demo-*.yaml")
    assert options_of(made.line)["--files"].endswith(f",{config}")
    assert load_settings(str(config)) == made.settings


@pytest.mark.parametrize("remote", [[], [*REMOTE, UPLOAD]], ids=["client", "cluster"])
def test_settings_that_only_refer_to_secrets_are_told_spark(remote: list[str]) -> None:
    given = {
        "spark.kubernetes.container.image.pullSecrets": "registry",
        "spark.kubernetes.executor.secretKeyRef.S3_KEY": "s3:key",
        "spark.hadoop.fs.s3a.aws.credentials.provider": "com.amazonaws.auth.WebIdentityTokenCredentialsProvider",
    }
    made = submission("kubernetes", "evaluate", *remote, *(f"spark.conf.{key}={value}" for key, value in given.items()))
    assert given.items() <= conf_of(made.line).items()
    assert given.items() <= conf_of(shlex.split(made.shown)).items()


# Settings by job and kind of cluster -------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLUSTERS)
@pytest.mark.parametrize("job", SPARK_JOBS)
def test_retries_and_dynamic_allocation_are_off_for_train_and_on_for_the_rest(kind: str, job: str) -> None:
    conf = conf_of(submission(kind, job).line)
    keys = ("spark.dynamicAllocation.enabled", "spark.task.maxFailures", "spark.stage.maxConsecutiveAttempts")
    assert [conf[key] for key in keys] == (["false", "1", "1"] if job == "train" else ["true", "4", "4"])


def test_an_elastic_training_has_its_lost_tasks_started_again() -> None:
    conf = conf_of(submission("yarn", "train", "train.launch=spark-elastic").line)
    assert conf["spark.dynamicAllocation.enabled"] == "false"
    assert conf["spark.task.maxFailures"] == "4"


@pytest.mark.parametrize("kind", MASTERS)
@pytest.mark.parametrize("job", SPARK_JOBS)
def test_only_a_training_on_a_cluster_asks_for_gpus(kind: str, job: str) -> None:
    asked = {key: value for key, value in conf_of(submission(kind, job, "spark.gpus=1").line).items() if "gpu" in key}
    if kind == "local" or job != "train":
        assert asked == {}  # a discovery script without an amount is an error to Spark
        return
    amounts = {"spark.task.resource.gpu.amount": "1", "spark.executor.resource.gpu.amount": "1"}
    script = "spark.executor.resource.gpu.discoveryScript"
    others = {
        "standalone": {},  # the workers have found theirs
        "yarn": {script: "./gpu_discovery.sh"},
        "kubernetes": {
            script: "/opt/spark/examples/src/main/scripts/getGpusResources.sh",
            "spark.executor.resource.gpu.vendor": "nvidia.com",
        },
    }
    assert asked == amounts | others[kind]


def test_the_discovery_script_goes_along_to_yarn() -> None:
    options = options_of(submission("yarn", "train", "spark.gpus=1").line)
    assert options["--files"] == str(PROJECT / "conf/spark/gpu_discovery.sh")
    assert "--files" not in options_of(submission("yarn", "evaluate", "spark.gpus=1").line)


@pytest.mark.parametrize(
    ("kind", "overrides", "expected"),
    [
        ("standalone", [], {"spark.cores.max": "3"}),
        ("standalone", ["spark.conf.spark.task.cpus=4"], {"spark.cores.max": "12"}),
        ("standalone", ["spark.gpus=1"], {"spark.cores.max": "3", "spark.executor.cores": "1"}),
        ("yarn", [], {"spark.executor.instances": "2", "spark.executor.cores": "2"}),
        ("yarn", ["spark.conf.spark.executor.cores=8"], {"spark.executor.instances": "1"}),
        ("kubernetes", ["spark.gpus=1"], {"spark.executor.instances": "3", "spark.executor.cores": "1"}),
        ("kubernetes", ["train.launch=spark-elastic", "train.elastic.max_ranks=6"], {"spark.executor.instances": "3"}),
    ],
)
def test_a_training_asks_for_a_slot_a_rank(kind: str, overrides: list[str], expected: dict[str, str]) -> None:
    conf = conf_of(submission(kind, "train", "train.ranks=3", *overrides).line)
    assert {key: conf[key] for key in expected} == expected


def test_the_settings_own_conf_goes_over_the_files() -> None:
    conf = conf_of(submission("yarn", "evaluate", "spark.conf.spark.dynamicAllocation.maxExecutors=7").line)
    assert conf["spark.dynamicAllocation.maxExecutors"] == "7"


# What each kind of cluster wants -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("master", "overrides", "message"),
    [
        ("mesos://a:5050", [], "spark.master: found 'mesos://a:5050', expected local[N], spark://host:7077, yarn or"),
        ("localhost", [], "spark.master: found 'localhost'"),
        ("yarn", [], "spark.master: yarn, but the environment has no HADOOP_CONF_DIR"),
        ("k8s://https://a", [], "spark.conf: spark.kubernetes.container.image is not set"),
        ("k8s://https://a", [IMAGE, *REMOTE], "spark.conf: spark.kubernetes.file.upload.path is not set"),
        ("spark://a:7077", REMOTE, "spark.deploy_mode: found cluster, but with a standalone master"),
        ("yarn", ["spark.deploy_mode=cluster"], "root: found 'runs', which is of this folder"),
        ("spark://a:7077", ["spark.security={}"], "spark.security.secret: not set"),
        ("spark://a:7077", ["spark.security.secret.env=NO_SUCH"], "spark.security.secret.env: the environment has no"),
        ("spark://a:7077", ["spark.secrets={spark.a: {file: /no/such}}"], "spark.secrets.spark.a.file: /no/such can't"),
    ],
)
def test_what_a_cluster_wants_is_said_before_anything_starts(
    master: str, overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        command("evaluate", [], load_settings(DEMO, overrides), {"MASTER": master})


def test_whoever_needs_the_driver_here_gets_it_nowhere_else() -> None:
    environment = {"MASTER": "yarn", "HADOOP_CONF_DIR": "/etc/hadoop/conf", "DSSM_DEPLOY_MODE": "client"}
    with pytest.raises(
        UserError, match=r"^spark\.deploy_mode: found cluster, expected client: the environment's DSSM_"
    ):
        command("evaluate", [], load_settings(DEMO, REMOTE), environment)
    line = command("evaluate", [], load_settings(DEMO, REMOTE[1:]), environment)
    assert line[line.index("--deploy-mode") + 1] == "client"


def test_sparks_own_defaults_may_hold_what_a_cluster_wants() -> None:
    environment = {"MASTER": "k8s://https://a", "SPARK_CONF_DIR": "/etc/spark"}
    line = command("evaluate", [], load_settings(DEMO, REMOTE), environment)
    assert line[line.index("--deploy-mode") + 1] == "cluster"


def test_a_job_without_spark_wants_nothing_of_a_cluster() -> None:
    line = command("index_items", ["--config", DEMO], load_settings(DEMO), {"MASTER": "yarn"})
    assert line == [sys.executable, str(PROJECT / "jobs/index_items.py"), "--config", DEMO]


# Security ----------------------------------------------------------------------------------------------


def test_security_is_one_setting(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush\n")
    line = submission(
        "standalone", "train", f"spark.security={{secret: {{file: {tmp_path}/secret}}, interfaces: 'nope0,lo'}}"
    ).line
    conf = conf_of(line)
    expected = {
        "spark.authenticate": "true", "spark.network.crypto.enabled": "true", "spark.io.encryption.enabled": "true",
        "spark.network.crypto.saslFallback": "false", "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1",
    }  # fmt: skip
    assert {key: conf[key] for key in expected} == expected
    assert "hush" not in " ".join(line)


def test_an_interface_that_the_host_has_not() -> None:
    with pytest.raises(UserError, match=r"^spark.security.interfaces: found 'nope0', but this host has .*lo"):
        _ = submission("yarn", "train", "spark.security.interfaces=nope0").line


@pytest.mark.parametrize("kind", MASTERS)
def test_secrets_stand_in_no_command_line(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_PLACE", "hush-1")
    (tmp_path / "key").write_text("hush-2")
    places = f"spark.some.thing: {{env: A_PLACE}}, spark.hadoop.fs.s3a.secret.key: {{file: {tmp_path}/key}}"
    made = submission(kind, "build_samples", f"spark.secrets={{{places}}}")
    assert "hush" not in " ".join([*made.line, *made.environment.values()])
    assert made.settings.spark.read_secrets() == {
        "spark.hadoop.fs.s3a.secret.key": "hush-2",
        "spark.some.thing": "hush-1",
    }


def test_the_session_gets_the_secrets_and_hides_them_on_sparks_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dssm.spark import _secret_conf

    assert _secret_conf(load_settings(DEMO)) == {}
    monkeypatch.setenv("A_PLACE", "hush-1")
    (tmp_path / "secret").write_text("hush-2")
    given = ["spark.secrets={spark.some.thing: {env: A_PLACE}}", f"spark.security.secret.file={tmp_path}/secret"]
    conf = _secret_conf(load_settings(DEMO, given))
    redaction = conf.pop("spark.redaction.regex")
    assert conf == {"spark.some.thing": "hush-1", "spark.authenticate.secret": "hush-2"}
    hidden = ("spark.some.thing", "spark.hadoop.fs.s3a.secret.key", "x.Password", "a.token", "fs.access.key")
    assert [key for key in hidden if not re.search(redaction, key)] == []
    assert re.search(redaction, "spark.executor.memory") is None


@pytest.mark.spark
def test_java_takes_the_classes_that_the_set_up_has_archived(tmp_path: Path) -> None:
    """Of the archive that this environment has; `spark-submit --version` loads a few of its classes."""
    if not Path(sys.prefix, "spark-classes.jsa").exists():
        pytest.skip("this environment has no archive of Spark's classes; scripts/spark_classes.sh makes it")
    java = subprocess.run([PROJECT / "scripts/java_home.sh"], capture_output=True, text=True, check=True).stdout.strip()
    told = archived_classes({"SPARK_SUBMIT_OPTS": f"-Xlog:class+load:file={tmp_path}/loaded"})
    others = ("SPARK_CONF_DIR", "HADOOP_CONF_DIR", "SPARK_DIST_CLASSPATH")  # which would be another class path
    own = {name: value for name, value in os.environ.items() if name not in others}
    environment = {**own, **told, "JAVA_HOME": java, "SPARK_HOME": str(Path(pyspark.__file__).parent)}
    submit = Path(sys.executable).with_name("spark-submit")
    ended = subprocess.run([submit, "--version"], env=environment, capture_output=True, text=True, check=True)
    assert "shared objects file (top)" in (tmp_path / "loaded").read_text(encoding="utf-8")
    assert "warning" not in ended.stdout.lower() + ended.stderr.lower()


def test_a_session_that_python_starts_is_set_as_the_jobs_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / "spark-classes.jsa").touch()
    settings, environment = load_settings(DEMO), {"MASTER": "local[3]", "SPARK_SUBMIT_OPTS": "-Xmx1g"}
    found = session_environment("build_samples", settings, environment)
    line = command("build_samples", [], settings, environment)
    assert shlex.split(found.pop("PYSPARK_SUBMIT_ARGS")) == [*line[1:-1], "pyspark-shell"]
    assert "local[3]" in line
    assert found == Submission("build_samples", [], settings, environment).environment
    assert found["SPARK_SUBMIT_OPTS"].startswith("-Xmx1g -XX:SharedArchiveFile=")


@pytest.mark.parametrize(
    ("job", "master", "override", "told"),
    [
        ("index_items", "local[2]", "name=demo", "index_items by "),
        ("build_samples", "spark://a:7077", "name=demo", "build_samples by spark://a:7077"),
        ("build_samples", "local[2]", "spark.secrets={spark.some.thing: {env: A_PLACE}}", "spark.secrets: "),
    ],
)
def test_a_session_that_python_starts_is_of_this_machine_and_without_secrets(
    monkeypatch: pytest.MonkeyPatch, job: str, master: str, override: str, told: str
) -> None:
    monkeypatch.setenv("A_PLACE", "hush-1")
    with pytest.raises(ValueError, match=f"^{re.escape(told)}"):
        session_environment(job, load_settings(DEMO, [override]), {"MASTER": master})
