"""Towers of raw inputs as SavedModels, beside the towers of encoded ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssm.config import Settings
from dssm.features import UNKNOWN_ID, AnyFeature, DenseFeat, Side, SparseFeat, VarLenSparseFeat, of_side
from dssm.manifest import ListKind, Manifest, encoded_columns
from dssm.model.export import LoadedRawTower, LoadedTower, save_tower
from dssm.model.raw.inputs import raw_inputs
from dssm.model.raw.save import RawTower, example_row, lookup_tables, save_raw_tower, without_users
from dssm.model.towers import tower_columns
from dssm.packing import unpack
from dssm.paths import RunPaths
from dssm.samples.encoding import encode_features
from dssm.samples.lookup_tables import Tables, Vectors
from tests.datasets import SIZES, VOCABULARIES, make_settings, write_vectors
from tests.model.tiny import make_towers

pytestmark = pytest.mark.slow

TOKENS = {name: [f"{name[0]}{place}" for place in range(size - 2)] for name, size in SIZES.items()}
ROWS: dict[Side, list[dict[str, Any]]] = {
    "user": [
        {"user_id": "u3", "age": 31.5, "clicked": ["i2", "i17", "i3,i4"], "liked": "t1:0.5,t4:2", "images": ["item03"]},
        {"user_id": "nobody", "age": None, "clicked": [], "liked": None, "images": ["gone", "item08", "item00"]},
        {"user_id": None, "age": -2, "clicked": ["i0"] * 9, "liked": "t0:1,x:3, t2 : 0.25 ,:1", "images": []},
        {"user_id": "", "age": 0, "clicked": None, "liked": "", "images": None},
    ],
    "item": [
        {"item_id": "i5", "topic_id": "t0", "image": "item07", "days": 3.25},
        {"item_id": "unknown", "topic_id": None, "image": "gone", "days": None},
        {"item_id": "", "topic_id": "t4", "image": None, "days": 0},
    ],
}
LISTS: dict[str, ListKind] = {"clicked": "array", "liked": "text", "images": "array"}
KINDS = {"age": pa.float64(), "days": pa.float64(), "clicked": pa.list_(pa.string()), "images": pa.list_(pa.string())}

# What a service does: it has TensorFlow, the folder and a request.
SERVER = """
import json, sys
import tensorflow as tf

