from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.model.layers import EntryDropout, FrozenVectors, Pooling, SqueezeExcitation, UnitNorm
from tests.model import reference
from tests.model.tiny import assert_same_slopes, draw_lists, precision

IDS = np.array([[2, 3, 4, 5], [2, 2, 0, 0], [0, 0, 0, 0], [0, 4, 0, 3], [1, 0, 0, 0]], np.int32)
COMBINERS = ["sum", "mean", "sqrtn", "max"]


def _drawn() -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and weights that are not 0 where the ids are padding."""
    random = np.random.default_rng(5)
    embeddings = random.normal(size=(*IDS.shape, 3)).astype(np.float32)
    return embeddings, random.uniform(0.1, 2, IDS.shape).astype(np.float32)


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_pooling_and_its_gradients_against_numpy(combiner: str, weighted: bool, seed: int):
    random, ids = draw_lists(seed)
    values = {"table": random.normal(size=(4, random.integers(1, 6))), "weights": random.uniform(0.1, 2, ids.shape)}
    variables = {name: tf.Variable(drawn, dtype=tf.float32) for name, drawn in values.items()}
    factor = random.normal(size=(len(ids), values["table"].shape[1]))
    with tf.GradientTape() as tape:
        weights = tf.convert_to_tensor(variables["weights"]) if weighted else None
        found = Pooling(combiner)(tf.gather(variables["table"], ids), ids=tf.constant(ids), weights=weights)
        total = tf.reduce_sum(found * factor)
    moved = variables if weighted else {"table": variables["table"]}
    gradients = {name: tf.convert_to_tensor(g).numpy() for name, g in tape.gradient(total, moved).items()}
    place = {name: variable.numpy().astype(float) for name, variable in variables.items()}

    def pooled(w: dict[str, np.ndarray]) -> np.ndarray:
        return reference.pooled(w["table"][ids], ids, w["weights"] if weighted else None, combiner)

    np.testing.assert_allclose(found, pooled(place), rtol=1e-5, atol=1e-6)
    assert_same_slopes(gradients, lambda w: float(np.sum(factor * pooled(w))), place)


@pytest.mark.parametrize(
    ("combiner", "expected"),
    [("sum", [5, -2]), ("mean", [5 / 1.4, -2 / 1.4]), ("sqrtn", [5, -2]), ("max", [3, 1])],
)
def test_pooling_at_literal_values(combiner: str, expected: list[float]):
    """Weights 0.6 and 0.8 (Σw² = 1) on (5, −5) and (2.5, 1.25), then padding of weight 9."""
    embeddings = tf.constant([[[5.0, -5.0], [2.5, 1.25], [50.0, 50.0]]])
    found = Pooling(combiner)(embeddings, ids=tf.constant([[3, 4, 0]]), weights=tf.constant([[0.6, 0.8, 9.0]]))
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=5), st.lists(st.integers(0, 5), max_size=4), st.sampled_from(COMBINERS))
def test_more_padding_changes_nothing(ids: list[int], places: list[int], combiner: str):
    table = np.random.default_rng(1).normal(size=(10, 3)).astype(np.float32)
    padded = list(ids)
    for place in places:
        padded.insert(place, 0)
    weights = {0: 7.0, **{number: number / 4 for number in range(1, 10)}}
    one, other = (
        Pooling(combiner)(
            tf.constant(table[listed])[None],
            ids=tf.constant([listed], tf.int32),
            weights=tf.constant([[weights[number] for number in listed]], tf.float32),
        )
        for listed in (np.array([*ids, 0]), np.array([*padded, 0]))
    )
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def test_pooling_under_mixed_precision_takes_float32_weights():
    embeddings, weights = _drawn()
    with precision("mixed_bfloat16"):
        layer = Pooling("mean")
    found = layer(tf.constant(embeddings), ids=tf.constant(IDS), weights=tf.constant(weights))
    assert found.dtype == tf.bfloat16
    expected = reference.pooled(embeddings, IDS, weights, "mean")
    np.testing.assert_allclose(tf.cast(found, tf.float32), expected, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("weighted", [False, True])
def test_padding_gets_no_gradient_and_an_empty_list_no_nan(combiner: str, weighted: bool):
    embeddings, weights = _drawn()
    variable = tf.Variable(embeddings)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(Pooling(combiner)(variable, ids=tf.constant(IDS), weights=weights if weighted else None))
    gradient = tape.gradient(total, variable).numpy()
    np.testing.assert_array_equal(gradient[IDS == 0], 0.0)
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).sum(axis=(1, 2)) > 0).tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("combiner", COMBINERS)
def test_a_list_of_weights_0_gives_zeros_and_no_gradient(combiner: str):
    """Between lists of other weights, which have theirs."""
    embeddings, weights = _drawn()
    weights[1] = 0
    variable = tf.Variable(embeddings)
    with tf.GradientTape() as tape:
        found = Pooling(combiner)(variable, ids=tf.constant(IDS), weights=tf.constant(weights))
        total = tf.reduce_sum(found)
    np.testing.assert_array_equal(found[1], np.zeros(3))
    np.testing.assert_allclose(found, reference.pooled(embeddings, IDS, weights, combiner), rtol=1e-5, atol=1e-6)
    gradient = tape.gradient(total, variable).numpy()
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).sum(axis=(1, 2)) > 0).tolist() == [True, False, False, True, True]


def test_the_maximum_of_negative_embeddings_is_not_the_padding():
    found = Pooling("max")(tf.constant([[[-2.0], [-1.0], [0.0]]]), ids=tf.constant([[3, 4, 0]]))
    assert found.numpy().tolist() == [[-1.0]]


def test_pooling_is_rebuilt_from_its_config():
    assert Pooling.from_config(Pooling("sqrtn", name="p").get_config()).combiner == "sqrtn"


MATRIX = np.array([[1.0, 2.0], [30.0, 40.0], [500.0, 600.0]], np.float32)


def test_frozen_vectors_at_literal_codes():
    layer = FrozenVectors.of(MATRIX, name="v")
    found = layer(tf.constant([[1, 3], [0, 2]]))
    np.testing.assert_array_equal(found, [[[1, 2], [500, 600]], [[0, 0], [30, 40]]])
    np.testing.assert_array_equal(layer(tf.constant([2, 0])), [[30, 40], [0, 0]])


def test_frozen_vectors_are_not_trained():
    layer = FrozenVectors.of(MATRIX, name="v")
    assert layer.trainable_weights == []
    assert [variable.name for variable in layer.weights] == ["v/table:0"]
    with tf.GradientTape() as tape:
        found = layer(tf.constant([1, 2]))
    assert tape.gradient(found, layer.table) is None


def test_a_table_without_rows_has_the_code_0_alone():
    layer = FrozenVectors.of(np.zeros((0, 3), np.float32))
    np.testing.assert_array_equal(layer(tf.constant([0])), np.zeros((1, 3)))


def test_frozen_vectors_are_rebuilt_from_config_and_weights():
    layer = FrozenVectors.of(MATRIX)
    again = FrozenVectors.from_config(layer.get_config())
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(tf.constant([3])), [[500, 600]])


def test_frozen_vectors_stay_float32_under_mixed_precision():
    with precision("mixed_bfloat16"):
        layer = FrozenVectors.of(MATRIX + np.float32(1 / 1024))
    np.testing.assert_array_equal(layer(tf.constant([3])), MATRIX[2:] + np.float32(1 / 1024))


@pytest.mark.parametrize(
    ("reduce_type", "expected"),
    [("sum", [[31, 42], [1000, 1200], [0, 0]]), ("mean", [[15.5, 21], [500, 600], [0, 0]])],
)
def test_an_id_without_a_vector_does_not_shrink_the_mean_of_the_others(reduce_type: str, expected: list[list[float]]):
    codes = tf.constant([[1, 0, 2, 0], [3, 3, 0, 0], [0, 0, 0, 0]])
    found = Pooling(reduce_type)(FrozenVectors.of(MATRIX)(codes), ids=codes)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_unit_norm():
    found = UnitNorm()(tf.constant([[3.0, 4.0], [0.0, 0.0], [-1e-3, 0.0]])).numpy()
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]], rtol=1e-6)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt(np.sum(vectors**2, axis=1, keepdims=True))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 3), (7, 2)])
def test_the_gradient_of_the_unit_norm_is_across_the_vector(shape: tuple[int, int]):
    random = np.random.default_rng(shape[0])
    vectors, factor = random.normal(size=shape).astype(np.float32), random.normal(size=shape)
    variable = tf.Variable(vectors)
    with tf.GradientTape() as tape:
        made = UnitNorm()(tf.convert_to_tensor(variable))
        total = tf.reduce_sum(made * factor)
    np.testing.assert_allclose(made, _unit(vectors.astype(float)), rtol=1e-6)
    gradient = tape.gradient(total, variable).numpy()
    slope = reference.slope(lambda v: float(np.sum(factor * _unit(v))), vectors)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.sum(gradient * vectors, axis=1), 0, atol=1e-5)


def test_zeros_get_no_gradient_of_the_unit_norm():
    vectors = tf.Variable([[0.0, 0.0], [3.0, 4.0], [3e-7, 4e-7]])
    with tf.GradientTape() as tape:
        unit = UnitNorm()(tf.convert_to_tensor(vectors))
        total = tf.reduce_sum(unit * [[1.0, 2.0], [1.0, 0.0], [1.0, 2.0]])
    np.testing.assert_allclose(unit.numpy(), [[0, 0], [0.6, 0.8], [0.3, 0.4]], rtol=1e-6)
    short = [1e6, 2e6]  # a tower that begins with such vectors can move
    np.testing.assert_allclose(tape.gradient(total, vectors).numpy(), [[0, 0], [0.128, -0.096], short], rtol=1e-5)


def test_entry_dropout_leaves_its_share_out_in_training_alone():
    tf.keras.utils.set_random_seed(5)
    layer, ids = EntryDropout(0.3), tf.constant(np.random.default_rng(5).integers(1, 9, (200, 50)), tf.int32)
    np.testing.assert_array_equal(layer(ids), ids)
    np.testing.assert_array_equal(layer(ids, training=False), ids)
    kept = layer(ids, training=True).numpy()
    np.testing.assert_array_equal(kept[kept > 0], ids.numpy()[kept > 0])
    assert abs(np.mean(kept == 0) - 0.3) < 0.02  # 4 deviations of 10,000 draws
    assert len({row.tobytes() for row in kept == 0}) == 200  # each row draws its own


def test_layers_are_rebuilt_from_their_configs():
    assert EntryDropout.from_config(EntryDropout(0.3).get_config()).rate == 0.3
    again = SqueezeExcitation.from_config(SqueezeExcitation(2, 0.1).get_config())
    assert (again.units, again.deviation) == (2, 0.1)
