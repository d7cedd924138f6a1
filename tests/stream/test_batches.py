from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.manifest import WEIGHT, ColumnSpec
from dssm.stream.batches import as_dataset, batches

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


@pytest.mark.parametrize("prefetch", [1, 3])
def test_a_dataset_has_the_batches_and_their_static_shapes(prefetch: int):
    made = batches(iter(_files([2, 3])), COLUMNS, batch_size=2, steps=3)
    dataset = as_dataset(made, COLUMNS, batch_size=2, prefetch=prefetch)
    assert dataset.element_spec == {
        "key": tf.TensorSpec((2,), tf.int64),
        "list": tf.TensorSpec((2, 2), tf.int32),
        WEIGHT: tf.TensorSpec((2,), tf.float32),
    }
    assert [batch["key"].numpy().tolist() for batch in dataset] == [[1, 2], [3, 4], [5, 0]]
