"""Which GPU a rank takes, of what its host shows."""

from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf
from horovod.spark.task import task_info
from pyspark.resource import ResourceInformation

from dssm.errors import UserError
from dssm.train.devices import _assigned_by_spark, gpu_of_rank, use_device
from tests.datasets import make_settings


@pytest.mark.parametrize(
    ("gpus", "assigned", "local_rank", "local_size", "expected"),
    [
        (4, [], 2, 4, 2),  # horovodrun: one rank a GPU
        (8, ["5"], 0, 2, 5),  # Spark's choice, whatever the rank is
        (1, ["5"], 1, 2, 0),  # the executor sees only the GPU that it was given
        (1, [], 0, 1, 0),
    ],
)
def test_one_rank_a_gpu(gpus: int, assigned: list[str], local_rank: int, local_size: int, expected: int):
    assert gpu_of_rank(gpus, assigned, local_rank, local_size) == expected


def test_ranks_do_not_share_a_gpu():
    with pytest.raises(UserError, match="3 ranks on a host with 2 GPUs; expected at most one rank a GPU"):
        gpu_of_rank(2, [], 2, 3)


def test_a_gpu_that_is_not_there():
    with pytest.raises(UserError, match="Spark assigned GPU 6 to a rank, but TensorFlow sees 4"):
        gpu_of_rank(4, ["6"], 0, 1)


def test_spark_says_which_gpu_is_a_tasks(monkeypatch: pytest.MonkeyPatch):
    given = {"gpu": ResourceInformation("gpu", ["5"])}
    monkeypatch.setattr(task_info._info, "resources", given)
    assert _assigned_by_spark(make_settings("unused", launch="spark")) == ["5"]
    assert _assigned_by_spark(make_settings("unused", launch="horovodrun")) == []
    monkeypatch.setattr(task_info._info, "resources", {})
    assert _assigned_by_spark(make_settings("unused", launch="spark")) == []


@pytest.mark.usefixtures("single_rank")
def test_a_rank_sees_its_gpu_alone_takes_memory_as_it_needs_and_computes_float32(monkeypatch: pytest.MonkeyPatch):
    told: list[Any] = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["first"])
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *of: told.append(of))
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda *of: told.append(of))
    monkeypatch.setattr(
        tf.config.experimental, "enable_tensor_float_32_execution", lambda enabled: told.append(("tf32", enabled))
    )
    use_device(make_settings("unused"))
    assert told == [("first", "GPU"), ("first", True), ("tf32", False)]
