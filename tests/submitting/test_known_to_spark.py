"""Spark 3.5 itself is asked whether it knows what the submitter tells it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from dssm.submitting.confs import CONF, read_conf
from tests.submitting.test_command import MASTERS, REMOTE, UPLOAD, conf_of, submission

pytestmark = pytest.mark.spark

# Objects whose making registers the settings of a part of Spark.
REGISTRIES = (
    "org.apache.spark.internal.config.package$", "org.apache.spark.internal.config.Network$",
    "org.apache.spark.internal.config.Python$", "org.apache.spark.internal.config.UI$",
    "org.apache.spark.deploy.yarn.config.package$", "org.apache.spark.deploy.k8s.Config$",
    "org.apache.spark.network.util.TransportConf", "org.apache.spark.sql.internal.SQLConf$",
    "org.apache.spark.sql.internal.StaticSQLConf$",
)  # fmt: skip
# Prefixes under which any name is a setting, and settings that Spark reads without registering them (its documents
# list them: configuration.md, security.md, running-on-kubernetes.md).
FREE = (
    "spark.executorEnv.", "spark.hadoop.", "spark.yarn.appMasterEnv.", "spark.kubernetes.driverEnv.",
    "spark.executor.resource.gpu.", "spark.task.resource.gpu.",
    "spark.stage.maxConsecutiveAttempts",
)  # fmt: skip


def known(spark: SparkSession, key: str) -> bool:
    jvm: Any = spark._jvm
    for name in REGISTRIES:
        jvm.java.lang.Class.forName(name, True, jvm.java.lang.Thread.currentThread().getContextClassLoader())
    return jvm.org.apache.spark.internal.config.ConfigEntry.findEntry(key) is not None


@pytest.mark.parametrize("kind", MASTERS)
@pytest.mark.parametrize("job", ["train", "score_items"])
def test_spark_knows_every_setting(spark: SparkSession, kind: str, job: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush")
    more = ["spark.gpus=1", f"spark.security={{secret: {{file: {tmp_path}/secret}}, interfaces: lo}}"]
    if kind in ("yarn", "kubernetes"):
        more += [*REMOTE, UPLOAD]
    told = conf_of(submission(kind, job, *more).line)
    assert len(told) > 12
    assert [key for key in told if not key.startswith(FREE) and not known(spark, key)] == []
    assert not known(spark, "spark.dynamicAllocation.enable")


@pytest.mark.parametrize("kind", MASTERS)
def test_the_files_of_the_kinds_of_cluster_hold_settings_that_spark_knows(spark: SparkSession, kind: str) -> None:
    told = read_conf(CONF / f"{kind}.conf")
    assert [key for key in told if not key.startswith(FREE) and not known(spark, key)] == []


@pytest.mark.parametrize("kind", MASTERS)
def test_sparks_own_parser_takes_the_command_line(spark: SparkSession, kind: str) -> None:
    jvm: Any = spark._jvm
    more = [*REMOTE, UPLOAD] if kind in ("yarn", "kubernetes") else []
    line = submission(kind, "train", "spark.gpus=1", *more).line
    given = jvm.PythonUtils.toSeq(line[1:])
    environment = jvm.PythonUtils.toScalaMap({"HADOOP_CONF_DIR": "/etc/hadoop/conf"})
    parsed = jvm.org.apache.spark.deploy.SparkSubmitArguments(given, environment)
    assert parsed.master() == MASTERS[kind]
    assert parsed.primaryResource().endswith("/jobs/train.py")
    assert parsed.isPython()
    sent = {"archives": parsed.archives(), "py-files": parsed.pyFiles()}
    assert {name: value is not None for name, value in sent.items()} == dict.fromkeys(sent, kind != "local")
    assert parsed.deployMode() == ("cluster" if more else None if kind == "local" else "client")
