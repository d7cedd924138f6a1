"""The switch of mixed precision, from the settings to the vectors of the saved towers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dssm.config import Settings
from dssm.model.export import LoadedTower
from dssm.model.two_tower import TwoTowerModel
from dssm.paths import RunPaths
from dssm.train import worker
from dssm.train.launch import train
from tests.datasets import make_rows, write_run
from tests.model.tiny import precision

pytestmark = pytest.mark.slow


def test_the_switch_rounds_the_layers_between_and_leaves_the_vectors_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    make, policies = worker.make_step, []

    def noting(settings: Settings, model: TwoTowerModel, *others: Any) -> Any:
        computed = {layer.name: layer.compute_dtype for layer in model.user.layers}
        policies.append((tf.keras.mixed_precision.global_policy().name, computed["user.dense_1"]))
        assert {variable.dtype for variable in model.trainable_variables} == {tf.float32}
        return make(settings, model, *others)

    monkeypatch.setattr(worker, "make_step", noting)
    vectors = {}
    for mixed in (True, False):
        settings = write_run(tmp_path / str(mixed), mixed_precision=mixed)
        with precision("float32"):  # which the worker sets for the whole process
            train(settings)
        for side in ("user", "item"):
            tower = LoadedTower(f"{RunPaths(settings.run_folder).model}/{side}_tower")
            vectors[mixed, side] = tower.vectors(make_rows(settings, 20))
    assert policies == [("mixed_bfloat16", "bfloat16"), ("float32", "float32")]
    for side in ("user", "item"):
        rounded, exact = vectors[True, side], vectors[False, side]
        assert rounded.dtype == np.float32
        assert np.isfinite(rounded).all()
        np.testing.assert_allclose(np.linalg.norm(rounded, axis=1), 1.0, atol=1e-6)
        assert 1e-4 < np.abs(rounded - exact).max() < 0.1
