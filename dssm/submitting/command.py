"""The command line that runs a job."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from dssm import storage
from dssm.config import Settings
from dssm.secrets import hidden_in_arguments
from dssm.shipped import shipped
from dssm.submitting import masters
from dssm.submitting.archives import CLASS_ARCHIVE, Code, Packed, drop_unused
from dssm.submitting.confs import CONF, conf_of

SET_BY_SCRIPT = ("JAVA_HOME", "PYTHONPATH")  # spark-submit.sh: they stand in this process's environment already
SUBMIT_JAVA_OPTIONS = "SPARK_SUBMIT_OPTS"  # of spark-submit's own Java, which is the driver's in client mode
UNPACKED_AS = "environment"  # the folder's name in an executor's working folder


class Submission:
    """A job's command line, and what has to be there before it can run."""

    def __init__(self, job: str, arguments: Sequence[str], settings: Settings, environment: Mapping[str, str]) -> None:
        """Args: environment: of the submitting process; MASTER, the cluster's folders and Java's options are read.

        Raises: UserError where the kind of cluster wants something else.
        """
        self.job, self.settings, self._environment = job, settings, environment
        self.arguments = list(arguments)
        self.needs_spark = needs_spark(job, settings)
        self.master = masters.master(settings, environment)
        self.kind = masters.kind_of(self.master)
        if self.needs_spark:
            masters.check(self.kind, settings, environment)

    @property
    def line(self) -> list[str]:
        """The whole command line."""
        script = str(shipped("jobs") / f"{self.job}.py")
        if not self.needs_spark:
            return [sys.executable, script, *self.arguments]
        submit = str(Path(sys.executable).with_name("spark-submit"))
        # Of two --config the last one counts.
        config = ["--config", self._config.name] if self._is_remote else []
        return [submit, *self.options, script, *self.arguments, *config]

    @property
    def options(self) -> list[str]:
        """What spark-submit is told of the session; the job's own arguments come behind its script."""
        conf = conf_of(self.job, self.settings, self.kind)
        if self.kind != "local":
            conf = self._conf_of_python() | conf
        options = ["--master", self.master, *self._deploy_mode, *self._sent]
        return options + [option for key, value in conf.items() for option in ("--conf", f"{key}={value}")]

    @property
    def shown(self) -> str:
        """The command line with what is added to the environment, for reading and for a shell, secrets hidden."""
        here = self._environment
        told = {name: value for name, value in self.environment.items() if here.get(name) != value}
        told |= {name: here[name] for name in SET_BY_SCRIPT if name in here}
        if SUBMIT_JAVA_OPTIONS in told:  # the user's own are among them, such as -Dspark.some.password=…
            told[SUBMIT_JAVA_OPTIONS] = " ".join(hidden_in_arguments(told[SUBMIT_JAVA_OPTIONS].split()))
        given = ["env", *(f"{name}={value}" for name, value in told.items())] if told else []
        return shlex.join(hidden_in_arguments([*given, *self.line]))

    @property
    def environment(self) -> dict[str, str]:
        """What the command's process is told beside its own environment."""
        told = {
            "PYSPARK_PYTHON": sys.executable,  # on a cluster spark.pyspark.python goes over it
            "PYSPARK_DRIVER_PYTHON": sys.executable,
            "SPARK_HOME": _spark_home(),
            "PYTHONHASHSEED": "0",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        if self.kind == "local":
            told["SPARK_LOCAL_IP"] = self._environment.get("SPARK_LOCAL_IP", "127.0.0.1")
            if self.job == "build_samples":  # else the C library keeps memory in an arena for each of Java's threads
                told["MALLOC_ARENA_MAX"] = self._environment.get("MALLOC_ARENA_MAX", "2")
        return told | archived_classes(self._environment) if self.needs_spark else told

    def prepare(self) -> None:
        """Makes what is sent: packs the environment where it is not packed yet, and drops what nobody uses any more.

        Raises: UserError where there is none to pack.
        """
        if not self.needs_spark or self.kind == "local":
            return
        self._code.make()
        used = {self._code.archive}
        if self._packed is not None:
            self._packed.make()
            used.add(self._packed.used)
        if self._is_remote:
            storage.write_text(str(self._config), self._settings_text)
            used.add(self._config)
        drop_unused(self._code.archive.parent, keep=used)

    @property
    def _is_remote(self) -> bool:
        return self.needs_spark and self.settings.spark.deploy_mode == "cluster"

    @property
    def _deploy_mode(self) -> list[str]:
        return [] if self.kind == "local" else ["--deploy-mode", self.settings.spark.deploy_mode]

    @property
    def _sent(self) -> list[str]:
        """Options of what goes along to a cluster."""
        if self.kind == "local":
            return []
        sent = ["--py-files", str(self._code.archive)]
        if self._packed is not None and not self.settings.spark.environment.unpacked:
            sent += ["--archives", f"{self._packed.archive}#{UNPACKED_AS}"]
        files = []
        if self.kind == "yarn" and self.job == "train" and self.settings.spark.gpus:
            files.append(CONF / "gpu_discovery.sh")
        if self._is_remote:
            files += [CONF / "log4j2.properties", self._config]
        return [*sent, "--files", ",".join(map(str, files))] if files else sent

    def _conf_of_python(self) -> dict[str, str]:
        """Returns the settings that say which Python runs on executors, and on a driver of the cluster's."""
        here = self.settings.spark.environment
        python = here.python
        if self._packed is not None:
            python = str(self._packed.unpacked / "bin/python") if here.unpacked else f"./{UNPACKED_AS}/bin/python"
        assert python is not None
        conf = {
            "spark.pyspark.python": python,
            "spark.pyspark.driver.python": python if self._is_remote else sys.executable,
            "spark.executorEnv.PYSPARK_PYTHON": python,
            # The ranks of a training are processes of their own: Spark tells only its workers what was sent.
            "spark.executorEnv.PYTHONPATH": self._code.archive.name,
        }
        if self._is_remote:
            driver = "spark.yarn.appMasterEnv." if self.kind == "yarn" else "spark.kubernetes.driverEnv."
            told = {"PYSPARK_PYTHON": python, "PYTHONHASHSEED": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
            conf |= {driver + name: value for name, value in told.items()}
        return conf

    @cached_property
    def _code(self) -> Code:
        return Code(self.settings.plugins, self.settings.spark.environment)

    @cached_property
    def _packed(self) -> Packed | None:
        here = self.settings.spark.environment
        return Packed(here) if here.python is None else None

    @cached_property
    def _settings_text(self) -> str:
        """The settings, `extends` and --set worked in, for a driver elsewhere."""
        return self.settings.model_dump_json(indent=1) + "\n"

    @property
    def _config(self) -> Path:
        name = f"{self.settings.name}-{storage.digest(self._settings_text)}.yaml"
        return self._code.archive.with_name(name)


def _spark_home() -> str:
    found = importlib.util.find_spec("pyspark")  # importing it would take longer than all else here
    assert found is not None
    assert found.origin is not None
    return str(Path(found.origin).parent)


def archived_classes(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns what has a driver's Java find the classes that scripts/spark_classes.sh archived; nothing without them.

    Java leaves an archive aside that another Java has written or that is of other classes; its log of that is off.
    """
    archive, given = Path(sys.prefix) / CLASS_ARCHIVE, environment.get(SUBMIT_JAVA_OPTIONS, "")
    if not archive.is_file() or "Archive" in given:
        return {}
    options = f"-XX:SharedArchiveFile={shlex.quote(str(archive))} -Xlog:cds=off -Xlog:cds+dynamic=off"
    return {SUBMIT_JAVA_OPTIONS: f"{given} {options}".strip()}


def session_environment(job: str, settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables with which a session on this machine that Python itself starts is the one of a job.

    Raises:
      ValueError: for a job without Spark, on a cluster, and of settings with secrets: PySpark would write these on
        Java's command line, which spark-submit's jobs never have them on.
      UserError: see `Submission`.
    """
    submission = Submission(job, [], settings, environment)
    if not submission.needs_spark or submission.kind != "local":
        raise ValueError(f"{job} by {submission.master}: a session of one's own is Spark's on this machine")
    if settings.spark.read_secrets():
        raise ValueError("spark.secrets: a session that Python starts would show them to all users of the machine")
    return submission.environment | {"PYSPARK_SUBMIT_ARGS": shlex.join([*submission.options, "pyspark-shell"])}


def needs_spark(job: str, settings: Settings) -> bool:
    if job == "train":
        return settings.train.by_spark
    return job != "index_items"


def command(job: str, arguments: Sequence[str], settings: Settings, environment: Mapping[str, str]) -> list[str]:
    """Returns the command line that runs a job; one that needs no Spark starts without it.

    Raises: UserError; see `Submission`.
    """
    return Submission(job, arguments, settings, environment).line
