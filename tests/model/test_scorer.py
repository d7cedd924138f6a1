from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from dssm.model.scorer import build_scorer
from dssm.sections import Scorer
from tests.model.reference import scorer_logits, slope

SETTINGS = [Scorer(), Scorer(kind="shallow", layers=(5,)), Scorer(kind="shallow", layers=(6, 4))]
WIDTH = 3


def _vectors(rows: int = 4, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    users, items = np.random.default_rng(7).normal(size=(2, rows, width)).astype(np.float32)
    return users, items


def _built(settings: Scorer, width: int = WIDTH) -> tf.keras.Model:
    """Returns a scorer none of whose variables is 0."""
    random, model = np.random.default_rng(8), build_scorer(settings, width)
    for variable in model.variables:
        variable.assign(random.normal(size=variable.shape))
    return model


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (4, WIDTH), (6, 5)])
def test_the_logit_and_its_gradients(settings: Scorer, rows: int, width: int):
    model, (users, items) = _built(settings, width), (tf.Variable(v) for v in _vectors(rows, width))
    assert len(model.variables) == 2 + 2 * len(settings.layers) * (settings.kind == "shallow")
    with tf.GradientTape() as tape:
        logits = model([users, items])
        total = tf.reduce_sum(logits)
    by_user, by_item, by_parameter = tape.gradient(total, [users, items, model.trainable_variables])

    u, v, parameters = users.numpy(), items.numpy(), [variable.numpy() for variable in model.trainable_variables]
    assert logits.shape == (rows,)
    np.testing.assert_allclose(logits, scorer_logits(parameters, u, v), rtol=1e-4, atol=1e-5)
    close = {"rtol": 1e-3, "atol": 1e-4}
    np.testing.assert_allclose(by_user, slope(lambda x: scorer_logits(parameters, x, v).sum(), u), **close)
    np.testing.assert_allclose(by_item, slope(lambda x: scorer_logits(parameters, u, x).sum(), v), **close)
    for place, gradient in enumerate(by_parameter):

        def of_parameter(x: np.ndarray, place: int = place) -> float:
            return scorer_logits([*parameters[:place], x, *parameters[place + 1 :]], u, v).sum()

        np.testing.assert_allclose(gradient, slope(of_parameter, parameters[place]), **close)


@pytest.mark.parametrize("settings", SETTINGS)
def test_one_row_none_and_equal_vectors(settings: Scorer):
    model, (users, _) = _built(settings), (tf.Variable(v) for v in _vectors(rows=1))
    with tf.GradientTape() as tape:
        logits = model([users, users])
    assert logits.shape == (1,)
    assert np.isfinite(tape.gradient(logits, users)).all()  # |u − v| has a kink at 0
    assert model([users[:0], users[:0]]).shape == (0,)


def test_logistic_regression_learns_what_its_inputs_tell():
    """Labels by the sign of ⟨u, v⟩, which neither u nor v alone tells."""
    users, items = np.tile(np.random.default_rng(9).normal(size=(2, 400, WIDTH)), (1, 60, 1)).astype(np.float32)
    labels = ((users * items).sum(axis=1) > 0).astype(np.float32)
    tf.keras.utils.set_random_seed(0)
    model = build_scorer(Scorer(), WIDTH)
    model.compile(tf.keras.optimizers.Adam(0.1), tf.keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit([users, items], labels, batch_size=400, shuffle=False, verbose=0)
    assert ((model([users, items]).numpy() > 0) == labels).mean() > 0.95


def test_a_saved_scorer_gives_the_same_logits(tmp_path: Path):
    model, pair = _built(SETTINGS[1]), list(_vectors())
    model.save(tmp_path / "scorer.keras")
    loaded = tf.keras.models.load_model(tmp_path / "scorer.keras")
    np.testing.assert_array_equal(loaded(pair), model(pair))


def test_the_logit_is_float32_under_mixed_precision():
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        logits = build_scorer(SETTINGS[1], WIDTH)(list(_vectors()))
    finally:
        tf.keras.mixed_precision.set_global_policy(before)
    assert logits.dtype == tf.float32
