from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from dssm.errors import UserError
from dssm.model.export import LoadedScorer, LoadedTower, raw_tensors, save_scorer, save_tower, weights_digest
from dssm.model.scorer import build_scorer
from dssm.model.towers import TwoTowers
from dssm.sections.model import Scorer
from tests.datasets import VECTORS, Rows, make_rows, make_settings
from tests.model.tiny import make_towers

pytestmark = pytest.mark.slow

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
        np.testing.assert_allclose(vectors, tower(inputs, training=False)["label"], atol=1e-6)
        assert list(loaded.all_vectors(inputs)) == ["vector"]


def test_a_loaded_tower_leaves_gpus_alone(towers: TwoTowers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hidden: list[object] = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *of: hidden.append(of))
    save_tower(towers.item, str(tmp_path / "item"))
    LoadedTower(str(tmp_path / "item"))
    assert hidden == [([], "GPU")]


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
        np.testing.assert_allclose(vectors[name], towers.user(inputs, training=False)["label"], atol=1e-6)


def _tower_of(*widths: int) -> tf.keras.Model:
    """A tower of the objectives o0, o1, … whose vectors are so wide."""
    ids = tf.keras.Input((), dtype=tf.int32, name="id")
    embedded = tf.keras.layers.Embedding(5, 3)(ids)
    return tf.keras.Model(
        {"id": ids}, {f"o{n}": tf.keras.layers.Dense(width)(embedded) for n, width in enumerate(widths)}
    )


def test_several_objectives_have_a_vector_each_and_a_combined_one(tmp_path: Path):
    tower, columns = _tower_of(2, 3, 1), {"id": np.arange(5, dtype=np.int32)}
    save_tower(tower, f"{tmp_path}/tower", {"o0": 4.0, "o1": 0.0, "o2": 0.25})
    loaded, own = LoadedTower(f"{tmp_path}/tower"), tower(columns)
    found = loaded.all_vectors(columns)
    assert set(found) == {"vector", "vector_o0", "vector_o1", "vector_o2"}
    for name, vector in own.items():
        np.testing.assert_allclose(found[f"vector_{name}"], vector, atol=1e-6)
    # √share on each side: the inner product has the share itself.
    np.testing.assert_allclose(found["vector"], np.concatenate([2 * own["o0"], 0.5 * own["o2"]], axis=1), atol=1e-6)
    np.testing.assert_array_equal(loaded.vectors(columns), found["vector"])


@pytest.mark.parametrize("shares", [None, {}, {"o0": 1.0}, {"o0": 1.0, "other": 1.0}])
def test_every_objective_needs_a_share(shares: dict[str, float] | None, tmp_path: Path):
    with pytest.raises(ValueError, match=r"shares: found .*, the tower's objectives are \['o0', 'o1'\]"):
        save_tower(_tower_of(2, 2), f"{tmp_path}/tower", shares)


def test_the_share_of_a_single_objective_scales_its_vector(tmp_path: Path):
    tower, columns = _tower_of(2), {"id": np.array([3], np.int32)}
    save_tower(tower, f"{tmp_path}/tower", {"o0": 9.0})
    np.testing.assert_allclose(LoadedTower(f"{tmp_path}/tower").vectors(columns), 3 * tower(columns)["o0"], rtol=1e-6)


def test_a_saved_scorer(tmp_path: Path):
    scorer = build_scorer(Scorer(kind="shallow", layers=(4,)), 3)
    save_scorer(scorer, f"{tmp_path}/scorer")
    user, item = np.random.default_rng(3).normal(size=(2, 6, 3)).astype(np.float32)
    served = tf.saved_model.load(f"{tmp_path}/scorer").signatures["serving_default"]
    found = served(user_vector=tf.constant(user), item_vector=tf.constant(item))["score"]
    assert found.shape == (6,)
    np.testing.assert_allclose(found, scorer([user, item]), atol=1e-6)


def test_probabilities_of_a_loaded_scorer_keep_large_logits_apart(tmp_path: Path):
    scorer = build_scorer(Scorer(), 1)
    kernel, bias = scorer.variables
    kernel.assign([[10.0], [-10.0], [0.0], [0.0]])
    bias.assign([0.5])
    save_scorer(scorer, f"{tmp_path}/scorer")
    user, item = np.array([[0.0], [1.0], [3.0], [3.1]]), np.array([[1.0], [1.0], [0.5], [0.5]])
    found = LoadedScorer(f"{tmp_path}/scorer").probabilities(user, item)
    np.testing.assert_allclose(found, [1 / (1 + np.exp(-s)) for s in (-9.5, 0.5, 25.5, 26.5)], rtol=1e-5)
    assert found[2] < found[3] < 1


def test_rows_become_tensors_and_what_is_missing_counts_as_nothing():
    inputs = {
        "id": tf.TensorSpec([None], tf.string), "tags": tf.TensorSpec([None, None], tf.string),
        "age": tf.TensorSpec([None], tf.float64), "hour": tf.TensorSpec([None], tf.int64),
        "tags__weight": tf.TensorSpec([None, None], tf.float64),
    }  # fmt: skip
    rows = [
        {"id": 7, "tags": ["é", 5, None], "age": 3, "hour": 20, "tags__weight": [0.5, 2]},
        {"tags": "a,b", "id": None, "tags__weight": 1.5},
        {},
    ]
    found = {name: tensor.numpy() for name, tensor in raw_tensors(inputs, rows).items()}
    assert found["id"].tolist() == [b"7", b"", b""]
    assert found["tags"].tolist() == [["é".encode(), b"5", b""], [b"a,b", b"", b""], [b""] * 3]
    nan = np.nan
    np.testing.assert_array_equal(found["age"], [3, nan, nan])
    np.testing.assert_array_equal(found["tags__weight"], [[0.5, 2], [1.5, nan], [nan, nan]])
    assert found["hour"].tolist() == [20, -1, -1]
    empty = raw_tensors(inputs, [])
    assert {name: tuple(tensor.shape) for name, tensor in empty.items()} == {
        "id": (0,), "tags": (0, 0), "age": (0,), "hour": (0,), "tags__weight": (0, 0),
    }  # fmt: skip
    with pytest.raises(UserError, match=r"no input 'tag' \(did you mean 'tags'\?\)"):
        raw_tensors(inputs, [{"tag": "a"}])


def test_booleans_are_the_texts_of_the_samples():
    inputs = {"id": tf.TensorSpec([None], tf.string), "tags": tf.TensorSpec([None, None], tf.string)}
    inputs["age"] = tf.TensorSpec([None], tf.float64)
    rows = [{"id": True, "tags": [True, None, False], "age": True}, {"id": np.False_, "tags": False, "age": False}]
    found = {name: tensor.numpy().tolist() for name, tensor in raw_tensors(inputs, rows).items()}
    assert found["id"] == [text.encode() for text in pa.array([True, False]).cast(pa.string()).to_pylist()]
    assert found == {
        "id": [b"true", b"false"], "tags": [[b"true", b"", b"false"], [b"false", b"", b""]], "age": [1, 0],
    }  # fmt: skip


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
