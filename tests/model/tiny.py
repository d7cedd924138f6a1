"""Towers over the features of tests/datasets.py, a model folder that holds them, and ways to compare layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from pydantic import TypeAdapter

from dssm.config import Settings
from dssm.features import AnyFeature, Feature
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


def write_model(settings: Settings, samples_build: str = "tiny", seed: int = 1) -> ModelManifest:
    """Writes the run's model/ as `train` leaves it, with the weights of `make_towers`."""
    towers, folder = make_towers(settings, seed), RunPaths(settings.run_folder).model
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


def vectors_of(
    tower: tf.keras.Model, rows: Mapping[str, np.ndarray], objective: str = "label", training: bool = False
) -> np.ndarray:
    """Returns the vectors of rows for one objective, (rows, width)."""
    return tower({name: rows[name] for name in tower.input}, training=training)[objective].numpy()


def make_features(**described: Mapping[str, Any]) -> dict[str, AnyFeature]:
    """Returns features by name, from what the settings say of each."""
    read = TypeAdapter(Feature).validate_python
    return {name: read({**values, "name": name}) for name, values in described.items()}


@contextmanager
def precision(policy: str) -> Iterator[None]:
    """Layers made inside compute as a Keras mixed-precision policy says."""
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


def draw_lists(seed: int, tokens: int = 4) -> tuple[np.random.Generator, np.ndarray]:
    """Draws lists of ids below `tokens`, so few that they repeat, with padding anywhere among them.

    Returns: what may draw the rest; ids (rows, entries) int32, of seed 0 one list of one entry, of others several
      lists, the first of which is empty.
    """
    random = np.random.default_rng(seed)
    if seed == 0:
        return random, random.integers(1, tokens, (1, 1)).astype(np.int32)
    shape = random.integers(2, 6), random.integers(2, 8)
    ids = np.where(random.random(shape) < 0.4, 0, random.integers(1, tokens, shape)).astype(np.int32)
    ids[0] = 0
    return random, ids


def redraw(variables: Iterable[tf.Variable], seed: int = 3) -> None:
    """Gives variables values of which none is 0 or 1: the initial biases and moving averages would hide errors."""
    random = np.random.default_rng(seed)
    for variable in variables:
        values = random.normal(scale=0.6, size=variable.shape)
        is_positive = "variance" in variable.name or "senet" in variable.name  # or features would fall silent
        variable.assign(np.abs(values) + 0.1 if is_positive else values)


def values_by_name(variables: Iterable[tf.Variable]) -> dict[str, np.ndarray]:
    """Returns the variables' values as float64, under their names without `:0`."""
    return {variable.name.removesuffix(":0"): variable.numpy().astype(np.float64) for variable in variables}


def assert_same_slopes(
    found: Mapping[str, np.ndarray], function: Callable[[dict[str, np.ndarray]], float], place: Mapping[str, np.ndarray]
) -> None:
    """Compares gradients with central differences of a function along random directions.

    Args:
      found: the gradient by each variable.
      function: of all of `place`.
      place: by name; those in `found` are moved, one at a time.
    """
    random, step = np.random.default_rng(17), 1e-5
    assert found
    for name, gradient in found.items():
        for _ in range(3):
            direction = random.normal(size=gradient.shape) / gradient.size**0.5
            ahead, behind = ({**place, name: place[name] + sign * step * direction} for sign in (1, -1))
            expected = (function(ahead) - function(behind)) / (2 * step)
            np.testing.assert_allclose(np.sum(gradient * direction), expected, rtol=2e-3, atol=1e-4, err_msg=name)
