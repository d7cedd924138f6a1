from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.encoders import AttentionPooling, Cnn, EncoderKind, Gru, Lstm, Pooling, Transformer
from dssm.model.encoders import pooling
from tests.model import reference, tower_reference
from tests.model.tiny import assert_same_slopes, draw_lists, precision, redraw, values_by_name

DIM, LONGEST = 4, 8
IDS = np.array(
    [[2, 3, 4, 5, 6], [3, 2, 0, 0, 0], [0, 0, 0, 0, 0], [0, 4, 0, 3, 4], [0, 0, 0, 0, 9], [7, 7, 7, 0, 0]], np.int32
)
KINDS: list[EncoderKind] = [
    AttentionPooling(units=3),
    AttentionPooling(units=3, heads=2),
    Cnn(filters=3),
    Cnn(filters=3, window=4, activation="relu", order="newest_last"),
    Cnn(filters=3, window=1),
    Lstm(units=3),
    Lstm(units=3, order="newest_last"),
    Gru(units=3),
    Transformer(hidden=3),
    Transformer(hidden=3, blocks=2, heads=1, order="newest_last"),
    Transformer(hidden=3, causal=False, pool="mean", heads=4),
    Transformer(hidden=3, causal=True, pool="mean"),
]
ORDERED = [kind for kind in KINDS if hasattr(kind, "order")]


def _name(kind: EncoderKind) -> str:
    return "-".join([kind.kind, *(str(getattr(kind, name)) for name in kind.changed(*type(kind).model_fields))])


each_kind = pytest.mark.parametrize("kind", KINDS, ids=_name)


@cache
def _layer(kind: EncoderKind) -> tf.keras.layers.Layer:
    """A layer with drawn weights, built for lists of up to LONGEST entries."""
    layer = kind.build(DIM, "encoder")
    layer(tf.zeros((1, LONGEST, DIM)), ids=tf.ones((1, LONGEST), tf.int32))
    redraw(layer.weights)
    return layer


