"""What a rank's process holds in memory of tables that are spread over ranks: part of `tests.train.joint`."""

from __future__ import annotations

import ctypes
import gc

import horovod.tensorflow as hvd
import numpy as np
import psutil
import tensorflow as tf

from dssm.model.shards import Shard
from dssm.model.towers import build_towers
from dssm.model.two_tower import TwoTowerModel
from dssm.train.sharding import shard_states
from dssm.train.step import make_optimizer
from tests.datasets import SIZES, VECTORS, Rows, make_settings

ROWS = 2_000_000  # of each of two tables, 4 wide: with the two moments of the optimizer 192 MB
FEW_ROWS = 100_000
SPREAD = {"embedding": {"placement": "sharded", "min_rows": FEW_ROWS}}


def tables_in_memory() -> Rows:
    """Builds large tables and their optimizer's state, and returns by how much the process has grown for them.

    Returns: `resident/grown`, bytes of the process; `resident/held`, bytes of the arrays; `resident/whole`, those of
      all ranks' arrays together.
    """
    settings = make_settings("unused", optimizer="lazy_adam", model=SPREAD)
    built = []
    for rows in (FEW_ROWS, ROWS):  # the libraries' own memory comes with the first
        before = resident()
        sizes = {**SIZES, "user_id": rows, "item_id": rows}
        shard = Shard(hvd.rank(), hvd.size())
        towers = build_towers(settings.model, settings.features, sizes, settings.vectors, {"post": VECTORS}, shard)
        model = TwoTowerModel(settings.model, settings.train.loss, towers)
        built.append((model, make_optimizer(settings.train, 1, model)))
    grown = resident() - before
    states = shard_states(*built[-1])
    row_bytes = [state.variable.shape[1] * tf.float32.size for state in states]
    held = sum(size * state.variable.shape[0] for size, state in zip(row_bytes, states, strict=True))
    whole = sum(size * state.rows for size, state in zip(row_bytes, states, strict=True))
    return {f"resident/{name}": np.array(size) for name, size in (("grown", grown), ("held", held), ("whole", whole))}


def resident() -> int:
    """Returns the bytes of the process that no file holds too: the system may take those from it at any moment.

    Without what is left behind and no one needs.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    now = psutil.Process().memory_info()
    return int(now.rss - now.shared)
