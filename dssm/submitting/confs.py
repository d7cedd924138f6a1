"""Spark's settings for a job: those of the kind of cluster, those of the job, the user's own over them."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from dssm.config import Settings
from dssm.errors import UserError
from dssm.paths import SPARK_LEVEL, SPARK_LOG, spark_log_file
from dssm.shipped import shipped
from dssm.submitting.masters import ClusterKind
from dssm.workers import IMPORTS

CONF = shipped("conf/spark")
DRIVER_JAVA_OPTIONS = "spark.driver.extraJavaOptions"
GPU_OF_EXECUTOR = "spark.executor.resource.gpu."

COMMON = {
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.executorEnv.PYTHONHASHSEED": "0",
    "spark.executorEnv.TF_CPP_MIN_LOG_LEVEL": "3",
}
WORKER_IMPORTS = {"build_samples": "dssm.samples.build,pyspark.sql.pandas.serializers"}  # of what their tasks run
# Ranks meet in collectives: a task started again alone, twice, or late would wait for ever.
TRAIN = {
    "spark.task.maxFailures": "1",
    "spark.stage.maxConsecutiveAttempts": "1",
    "spark.speculation": "false",
    "spark.dynamicAllocation.enabled": "false",
}
# Horovod's elastic launch wants a lost task to start again: it joins as a new rank.
TRAIN_ELASTIC = TRAIN | {"spark.task.maxFailures": "4", "spark.stage.maxConsecutiveAttempts": "4"}


def read_conf(file: Path) -> dict[str, str]:
    """Reads a file in the format of spark-defaults.conf: a key, blanks, its value; `#` starts a comment's line.

    Raises: UserError that names the line.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, *value = line.split(maxsplit=1)
        if not value or not key.startswith("spark."):
            raise UserError(f"{file}:{number}: found '{line.strip()}', expected a key of Spark's and its value")
        found[key] = value[0].strip()
    return found


def conf_of(job: str, settings: Settings, kind: ClusterKind) -> dict[str, str]:
    """Returns what a job's session is started with, but for what is sent along and for secrets.

    A command line can be read by every user of the machine: the driver sets those itself (dssm.spark).
    """
    conf = read_conf(CONF / f"{kind}.conf") | COMMON
    for_gpus = job == "train" and kind != "local" and settings.spark.gpus > 0
    if not for_gpus:  # a script without an amount is an error to Spark
        conf = {key: value for key, value in conf.items() if not key.startswith(GPU_OF_EXECUTOR)}
    if job == "train":
        conf |= _of_training(settings, kind, conf | settings.spark.conf)
    elif kind == "local":
        conf["spark.python.daemon.module"] = "dssm.workers"
        conf[f"spark.executorEnv.{IMPORTS}"] = WORKER_IMPORTS.get(job, "pyarrow,pandas")
    if kind == "local" and job == "build_samples":
        conf["spark.driver.memory"] = "1200m"  # of its rows the heap holds a few large values at a time
    logging = "log4j2.properties" if settings.spark.deploy_mode == "cluster" else (CONF / "log4j2.properties").as_uri()
    java = [conf.get(DRIVER_JAVA_OPTIONS, ""), f"-Dlog4j2.configurationFile={logging}"]
    if settings.observe.spark_level != "none" and settings.spark.deploy_mode == "client":
        java += [f'"-D{SPARK_LOG}={spark_log_file(settings, job)}"', f"-D{SPARK_LEVEL}={settings.observe.spark_level}"]
    if settings.metastore is not None:
        more, option = _of_metastore(settings.metastore)
        conf |= more
        java += option
    conf[DRIVER_JAVA_OPTIONS] = " ".join(filter(None, java))
    if settings.spark.security is not None:
        conf |= _of_security(settings, kind)
    return conf | settings.spark.conf


def _of_training(settings: Settings, kind: ClusterKind, conf: Mapping[str, str]) -> dict[str, str]:
    """Returns what `train` needs of the cluster: a slot a rank, all at once, with its GPUs."""
    train = settings.train
    elastic = train.elasticity if train.launch == "spark-elastic" else None
    found = dict(TRAIN if elastic is None else TRAIN_ELASTIC)
    if kind == "local":
        return found
    ranks = train.ranks if elastic is None else train.most_ranks
    cpus = int(conf.get("spark.task.cpus", "1"))
    if settings.spark.gpus:  # an executor a rank, so that none holds more GPUs than its rank takes
        gpus = str(settings.spark.gpus)
        found |= {
            "spark.task.resource.gpu.amount": gpus,
            "spark.executor.resource.gpu.amount": gpus,
            "spark.executor.cores": str(cpus),
        }
    if kind == "standalone":
        found["spark.cores.max"] = str(ranks * cpus)
    else:
        cores = int({**conf, **found}.get("spark.executor.cores", "1"))
        found["spark.executor.instances"] = str(-(-ranks // max(1, cores // cpus)))
    return found


def _of_metastore(place: str) -> tuple[dict[str, str], list[str]]:
    """Returns Spark's settings and Java's options for a metastore: a service, a database, or a folder of Derby's."""
    if place.startswith("thrift://"):
        return {"spark.hadoop.hive.metastore.uris": place}, []
    if place.startswith("jdbc:"):
        return {"spark.hadoop.javax.jdo.option.ConnectionURL": place}, []
    folder = place if "://" in place else str(Path(place).absolute())
    conf = {
        "spark.hadoop.javax.jdo.option.ConnectionURL": f"jdbc:derby:;databaseName={folder};create=true",
        "spark.sql.warehouse.dir": f"{folder}_warehouse",
    }
    return conf, [f'"-Dderby.stream.error.file={folder}.log"']


def _of_security(settings: Settings, kind: ClusterKind) -> dict[str, str]:
    """Returns the settings of authenticated and encrypted connections; the secret itself is read by the driver."""
    security = settings.spark.security
    assert security is not None
    conf = {
        "spark.authenticate": "true",
        "spark.network.crypto.enabled": "true",
        "spark.network.crypto.saslFallback": "false",
        "spark.io.encryption.enabled": "true",
        "spark.ui.enabled": "false",  # it asks nobody for a password
    }
    if security.interfaces is not None and kind != "local" and settings.spark.deploy_mode == "client":
        address = address_of(security.interfaces)
        conf |= {"spark.driver.bindAddress": address, "spark.driver.host": address}
    return conf


def address_of(interfaces: str) -> str:
    """Returns this host's IPv4 address on the first of the interfaces that it has.

    Args: interfaces: names, with commas between them.
    Raises: UserError that lists the host's own.
    """
    import psutil

    own = psutil.net_if_addrs()
    for name in interfaces.split(","):
        for address in own.get(name.strip(), []):
            if address.family == socket.AF_INET:
                return str(address.address)
    raise UserError(
        f"spark.security.interfaces: found '{interfaces}', but this host has {', '.join(sorted(own))}; "
        "expected one of them, with an IPv4 address"
    )
