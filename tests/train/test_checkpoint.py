"""The state of a training goes to disk and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from dssm.train.checkpoint import restore_state, save_state
from dssm.train.step import make_optimizer, make_step
from tests.datasets import make_rows, make_settings
from tests.train.tiny import make_model

pytestmark = pytest.mark.usefixtures("single_rank")


def test_a_restored_training_steps_on_as_one_that_was_not_interrupted(tmp_path: Path):
    """Weights, the optimizer's moments and the streaming estimate: the next losses and weights are the same bits."""
    settings = make_settings("unused", loss={"logq": "streaming", "frequency": {"buckets": 64}}, optimizer="lazy_adam")
    batches = [{name: tf.constant(values) for name, values in make_rows(settings, 8, seed=n).items()} for n in range(4)]

    def training(seed: int):
        model = make_model(settings, seed)
        optimizer = make_optimizer(settings.train, 4, model)
        return model, optimizer, make_step(settings, model, optimizer)

    model, optimizer, step = training(seed=1)
    for batch in batches[:2]:
        step(batch, {})
    save_state(model, optimizer, str(tmp_path / "checkpoint"))
    other, other_optimizer, other_step = training(seed=2)
    restore_state(other, other_optimizer, str(tmp_path / "checkpoint"))

    assert int(other.frequencies["label"].step) == 2
    for batch in batches[2:]:
        assert float(step(batch, {})["loss"]) == float(other_step(batch, {})["loss"])
    for one, two in zip(model.variables, other.variables, strict=True):
        np.testing.assert_array_equal(one, two, err_msg=one.name)
