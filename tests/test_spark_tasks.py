from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from dssm.spark import most_tasks

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def session(master: str, cores: int, **conf: str) -> Any:
    own = {f"spark.{key.replace('_', '.')}": value for key, value in conf.items()}
    context = SimpleNamespace(master=master, defaultParallelism=cores, getConf=lambda: own)
    return SimpleNamespace(sparkContext=context)


DYNAMIC = {"dynamicAllocation_enabled": "true", "dynamicAllocation_maxExecutors": "5"}


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (session("local[3]", 3, dynamicAllocation_enabled="true"), 12),
        (session("spark://a:1", 8), 32),
        (session("yarn", 2, **DYNAMIC), 20),
        (
            session("yarn", 2, **DYNAMIC, executor_cores="3"),
            60,
        ),
        (session("yarn", 40, **DYNAMIC), 160),
        (session("spark://a:1", 2, dynamicAllocation_enabled="true"), 4 * (2**31 - 1)),
    ],
)
def test_tasks_for_the_cores_that_there_are_or_may_come(made: Any, expected: int) -> None:
    assert most_tasks(made, 4) == expected


@pytest.mark.spark
def test_java_is_asked_once_for_the_classes_that_every_column_needs(spark: SparkSession) -> None:
    from py4j.java_gateway import JavaClass

    kept = vars(spark.sparkContext._jvm)
    assert {name: type(kept.get(name)) for name in ("functions", "PythonUtils")} == {
        "functions": JavaClass,
        "PythonUtils": JavaClass,
    }
