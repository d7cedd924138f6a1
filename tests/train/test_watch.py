"""What a training tells of the batch that spoilt its loss."""

from __future__ import annotations

import numpy as np

from dssm.train.watch import suspicious_columns, told_of_batches


def test_what_is_not_finite_comes_first_then_what_is_largest():
    batch = {
        "label": np.float32([0, 1, 1]),
        "days": np.float32([-900, 0, 300]),
        "age": np.float32([[1, np.nan], [np.inf, 4], [-2, 0]]),
        "user_id": np.array([[7, 10**9], [1, 0], [3, 0]], np.int32),
        "empty": np.zeros((0, 4), np.float32),
        "row__user_key": np.array([7, 8, 9]),
    }
    ids = "user_id: ids 0…1000000000, 33% padding, 17% unknown"
    assert suspicious_columns(batch) == [
        "age: -2…4, mean 0.75, 2 of 6 not finite",
        "days: -900…300, mean -200",
        "label: 0…1, mean 0.667",
        "user_id: ids 0…1000000000, 33% padding, 17% unknown",
    ]
    assert suspicious_columns(batch, most=1) == ["age: -2…4, mean 0.75, 2 of 6 not finite", ids]


def test_a_column_without_a_number_is_its_count():
    assert suspicious_columns({"age": np.full((2, 2), np.nan, np.float32)}) == ["age, 4 of 4 not finite"]


def test_what_is_not_finite_in_the_batch_before_is_told_as_well():
    before = {"age": np.float32([np.nan, 2]), "days": np.float32([9, 9])}
    batch = {"age": np.float32([1, 2]), "days": np.float32([3, 4])}
    assert told_of_batches(before, batch) == [
        "age: 2…2, mean 2, 1 of 2 not finite (the step before)",
        "days: 3…4, mean 3.5",
        "age: 1…2, mean 1.5",
    ]
