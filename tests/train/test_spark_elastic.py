"""horovod.spark.run_elastic: the ranks are Spark's tasks.

What happens when one is lost is seen with horovodrun (test_elastic.py): Horovod gives up a host whose rank died, and
the tasks of one machine are one host.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dssm.model.manifest import read_model_manifest
from dssm.paths import RunPaths
from dssm.train.launch import train
from tests.datasets import write_run

pytestmark = [pytest.mark.spark, pytest.mark.horovod]


@pytest.mark.usefixtures("spark")
def test_a_training_by_spark_elastic(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = write_run(
        tmp_path, launch="spark-elastic", ranks=2, epochs=2, start_timeout_s=60, interfaces="lo",
        elastic={"min_ranks": 1, "max_ranks": 2, "commit_every_steps": 2},
    )  # fmt: skip
    train(settings)
    model = read_model_manifest(RunPaths(settings.run_folder).model)
    assert (model.ranks, model.steps, len(model.loss)) == (2, 10, 2)
    assert np.isfinite(model.loss).all()
    assert "2 rank(s) by spark-elastic" in capsys.readouterr().out
