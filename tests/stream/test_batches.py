from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.errors import UserError
from dssm.manifest import WEIGHT, ColumnSpec
from dssm.stream.batches import Prefetched, batches

COLUMNS = {
    "key": ColumnSpec(dtype="int64"),
    "list": ColumnSpec(dtype="int32", shape=(2,), encoding="packed"),
    WEIGHT: ColumnSpec(dtype="float32"),
}


def _files(counts: list[int]) -> list[dict[str, np.ndarray]]:
    """Rows numbered from 1 over all files: key n, list [n, −n], weight n / 2."""
    files, first = [], 1
    for count in counts:
        key = np.arange(first, first + count, dtype=np.int64)
        pair = np.stack([key, -key], axis=1).astype(np.int32)
        files.append({"key": key, "list": pair, WEIGHT: (key / 2).astype(np.float32)})
        first += count
    return files


def test_a_literal_epoch():
    made = list(batches(iter(_files([2, 1, 4])), COLUMNS, batch_size=3, steps=4))
    assert [batch["key"].tolist() for batch in made] == [[1, 2, 3], [4, 5, 6], [7, 0, 0], [0, 0, 0]]
    assert [batch[WEIGHT].tolist() for batch in made] == [[0.5, 1, 1.5], [2, 2.5, 3], [3.5, 0, 0], [0, 0, 0]]
    assert made[2]["list"].tolist() == [[7, -7], [0, 0], [0, 0]]


@settings(max_examples=500, deadline=None)
@given(counts=st.lists(st.integers(0, 12), max_size=8), batch_size=st.integers(1, 9), spare=st.integers(0, 3))
def test_rows_keep_their_order_and_padding_weighs_nothing(counts, batch_size, spare):
    rows = sum(counts)
    steps = -(-rows // batch_size) + spare
    made = list(batches(iter(_files(counts)), COLUMNS, batch_size, steps))

    assert len(made) == steps
    expected = np.arange(1, steps * batch_size + 1)
    expected[rows:] = 0
    joined = {name: np.concatenate([batch[name] for batch in made]) for name in COLUMNS} if made else {}
    for name, spec in COLUMNS.items():
        for batch in made:
            assert batch[name].shape == (batch_size, *spec.shape)
            assert batch[name].dtype == spec.dtype
    if made:
        assert joined["key"].tolist() == expected.tolist()
        assert joined["list"].tolist() == np.stack([expected, -expected], axis=1).tolist()
        assert joined[WEIGHT].tolist() == (expected / 2).tolist()


def test_a_batch_is_made_before_the_next_file_is_asked_for():
    asked = []

    def files():
        for number, file in enumerate(_files([5, 5])):
            asked.append(number)
            yield file

    made = batches(files(), COLUMNS, batch_size=2, steps=5)
    assert next(made)["key"].tolist() == [1, 2]
    assert asked == [0]


@pytest.mark.parametrize("depth", [1, 3])
def test_prefetched_batches_are_the_same_as_tensors(depth: int):
    made = batches(iter(_files([2, 3])), COLUMNS, batch_size=2, steps=3)
    read = list(Prefetched(made, depth))
    assert [batch["key"].numpy().tolist() for batch in read] == [[1, 2], [3, 4], [5, 0]]
    for batch in read:
        assert {name: (tensor.shape, tensor.dtype) for name, tensor in batch.items()} == {
            "key": ((2,), tf.int64),
            "list": ((2, 2), tf.int32),
            WEIGHT: ((2,), tf.float32),
        }


def test_an_error_of_the_reader_comes_in_its_place():
    def failing():
        yield from batches(iter(_files([2])), COLUMNS, batch_size=2, steps=1)
        raise UserError("a damaged file")

    made = Prefetched(failing(), 4)
    assert next(made)["key"].numpy().tolist() == [1, 2]
    with pytest.raises(UserError, match="a damaged file"):
        next(made)
    with pytest.raises(StopIteration):
        next(made)


def test_no_more_than_the_depth_is_made_ahead():
    made: list[int] = []

    def endless():
        for number in itertools.count():
            made.append(number)
            yield {"key": np.array([number])}

    ahead = Prefetched(endless(), 3)
    assert next(ahead)["key"].numpy().tolist() == [0]
    time.sleep(0.3)
    assert len(made) <= 1 + 3 + 1 + 1  # taken, waiting, in the thread's hand
    ahead.close()


@pytest.mark.parametrize("how", ["closed", "forgotten"])
def test_batches_that_are_not_wanted_end_the_thread_and_the_reading(how: str):
    ended = threading.Event()

    def endless():
        try:
            while True:
                yield {"key": np.zeros(2)}
        finally:
            ended.set()

    ahead = Prefetched(endless(), 2)
    next(ahead)
    if how == "closed":
        ahead.close()
    del ahead
    assert ended.wait(5)