def _drawn(shape: tuple[int, ...], seed: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and weights of entries; those of padding are no zeros."""
    random = np.random.default_rng(seed)
    return random.normal(size=(*shape, DIM)).astype(np.float32), random.uniform(0.2, 2, shape).astype(np.float32)


@pytest.mark.slow
@each_kind
@pytest.mark.parametrize("weighted", [False, True])
def test_values_and_gradients_against_numpy(kind: EncoderKind, weighted: bool):
    layer = _layer(kind)
    embeddings, weights = _drawn(IDS.shape)
    variables = {"embeddings": tf.Variable(embeddings), "weights": tf.Variable(weights)}
    factor = np.random.default_rng(6).normal(size=(len(IDS), kind.width(DIM)))
    with tf.GradientTape() as tape:
        given_weights = tf.convert_to_tensor(variables["weights"]) if weighted else None
        made = layer(tf.convert_to_tensor(variables["embeddings"]), ids=tf.constant(IDS), weights=given_weights)
        total = tf.reduce_sum(made * factor)
    moved = dict(variables if weighted else {"embeddings": variables["embeddings"]})
    moved |= {v.name.removesuffix(":0"): v for v in layer.trainable_weights}
    gradients = {name: tf.convert_to_tensor(g).numpy() for name, g in tape.gradient(total, moved).items()}

    def vectors(w: dict[str, np.ndarray]) -> np.ndarray:
        return tower_reference.encoded(kind, "encoder", w, w["embeddings"], IDS, w["weights"] if weighted else None)

    place = {**values_by_name(layer.weights), "embeddings": embeddings.astype(float), "weights": weights.astype(float)}
    np.testing.assert_allclose(made, vectors(place), rtol=1e-4, atol=1e-5)
    assert made.shape == (len(IDS), kind.width(DIM))
    assert_same_slopes(gradients, lambda w: float(np.sum(factor * vectors(w))), place)
    assert (gradients["embeddings"][IDS == 0] == 0).all()


@pytest.mark.slow
@each_kind
@pytest.mark.parametrize("seed", range(4))
def test_values_and_gradients_of_any_shape_out_of_a_table_of_few_rows(kind: EncoderKind, seed: int):
    """Weights are of zero and below, too."""
    random, ids = draw_lists(seed)
    dim = int(random.choice([4, 8]))
    layer = kind.build(dim, "encoder")
    layer(tf.zeros((1, ids.shape[1], dim)), ids=tf.ones((1, ids.shape[1]), tf.int32))
    redraw(layer.weights, seed)
    weights = np.where(random.random(ids.shape) < 0.2, 0, random.uniform(-1, 2, ids.shape))
    values = {
        "table": random.normal(size=(4, dim)).astype(np.float32),
        "entry_weights": weights.astype(np.float32),
        **values_by_name(layer.weights),
    }
    given = {name: tf.Variable(values[name]) for name in ("table", "entry_weights")}
    factor = random.normal(size=(len(ids), kind.width(dim)))
    with tf.GradientTape() as tape:
        entry_weights = tf.convert_to_tensor(given["entry_weights"])
        made = layer(tf.gather(given["table"], ids), ids=tf.constant(ids), weights=entry_weights)
        total = tf.reduce_sum(made * factor)
    moved = given | {v.name.removesuffix(":0"): v for v in layer.trainable_weights}
    slopes = tape.gradient(total, moved, unconnected_gradients="zero")
    gradients = {name: tf.convert_to_tensor(slope).numpy() for name, slope in slopes.items()}

    def vectors(at: dict[str, np.ndarray]) -> np.ndarray:
        return tower_reference.encoded(kind, "encoder", at, at["table"][ids], ids, at["entry_weights"])

    place = {name: value.astype(np.float64) for name, value in values.items()}
    np.testing.assert_allclose(made, vectors(place), rtol=1e-4, atol=1e-5)
    assert_same_slopes(gradients, lambda at: float(np.sum(factor * vectors(at))), place)


@each_kind
def test_an_empty_list_gives_zeros_whatever_its_embeddings_are(kind: EncoderKind):
    embeddings, weights = _drawn((3, 6))
    made = _layer(kind)(tf.constant(embeddings), ids=tf.zeros((3, 6), tf.int32), weights=tf.constant(weights))
    np.testing.assert_array_equal(made, np.zeros((3, kind.width(DIM))))


@pytest.mark.slow
@each_kind
@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.lists(st.booleans(), min_size=LONGEST, max_size=LONGEST).filter(lambda real: sum(real) <= 5),
        min_size=3,
        max_size=3,
    ),
    st.integers(0, 1000),
)
def test_padding_changes_nothing(kind: EncoderKind, places: list[list[bool]], seed: int):
    """Lists of up to five entries, stored at the front of five places, or anywhere among eight."""
    spread = np.array(places)
    ids = np.where(spread, np.random.default_rng(seed).integers(1, 9, spread.shape), 0).astype(np.int32)
    embeddings, weights = _drawn(spread.shape, seed)
    front = np.argsort(~spread, axis=1, kind="stable")[:, :5]
    compact = [np.take_along_axis(values, front, axis=1) for values in (ids, weights)]
    of_compact = np.take_along_axis(embeddings, front[:, :, None], axis=1)
    layer = _layer(kind)
    np.testing.assert_allclose(
        layer(tf.constant(embeddings), ids=tf.constant(ids), weights=tf.constant(weights)),
        layer(tf.constant(of_compact), ids=tf.constant(compact[0]), weights=tf.constant(compact[1])),
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip


UNORDERED = [*((Pooling(), combiner) for combiner in ("sum", "mean", "sqrtn", "max")), *((k, "") for k in KINDS[:2])]


@pytest.mark.parametrize(
    ("kind", "combiner"), UNORDERED, ids=lambda given: given or None if isinstance(given, str) else _name(given)
)
@settings(max_examples=15, deadline=None)
@given(st.permutations(range(5)))
def test_pooling_and_attention_know_no_order(kind: EncoderKind, combiner: str, order: list[int]):
    embeddings, weights = _drawn(IDS.shape)
    layer = pooling.build(kind, DIM, "pooling", combiner) if isinstance(kind, Pooling) else _layer(kind)
    one, other = (
        layer(tf.constant(embeddings[:, o]), ids=tf.constant(IDS[:, o]), weights=tf.constant(weights[:, o]))
        for o in (range(5), order)
    )
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ORDERED, ids=_name)
def test_a_list_stored_the_other_way_round_gives_the_same(kind: EncoderKind):
    layer, embeddings = _layer(kind), _drawn(IDS.shape)[0]
    other = kind.model_copy(update={"order": {"newest_first": "newest_last"}.get(kind.order, "newest_first")})
    turned = other.build(DIM, "encoder")
    turned(tf.zeros((1, LONGEST, DIM)), ids=tf.ones((1, LONGEST), tf.int32))
    turned.set_weights(layer.get_weights())
    made = layer(tf.constant(embeddings), ids=tf.constant(IDS))
    np.testing.assert_allclose(
        turned(tf.constant(embeddings[:, ::-1]), ids=tf.constant(IDS[:, ::-1])), made, rtol=1e-5, atol=1e-6
    )
    if getattr(kind, "window", 2) > 1 and getattr(kind, "causal", True):  # else the order matters little or not at all
        against = layer(tf.constant(embeddings[:, ::-1]), ids=tf.constant(IDS[:, ::-1]))
        assert np.abs(against - made).max() > 1e-3


@each_kind
def test_rows_do_not_see_each_other(kind: EncoderKind):
    layer, embeddings, order = _layer(kind), _drawn(IDS.shape)[0], [3, 0, 5, 1, 4, 2]
    made = layer(tf.constant(embeddings), ids=tf.constant(IDS)).numpy()
    permuted = layer(tf.constant(embeddings[order]), ids=tf.constant(IDS[order]))
    np.testing.assert_allclose(permuted, made[order], rtol=1e-5, atol=1e-6)
    alone = layer(tf.constant(embeddings[3:4]), ids=tf.constant(IDS[3:4]))
    np.testing.assert_allclose(alone, made[3:4], rtol=1e-5, atol=1e-6)


@each_kind
def test_a_layer_is_rebuilt_from_its_config(kind: EncoderKind):
    layer, embeddings = _layer(kind), _drawn(IDS.shape)[0]
    again = type(layer).from_config(layer.get_config())
    again(tf.zeros((1, LONGEST, DIM)), ids=tf.ones((1, LONGEST), tf.int32))
    assert [v.name for v in again.weights] == [v.name for v in layer.weights]
    again.set_weights(layer.get_weights())
    inputs = {"ids": tf.constant(IDS)}
    np.testing.assert_array_equal(again(tf.constant(embeddings), **inputs), layer(tf.constant(embeddings), **inputs))


@pytest.mark.slow
@each_kind
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_gives_nearly_the_same(kind: EncoderKind, policy: str):
    embeddings, weights = _drawn(IDS.shape)
    inputs = {"ids": tf.constant(IDS), "weights": tf.constant(weights)}
    with precision(policy):
        layer = kind.build(DIM, "encoder")
        layer(tf.zeros((1, LONGEST, DIM)), ids=tf.ones((1, LONGEST), tf.int32))
        layer.set_weights(_layer(kind).get_weights())
        made = tf.cast(layer(tf.constant(embeddings), **inputs), tf.float32)
    assert {variable.dtype for variable in layer.weights} == {tf.float32}
    np.testing.assert_allclose(made, _layer(kind)(tf.constant(embeddings), **inputs), rtol=0.1, atol=0.1)
    np.testing.assert_array_equal(made[2], np.zeros(kind.width(DIM)))


def test_convolution_windows_at_literal_values():
    """Filter: e of the older neighbour + 10 · own + 100 · the newer's; the list 1, 2, 3 is stored newest first."""
    layer = Cnn(filters=1, window=3, activation="relu").build(1, "cnn")
    embeddings = tf.constant([[[3.0], [77.0], [2.0], [1.0], [88.0]]])
    ids = tf.constant([[5, 0, 6, 7, 0]])
    layer(embeddings, ids=ids)
    for kernel, expected in (([0, 0, 1], 3.0), ([1, 0, 0], 2.0), ([0, 1, 0], 3.0), ([1, 10, 100], 321.0)):
        layer.set_weights([np.array(kernel, np.float32).reshape(3, 1, 1), np.zeros(1, np.float32)])
        assert layer(embeddings, ids=ids).numpy().tolist() == [[expected]]


def test_dropout_acts_in_training_alone():
    layer = Transformer(hidden=3, dropout=0.5).build(DIM, "encoder")
    embeddings, inputs = tf.constant(_drawn(IDS.shape)[0]), {"ids": tf.constant(IDS)}
    np.testing.assert_array_equal(layer(embeddings, **inputs), layer(embeddings, training=False, **inputs))
    noisy = layer(embeddings, training=True, **inputs)
    assert np.abs(noisy - layer(embeddings, **inputs)).max() > 1e-3
    np.testing.assert_array_equal(noisy[2], np.zeros(DIM))


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn", "max"])
def test_pooling_takes_the_features_combiner(combiner: str):
    embeddings, weights = _drawn(IDS.shape)
    layer = Pooling().build(DIM, "pooled", combiner=combiner)
    made = layer(tf.constant(embeddings), ids=tf.constant(IDS), weights=tf.constant(weights))
    expected = reference.pooled(embeddings, IDS, weights, combiner)
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)
    assert layer.name == "pooled"
