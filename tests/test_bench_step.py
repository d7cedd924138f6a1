"""What bench-step makes of a profile's operations."""

from __future__ import annotations

import pytest

from benchmarks.step.__main__ import RUNTIME, Side, ratios, rows_of, sides
from benchmarks.step.rank import BY_KIND, EXCHANGE, OTHERS, STEP, group_of, time_of_cores

MATRICES = "products of matrices"


@pytest.mark.parametrize(
    ("name", "kind", "group"),
    [
        ("gradient_tape/user_tower/user.dense_1/MatMul", "_MklMatMul", MATRICES),
        ("ResourceSparseApplyAdagradV2", "ResourceSparseApplyAdagradV2", "updates of weights"),
        ("pooling/Sum", "Sum", "look-ups and lists"),
        ("Unique_3", "Unique", "look-ups and lists"),
        ("user_tower/user.dense_1/Relu", "Relu", "towers, all else"),
        ("softmax", "Softmax", OTHERS),
    ],
)
def test_an_operation_has_a_group(name: str, kind: str, group: str) -> None:
    assert group_of(name, kind) == group


def test_operations_at_once_share_the_cores_and_gaps_count_for_none() -> None:
    events = [(0.0, 2.0, "a"), (1.0, 3.0, "b"), (5.0, 6.0, "a")]
    assert time_of_cores(events, cores=2) == {"a": 3.0, "b": 2.0}
    assert time_of_cores(events, cores=1) == {"a": 2.5, "b": 1.5}
    assert time_of_cores([(0.0, 3.0, "a")] * 3, cores=2) == {"a": pytest.approx(6.0)}
    assert time_of_cores([], cores=2) == {}


def test_a_step_is_told_by_its_parts() -> None:
    one = {"cores": 1, STEP: 100.0, MATRICES: 80.0, OTHERS: 15.0, RUNTIME: 5.0}
    two = {"cores": 1, STEP: 64.0, MATRICES: 40.0, OTHERS: 8.0, EXCHANGE: 16.0, RUNTIME: 0.0}
    lines = {line[0]: line[1:] for line in rows_of([one, two])}
    assert lines["a step, on the clock"] == ["100.00", "", "64.00", ""]
    assert lines[MATRICES] == ["80.00", "80 %", "40.00", "62 %"]
    assert lines[EXCHANGE] == ["", "", "16.00", "25 %"]
    assert next(iter(BY_KIND)) == MATRICES
    found = ratios({"one_rank": one, "two_ranks": two, "apart": {**two, STEP: 50.0}, "4096": one, "256": one})
    assert found["apart_step"] == 2.0
    assert found["two_ranks_step"] == pytest.approx(100 / 64)
    assert (found["two_ranks_exchange"], found["two_ranks_matrices"]) == (0.25, 2.0)
    assert found["matrices_256"] == 0.8


def test_ranks_share_the_joint_batch_and_small_batches_have_the_cores_that_they_train_with() -> None:
    known = sides(cores=2)
    assert known["256"] == Side("batch 256", 256, 1)
    assert (known["4096"].cores, known["one_rank"].cores) == (2, 1)
    assert known["two_ranks"].batch * known["two_ranks"].ranks == known["one_rank"].batch
