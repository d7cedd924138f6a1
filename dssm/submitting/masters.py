"""Which cluster a job runs on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from dssm.config import Settings
from dssm.errors import UserError

ClusterKind = Literal["local", "standalone", "yarn", "kubernetes"]
PREFIXES: dict[str, ClusterKind] = {
    "local": "local",
    "spark://": "standalone",
    "yarn": "yarn",
    "k8s://": "kubernetes",
}


def master(settings: Settings, environment: Mapping[str, str]) -> str:
    return environment.get("MASTER") or settings.spark.master or "local[*]"


def kind_of(spark_master: str) -> ClusterKind:
    """Returns the kind of a master's cluster. Raises: UserError where Spark 3.5 has none of that name."""
    for prefix, kind in PREFIXES.items():
        if spark_master == prefix or spark_master.startswith(prefix if "://" in prefix else f"{prefix}["):
            return kind
    raise UserError(
        f"spark.master: found '{spark_master}', expected local[N], spark://host:7077, yarn or k8s://https://host:6443"
    )


def check(kind: ClusterKind, settings: Settings, environment: Mapping[str, str]) -> None:
    """Looks for what the kind of cluster needs before a job is submitted to it.

    Raises: UserError.
    """
    spark = settings.spark
    has_defaults = bool(environment.get("SPARK_CONF_DIR"))  # its spark-defaults.conf may hold what is missing here
    if spark.deploy_mode == "cluster":
        if kind in ("local", "standalone"):
            raise UserError(
                f"spark.deploy_mode: found cluster, but with a {kind} master Spark runs no Python driver elsewhere; "
                "expected client"
            )
        if environment.get("DSSM_DEPLOY_MODE") == "client":
            raise UserError(
                "spark.deploy_mode: found cluster, expected client: the environment's DSSM_DEPLOY_MODE says so, for "
                "who starts this job can neither end a driver on the cluster nor read its exit code"
            )
        places = {"root": settings.root, "data": settings.data}
        relative = [key for key, place in places.items() if place and "://" not in place and not place.startswith("/")]
        if relative:
            raise UserError(
                f"{relative[0]}: found '{places[relative[0]]}', which is of this folder; with spark.deploy_mode: "
                "cluster expected a place that all hosts see, such as hdfs://… or /shared/…"
            )
        upload = "spark.kubernetes.file.upload.path"
        if kind == "kubernetes" and upload not in spark.conf and not has_defaults:
            raise UserError(f"spark.conf: {upload} is not set; a driver on the cluster takes what is sent from there")
    if kind == "yarn" and not (environment.get("HADOOP_CONF_DIR") or environment.get("YARN_CONF_DIR")):
        raise UserError("spark.master: yarn, but the environment has no HADOOP_CONF_DIR; set it to the cluster's conf")
    if kind == "kubernetes" and not has_defaults and not any("container.image" in key for key in spark.conf):
        raise UserError("spark.conf: spark.kubernetes.container.image is not set; name an image with Python 3.11")
    if kind == "standalone" and spark.security is not None and spark.security.secret is None:
        raise UserError(
            "spark.security.secret: not set; name the place of the secret that the master and the workers know"
        )
    if spark.deploy_mode == "client":
        spark.read_secrets()
