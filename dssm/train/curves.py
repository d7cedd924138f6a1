"""What TensorBoard draws of a training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from dssm.model.towers import TwoTowers
from dssm.train.clock import OwnTime
from dssm.train.collectives import gather

Curves = Mapping[str, float | None]  # a number of each by its name; None or no finite one where it is not known


def draw(values: Curves, step: int, prefix: str = "") -> None:
    """Writes a point of each curve whose number is known."""
    for name, value in values.items():
        if value is not None and np.isfinite(value):
            tf.summary.scalar(f"{prefix}{name}", value, step=step)


def speeds_of_ranks(own: OwnTime) -> dict[str, float]:
    """Gathers how fast each rank is. All ranks call it at the same step.

    Returns: by rank `samples_per_s/rank_K`, of rows with a weight, since the ranks were last asked; and
      `own_samples_per_s/rank_K`, of the time outside of the exchange: the lowest is of the rank that the others wait
      for. The latter is NaN where no rank waits for another, or the exchange is not timed.
    """
    speeds = {}
    of_ranks = gather(tf.constant([[own.rows, own.seconds, own.exchange_s]], tf.float64), "own_time").numpy()
    for rank, (rows, seconds, exchange_s) in enumerate(of_ranks):
        speeds[f"samples_per_s/rank_{rank}"] = rows / seconds
        own_s = seconds - exchange_s  # of two clocks
        speeds[f"own_samples_per_s/rank_{rank}"] = rows / own_s if own_s > 0 else float("nan")
    return speeds


def embedding_norms(towers: TwoTowers) -> dict[str, float]:
    """Returns the mean norm of each table's rows, of this rank's where they are spread over ranks."""
    norms = {name: tf.norm(table.embeddings, axis=1) for name, table in towers.tables.items()}
    return {f"embedding_norm/{name}": float(tf.reduce_mean(of_rows)) for name, of_rows in norms.items()}
