from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dssm.retrieval import evaluate
from dssm.retrieval.ranking import Ranking
from tests.retrieval.rankings import asked_of, make_block, part_of, write_rankers

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.mark.spark
def test_findings_of_many_tasks_are_added_up_by_the_executors(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rankers, block = write_rankers(tmp_path / "arrays", 20), make_block(12, 20)
    asked = asked_of(block)
    whole = Ranking(rankers, asked)
    whole.add(block)
    found = []
    for start in range(0, 12, 3):
        task = Ranking(rankers, asked)
        task.add(part_of(block, slice(start, start + 3)))
        found.append((bytearray(task.found.packed()),))
    monkeypatch.setattr(evaluate, "MERGED_AT_ONCE", 3)
    total = evaluate._merged(spark.createDataFrame(found, evaluate.FOUND), 4, rankers, asked)
    assert total.digests == whole.found.digests
    for key, tally in whole.found.tallies.items():
        np.testing.assert_allclose(total.tallies[key].sums, tally.sums)