folder, request = sys.argv[1:]
serve = tf.saved_model.load(folder).signatures["serving_default"]
inputs = serve.structured_input_signature[1]
given = json.loads(request)
vectors = serve(**{name: tf.constant([given[name]], spec.dtype) for name, spec in inputs.items()})["vector"]
alone = not {name.partition(".")[0] for name in sys.modules} & {"dssm", "horovod", "petastorm", "pyspark"}
print(json.dumps({"alone": alone, "vector": vectors.numpy().tolist()}))
"""


class Saved:
    """Both kinds of both towers of a run, in a folder that was moved; the samples are gone."""

    def __init__(self, folder: Path, storage: str) -> None:
        self.settings = make_settings(folder, storage=storage)
        samples = Path(RunPaths(self.settings.run_folder).samples)
        (samples / "vocabularies").mkdir(parents=True)
        for name, tokens in TOKENS.items():
            table = pa.table({"token": tokens, "events": [1] * len(tokens), "id": range(2, len(tokens) + 2)})
            pq.write_table(table, samples / "vocabularies" / f"{name}.parquet")
        write_vectors(self.settings)
        date = self.settings.date.isoformat()
        manifest = Manifest(kind="train", date=date, build="tiny", seed=0, vocabularies=VOCABULARIES, lists=LISTS)
        towers = make_towers(self.settings)
        self.raw: dict[Side, RawTower] = {}
        self.encoded_rows: dict[Side, dict[str, np.ndarray]] = {}
        sides: tuple[Side, ...] = ("user", "item")
        for side in sides:
            tower = getattr(towers, side)
            save_tower(tower, f"{folder}/first/{side}_tower")
            self.raw[side] = save_raw_tower(
                tower, side, self.settings, manifest, str(samples), f"{folder}/first/{side}_tower_raw"
            )
            self.encoded_rows[side] = _encoded(self.settings, manifest, side, str(samples))
        self.folder = folder / "moved"
        (folder / "first").rename(self.folder)
        shutil.rmtree(samples)


def _encoded(settings: Settings, manifest: Manifest, side: Side, samples: str) -> dict[str, np.ndarray]:
    """Returns ROWS as build_samples encodes them."""
    features = of_side(settings.features, side)
    columns = {
        name: pa.array([row[name] for row in ROWS[side]], KINDS.get(name, pa.string())) for name in ROWS[side][0]
    }
    encoded = encode_features(columns, features, lookup_tables(settings, features, manifest, samples))
    specs = {name: spec for f in features for name, spec in encoded_columns(f, settings.vectors).items()}
    return {name: unpack(encoded[name], spec) for name, spec in specs.items()}


@pytest.fixture(scope="module", params=["inline", "table"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory.mktemp("raw"), request.param)


@pytest.mark.parametrize("side", ["user", "item"])
def test_raw_and_encoded_towers_agree(saved: Saved, side: Side) -> None:
    raw, encoded = LoadedRawTower(f"{saved.folder}/{side}_tower_raw"), LoadedTower(f"{saved.folder}/{side}_tower")
    expected = encoded.vectors(saved.encoded_rows[side])
    assert len({tuple(vector) for vector in expected.round(3).tolist()}) == len(ROWS[side])  # the rows do differ
    np.testing.assert_allclose(raw.vectors(ROWS[side]), expected, atol=1e-6)
    for row, vector in zip(ROWS[side], expected, strict=True):  # with other lists beside it or alone
        np.testing.assert_allclose(raw.vectors([row]), vector[None], atol=1e-6)
    assert raw.vectors([]).shape == (0, saved.settings.model.vector_dim)


@pytest.mark.parametrize("side", ["user", "item"])
def test_the_example_is_a_row_of_known_values(saved: Saved, side: Side) -> None:
    made = RawTower.model_validate_json(saved.raw[side].model_dump_json())
    assert made == saved.raw[side]
    assert set(made.example) == set(made.inputs) == set(LoadedRawTower(f"{saved.folder}/{side}_tower_raw").inputs)
    assert set(made.encoded) == set(tower_columns(saved.settings.features, side, saved.settings.vectors))
    if side == "user":
        assert (made.example["user_id"], made.encoded["user_id"]) == ("example1", UNKNOWN_ID)
        assert made.example["clicked"] == ["i0", "i1"]
        assert made.example["liked"] == ["t0:1", "t1:0.5"]
        assert made.encoded["clicked"] == [2, 3, 0, 0, 0]
        assert made.encoded["liked__weight"] == [1, 0.5, 0, 0]
    raw = LoadedRawTower(f"{saved.folder}/{side}_tower_raw").vectors([made.example])
    columns = {name: np.array([value]) for name, value in made.encoded.items()}
    np.testing.assert_allclose(raw, LoadedTower(f"{saved.folder}/{side}_tower").vectors(columns), atol=1e-6)


def test_no_feature_gives_an_example_with_a_users_id() -> None:
    features: dict[str, AnyFeature] = {
        "user_id": SparseFeat(name="user_id", side="user"),
        "friends": VarLenSparseFeat(name="friends", side="user", share_embedding="user_id"),
        "face": DenseFeat(name="face", side="user", column="user_id", pre_embed="faces"),
        "author": SparseFeat(name="author", side="item", share_embedding="user_id"),
        "topic": SparseFeat(name="topic", side="item"),
        "image": DenseFeat(name="image", side="item", pre_embed="images"),
    }
    settings = make_settings("unused").model_copy(update={"features": features})
    users, images = pa.array(["u0", "u1"]), Vectors(pa.array(["p0"]), np.zeros((1, 2), np.float32))
    tables = Tables(
        vocabularies={"user_id": users, "topic": pa.array(["t0", "t1"])},
        vectors={"faces": Vectors(users, np.zeros((2, 2), np.float32)), "images": images},
    )
    inputs = raw_inputs(list(features.values()), {}, tables)
    assert example_row(list(features.values()), without_users(settings, tables), inputs) == {
        "user_id": "example1", "friends": ["example1", "example2"], "face": "example1", "author": "example1",
        "topic": "t0", "image": "p0",
    }  # fmt: skip


def test_the_assets_are_the_tokens_and_what_the_inputs_are(saved: Saved) -> None:
    assets = saved.folder / "user_tower_raw" / "assets"
    assert {path.name for path in assets.iterdir()} == {
        "inputs.json", "vocabulary_user_id.txt", "vocabulary_item_id.txt", "vocabulary_topic_id.txt",
        "vectors_post.txt",
    }  # fmt: skip
    assert (assets / "vocabulary_item_id.txt").read_text().splitlines() == TOKENS["item_id"]
    described = json.loads((assets / "inputs.json").read_text())["inputs"]
    assert described == {name: given.model_dump() for name, given in saved.raw["user"].inputs.items()}


@pytest.mark.parametrize("saved", ["inline"], indirect=True)
def test_a_raw_tower_needs_tensorflow_alone(saved: Saved, tmp_path: Path) -> None:
    request = saved.raw["user"].example
    folder = str(saved.folder / "user_tower_raw")
    done = subprocess.run(
        [sys.executable, "-c", SERVER, folder, json.dumps(request)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": ""},
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["alone"]
    np.testing.assert_allclose(result["vector"], LoadedRawTower(folder).vectors([request]), atol=1e-6)
