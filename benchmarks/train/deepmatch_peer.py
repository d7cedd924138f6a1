"""The peer: DeepMatch's DSSM with softmax over the batch, by Keras' fit on arrays in memory.

    .venv-deepmatch/bin/python -m benchmarks.train.deepmatch_peer rows.npz 4096 2

Runs in an environment of its own (requirements/deepmatch.lock) and imports nothing of this project but the task.
L2 on embeddings is off, though DeepMatch's default is 1e-6: it makes each gradient as large as its table, and this
project's model has none. Prints a JSON line: the seconds of each epoch, and its mean loss.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import tensorflow as tf
from deepctr.feature_column import SparseFeat, VarLenSparseFeat  # type: ignore[import-not-found]
from deepmatch.models import DSSM  # type: ignore[import-not-found]
from deepmatch.utils import NegativeSampler, sampledsoftmaxloss  # type: ignore[import-not-found]

from benchmarks.train.task import (
    DIM,
    FIRST_ID,
    HIDDEN,
    HISTORY,
    HISTORY_IDS,
    HISTORY_LENGTH,
    INITIAL_ACCUMULATOR,
    ITEM_ID,
    ITEM_SIZES,
    LEARNING_RATE,
    SIZES,
    TEMPERATURE,
    USER_SIZES,
    VECTOR,
)


class EpochTimes(tf.keras.callbacks.Callback):
    """Seconds from an epoch's begin to its end, as `epochs` grows."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.seconds.append(time.perf_counter() - self._began)


def build_model(item_counts: np.ndarray) -> tf.keras.Model:
    """Args: item_counts: (items + FIRST_ID,). Returns: the compiled model."""

    def sparse(name: str, like: str | None = None) -> SparseFeat:
        return SparseFeat(name, SIZES[like or name] + FIRST_ID, DIM, embedding_name=like)

    history = VarLenSparseFeat(sparse(HISTORY_IDS, like=ITEM_ID), HISTORY, "mean", HISTORY_LENGTH)
    # log q of an item that was never drawn would be −∞.
    sampler = NegativeSampler(
        "inbatch", num_sampled=1, item_name=ITEM_ID, item_count=np.maximum(item_counts, 1).tolist()
    )
    model = DSSM(
        [*map(sparse, USER_SIZES), history],
        [*map(sparse, ITEM_SIZES)],
        user_dnn_hidden_units=(HIDDEN, VECTOR),
        item_dnn_hidden_units=(HIDDEN, VECTOR),
        l2_reg_embedding=0,
        loss_type="softmax",
        temperature=TEMPERATURE,
        sampler_config=sampler,
    )
    optimizer = tf.keras.optimizers.Adagrad(LEARNING_RATE, initial_accumulator_value=INITIAL_ACCUMULATOR)
    model.compile(optimizer=optimizer, loss=sampledsoftmaxloss)
    return model


def main(path: str, batch_size: int, epochs: int) -> None:
    with np.load(path) as file:
        rows = dict(file)
    model = build_model(rows.pop("item_counts"))
    times = EpochTimes()
    labels = np.ones(len(rows[ITEM_ID]), np.float32)
    fitted = model.fit(rows, labels, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=[times])
    print(json.dumps({"rows": len(labels), "seconds": times.seconds, "loss": fitted.history["loss"]}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
