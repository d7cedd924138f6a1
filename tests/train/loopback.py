"""Training steps whose bytes pass over a loopback of their own (`python -m tests.train.loopback FOLDER`).

Runs in every rank of a launch in a network namespace that has nobody else. Rank 0 leaves in FOLDER/found.json, for
each way that gradients of tables travel, the bytes a step of all ranks: see `sent`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import horovod.tensorflow as hvd
import numpy as np
import psutil
import tensorflow as tf

from dssm.config import Settings
from dssm.model.shards import Shard
from dssm.model.towers import build_towers
from dssm.model.two_tower import TwoTowerModel
from dssm.stream.batches import Batch
from dssm.train.exchange import exchange_of
from dssm.train.step import RECEIVED_BYTES, make_optimizer, make_step
from dssm.train.traffic import Way
from tests.datasets import SIZES, VECTORS, make_rows, make_settings

ROWS, BATCH, STEPS = 200_000, 8_192, 8
WAYS: tuple[Way, ...] = ("sparse", "dense", "sharded")


def settings_of(way: Way) -> Settings:
    placed = {"embedding": {"placement": "sharded", "min_rows": ROWS}} if way == "sharded" else {}
    # A loss of each row alone: no candidates travel beside the gradients.
    return make_settings("unused", loss="weighted_bce", optimizer="adagrad", batch_size=BATCH, model=placed)


def batch_of(settings: Settings, number: int) -> Batch:
    """Draws a rank's batch whose ids are spread over the whole tables."""
    rows = make_rows(settings, BATCH, seed=10 * number + hvd.rank())
    random = np.random.default_rng(10 * number + hvd.rank())
    for column in ("user_id", "item_id", "clicked"):
        rows[column] = random.integers(1, ROWS, rows[column].shape).astype(np.int32)
    return {name: tf.constant(values) for name, values in rows.items()}


def loopback_bytes() -> int:
    """Returns what all processes of the namespace have received so far."""
    hvd.allreduce(tf.zeros([1]), name="all_are_here")
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_recv)


def sent(way: Way) -> dict[str, float]:
    """Takes steps, and returns the bytes of all ranks a step: `counted`, `planned` and on the `loopback`; and `idle`,
    what the ranks exchange in a step's time where they do nothing.
    """
    settings, shard = settings_of(way), Shard(hvd.rank(), hvd.size())
    sizes = {**SIZES, "user_id": ROWS, "item_id": ROWS}
    towers = build_towers(
        settings.model, settings.features, sizes, settings.vectors, {"post": VECTORS}, shard, table_seed=3
    )
    model = TwoTowerModel(settings.model, settings.train.loss, towers)
    plan = exchange_of(settings, model, hvd.size())
    if way != "sharded":
        plan = plan.forced({table.use.name: way for table in plan.tables})
    step = make_step(settings, model, make_optimizer(settings.train, STEPS + 1, model), plan=plan)
    batches = [batch_of(settings, number) for number in range(STEPS + 1)]
    step(batches.pop(), {})  # traces, and agrees on the collectives' names
    before, started = loopback_bytes(), time.monotonic()
    own = sum(int(step(batch, {})[RECEIVED_BYTES]) for batch in batches)
    seconds, after = time.monotonic() - started, loopback_bytes()
    counted = int(hvd.allreduce(tf.constant(own, tf.int64), op=hvd.Sum, name="counted"))
    quiet = loopback_bytes()
    time.sleep(seconds)
    idle = loopback_bytes() - quiet
    planned = hvd.size() * plan.expected_bytes
    return {"counted": counted / STEPS, "planned": planned, "loopback": (after - before) / STEPS, "idle": idle / STEPS}


if __name__ == "__main__":
    hvd.init()
    found = {way: sent(way) for way in WAYS}
    if hvd.rank() == 0:
        Path(sys.argv[1], "found.json").write_text(json.dumps(found), encoding="utf-8")
