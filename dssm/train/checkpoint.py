"""The state of a training on disk: weights, optimizer, what the losses learn."""

from __future__ import annotations

import tempfile

import tensorflow as tf

from dssm import storage
from dssm.model.two_tower import TwoTowerModel

PREFIX = "state"


def save_state(model: TwoTowerModel, optimizer: tf.keras.optimizers.Optimizer, folder: str) -> None:
    """Writes a TensorFlow checkpoint into `folder`, which is there only when it is whole."""
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    with storage.committed_folder(folder) as temporary, tempfile.TemporaryDirectory() as scratch:
        checkpoint.write(f"{scratch}/{PREFIX}")
        storage.put_folder(scratch, f"{temporary}/{PREFIX}")


def restore_state(model: TwoTowerModel, optimizer: tf.keras.optimizers.Optimizer, folder: str) -> None:
    """Reads what `save_state` wrote. The model and the optimizer must be built.

    Raises: AssertionError where the checkpoint is of another model.
    """
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    with storage.local_copy(folder) as local:
        checkpoint.read(f"{local}/{PREFIX}/{PREFIX}").assert_consumed()
