from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from dssm.model.export import LoadedTower, save_tower, weights_digest
from dssm.model.towers import TwoTowers
from tests.datasets import VECTORS, Rows, make_rows, make_settings
from tests.model.tiny import make_towers

STORAGES = {storage: make_settings("unused", storage=storage) for storage in ("inline", "table")}
SETTINGS = STORAGES["inline"]

# What a server does: it has TensorFlow and the folder, or this project's own reader of it.
SERVER = """
import json, sys
import numpy as np
import tensorflow as tf

folder, rows, target = sys.argv[1:]
columns = dict(np.load(rows))
serve = tf.saved_model.load(folder).signatures["serving_default"]
plain = serve(**{name: tf.constant(values) for name, values in columns.items()})["vector"].numpy()
alone = sorted({name.partition(".")[0] for name in sys.modules})

from dssm.model.export import LoadedTower

own = LoadedTower(folder).vectors(columns)
np.savez(target, plain=plain, own=own)
print(json.dumps({"alone": alone, "with_ours": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module", params=list(STORAGES))
def towers(request: pytest.FixtureRequest) -> TwoTowers:
    return make_towers(STORAGES[request.param])


def _inputs(towers: TwoTowers, side: str, count: int, seed: int) -> Rows:
    rows = make_rows(STORAGES["table" if towers.frozen else "inline"], count, seed)
    return {name: rows[name] for name in getattr(towers, side).input}


@pytest.mark.parametrize("side", ["user", "item"])
def test_a_loaded_tower_gives_the_trained_vectors_at_any_batch_size(towers: TwoTowers, side: str, tmp_path: Path):
    tower = getattr(towers, side)
    save_tower(tower, f"{tmp_path}/tower")
    loaded = LoadedTower(f"{tmp_path}/tower")
    assert set(loaded.inputs) == set(tower.input)
    for count in (1, 4, 37):
        inputs = _inputs(towers, side, count, seed=count)
        vectors = loaded.vectors(inputs)
        assert vectors.shape == (count, SETTINGS.model.vector_dim)
        np.testing.assert_allclose(vectors, tower(inputs, training=False), atol=1e-6)


def test_a_saved_tower_needs_tensorflow_alone(towers: TwoTowers, tmp_path: Path):
    save_tower(towers.user, f"{tmp_path}/tower")
    inputs = _inputs(towers, "user", 9, seed=8)
    np.savez(f"{tmp_path}/rows.npz", **inputs)
    done = subprocess.run(
        [sys.executable, "-c", SERVER, f"{tmp_path}/tower", f"{tmp_path}/rows.npz", f"{tmp_path}/vectors.npz"],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    modules = json.loads(done.stdout.splitlines()[-1])
    assert "dssm" not in modules["alone"]
    assert "dssm.model.export" in modules["with_ours"]
    for name in ("pyspark", "horovod", "petastorm", "dssm.train", "dssm.stream", "dssm.samples"):
        assert name not in modules["with_ours"]
    vectors = np.load(f"{tmp_path}/vectors.npz")
    for name in ("plain", "own"):
        np.testing.assert_allclose(vectors[name], towers.user(inputs, training=False), atol=1e-6)


def test_a_missing_column_is_an_error_that_names_it(towers: TwoTowers, tmp_path: Path):
    save_tower(towers.item, f"{tmp_path}/tower")
    inputs = _inputs(towers, "item", 2, seed=0)
    del inputs["topic_id"]
    with pytest.raises(KeyError, match="topic_id"):
        LoadedTower(f"{tmp_path}/tower").vectors(inputs)


def test_the_digest_is_of_the_values_and_their_order():
    one, two = tf.Variable([[1.0, 2.0]]), tf.Variable([3.0])
    same = weights_digest([tf.Variable([[1.0, 2.0]], name="other"), tf.Variable([3.0])])
    assert weights_digest([one, two]) == same
    assert weights_digest([two, one]) != same
    two.assign([np.nextafter(np.float32(3), np.float32(4))])
    assert weights_digest([one, two]) != same


def test_the_digest_of_a_model_changes_with_its_frozen_vectors():
    towers = make_towers(STORAGES["table"])
    assert weights_digest(towers.variables) == weights_digest(make_towers(STORAGES["table"]).variables)
    before = weights_digest(towers.variables)
    towers.frozen["post"].table[3].assign(VECTORS[2] + 1)
    assert weights_digest(towers.variables) != before
