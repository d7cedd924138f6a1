"""Towers over the features of tests/datasets.py, and a model folder that holds them untrained."""

from __future__ import annotations

import tensorflow as tf

from dssm.config import Settings
from dssm.manifest import MANIFEST
from dssm.model.export import save_tower, weights_digest
from dssm.model.manifest import ModelManifest
from dssm.model.towers import TwoTowers, build_towers, tower_columns
from dssm.paths import RunPaths
from dssm.storage import write_text
from tests.datasets import SIZES, VECTORS, VOCABULARIES


def make_towers(settings: Settings, seed: int = 1) -> TwoTowers:
    """Builds towers whose weights depend on the seed alone."""
    tf.keras.utils.set_random_seed(seed)
    return build_towers(settings.model, settings.features, SIZES, settings.vectors, {"post": VECTORS})


def write_model(settings: Settings, samples_build: str = "tiny") -> ModelManifest:
    """Writes the run's model/ as `train` leaves it, with the weights of `make_towers`."""
    towers, folder = make_towers(settings), RunPaths(settings.run_folder).model
    for name, tower in (("user_tower", towers.user), ("item_tower", towers.item)):
        save_tower(tower, f"{folder}/{name}")
    user_columns, item_columns = (tower_columns(settings.features, side, settings.vectors) for side in ("user", "item"))
    manifest = ModelManifest(
        model_version=weights_digest(towers.variables), date=settings.date.isoformat(), samples_build=samples_build,
        vocabularies=VOCABULARIES, frozen_vectors=list(towers.frozen),
        user_columns=user_columns, item_columns=item_columns, vector_dim=settings.model.vector_dim,
        ranks=1, epochs=1, steps=1, rows_per_epoch=1, rows_per_s=1.0, loss=[1.0], auc=[None],
    )  # fmt: skip
    write_text(f"{folder}/{MANIFEST}", manifest.model_dump_json())
    return manifest
