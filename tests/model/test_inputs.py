from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from dssm.errors import UserError
from dssm.features import AnyFeature, VarLenSparseFeat
from dssm.model.inputs import FeatureBlock, Lookups, feature_blocks, tower_columns, tower_inputs
from dssm.model.layers import FrozenVectors
from dssm.sections import VectorTable
from tests.model import reference, tower_reference
from tests.model.tiny import assert_same_slopes, draw_lists, make_features, precision, values_by_name

VECTORS = {name: VectorTable(path="v.json", width=2, storage=name) for name in ("inline", "table")}
MATRIX = np.array([[1, 2], [30, 40], [500, 600]], np.float32)
LIST = {"kind": "VarLenSparseFeat", "side": "user", "dim": 3, "maxlen": 4}
FEATURES = make_features(
    age={"kind": "DenseFeat", "side": "user"},
    user_id={"kind": "SparseFeat", "side": "user", "dim": 3},
    clicked={**LIST, "share_embedding": "user_id", "combiner": "max"},
    liked={**LIST, "weighted": True, "combiner": "sqrtn"},
    read={**LIST, "encoder": {"kind": "cnn", "filters": 5, "order": "newest_last"}, "weighted": True},
    seen={**LIST, "encoder": "lstm", "entry_dropout": 0.5},
    image={"kind": "DenseFeat", "side": "user", "pre_embed": "inline"},
    cover={"kind": "DenseFeat", "side": "user", "pre_embed": "table"},
    images={"kind": "DenseFeat", "side": "user", "pre_embed": "table", "reduce_type": "mean", "maxlen": 3},
    thumb={"kind": "DenseFeat", "side": "user", "pre_embed": "table", "projection": 4},
    item_id={"kind": "SparseFeat", "side": "item", "dim": 3},
)
USER = {name: feature for name, feature in FEATURES.items() if feature.side == "user"}
IDS = np.array([[3, 0, 4, 0], [0, 0, 0, 0], [5, 5, 2, 6]], np.int32)
WEIGHTS = np.array([[0.5, 9, 2, 9], [9, 9, 9, 9], [1, 0.25, 3, 1]], np.float32)


def _blocks(
    features: dict[str, AnyFeature], vectors: dict[str, VectorTable] = VECTORS, matrix: np.ndarray = MATRIX
) -> tuple[dict[str, tf.Tensor], dict[str, FeatureBlock]]:
    tables = {
        name: tf.keras.layers.Embedding(
            9, 3, name=f"embedding_{name}", embeddings_initializer="normal", dtype="float32"
        )
        for name in ("user_id", "liked", "read", "seen")
    }
    inputs = tower_inputs(tower_columns(features, "user", vectors))
    blocks = feature_blocks(list(features.values()), inputs, Lookups(tables, {"table": FrozenVectors.of(matrix)}))
    return inputs, {block.name: block for block in blocks}


def _model(name: str) -> tf.keras.Model:
    inputs, blocks = _blocks({name: USER[name]})
    return tf.keras.Model(inputs, blocks[name].vector)


def test_columns_are_those_of_the_side_in_order():
    columns = tower_columns(FEATURES, "user", VECTORS)
    names = "age user_id clicked liked liked__weight read read__weight seen image cover images thumb"
    assert list(columns) == names.split()
    assert list(tower_columns(FEATURES, "item", VECTORS)) == ["item_id"]
    found = {name: (*tensor.shape[1:], tensor.dtype.name) for name, tensor in tower_inputs(columns).items()}
    assert {name: found[name] for name in ("age", "user_id", "liked", "liked__weight", "image", "images", "cover")} == {
        "age": ("float32",), "user_id": ("int32",), "liked": (4, "int32"), "liked__weight": (4, "float32"),
        "image": (2, "float32"), "images": (3, "int32"), "cover": ("int32",),
    }  # fmt: skip


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_blocks_have_the_features_names_and_widths(policy: str):
    with precision(policy):
        _, blocks = _blocks(USER)
    assert {name: block.width for name, block in blocks.items()} == {
        "age": 1, "user_id": 3, "clicked": 3, "liked": 3, "read": 5, "seen": 64, "image": 2, "cover": 2, "images": 2,
        "thumb": 4,
    }  # fmt: skip
    for name, feature in USER.items():
        if isinstance(feature, VarLenSparseFeat):
            assert feature.encoder.width(feature.dim) == blocks[name].width
    rounded = {name for name, block in blocks.items() if block.vector.dtype != tf.float32}
    assert rounded == (set() if policy == "float32" else {"read", "seen", "thumb"})


def test_a_number_is_a_column():
    assert _model("age")({"age": tf.constant([3.0, -1.0])}).numpy().tolist() == [[3], [-1]]


def test_an_id_is_its_embedding_and_a_list_their_combination():
    model = _model("user_id")
    table = model.get_layer("embedding_user_id").embeddings.numpy()
    np.testing.assert_array_equal(model({"user_id": tf.constant([4, 1])}), table[[4, 1]])
    model = _model("clicked")
    table = model.get_layer("embedding_user_id").embeddings.numpy()
    expected = reference.pooled(table[IDS], IDS, None, "max")
    np.testing.assert_allclose(model({"clicked": tf.constant(IDS)}), expected, rtol=1e-6)


def test_weights_reach_the_combiner_and_the_encoder():
    for name in ("liked", "read"):
        model = _model(name)
        made = model({name: tf.constant(IDS), f"{name}__weight": tf.constant(WEIGHTS)})
        embeddings = values_by_name(model.variables)[f"embedding_{name}/embeddings"][IDS]
        if name == "liked":
            expected = reference.pooled(embeddings, IDS, WEIGHTS, "sqrtn")
        else:
            encoder = FEATURES["read"].encoder
            weights = values_by_name(model.variables)
            expected = tower_reference.encoded(encoder, "read.encoder", weights, embeddings, IDS, WEIGHTS)
        np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)


def test_entries_are_dropped_in_training_alone():
    model, rows = _model("seen"), {"seen": tf.constant(np.tile(IDS, (10, 1)))}
    np.testing.assert_array_equal(model(rows), model(rows, training=False))
    assert np.abs(model(rows, training=True) - model(rows)).max() > 1e-4


def test_pretrained_vectors_are_taken_or_looked_up():
    given = tf.constant([[5.0, 6.0], [7.0, 8.0]])
    np.testing.assert_array_equal(_model("image")({"image": given}), given)
    np.testing.assert_array_equal(_model("cover")({"cover": tf.constant([3, 0])}), [[500, 600], [0, 0]])
    codes = tf.constant([[1, 0, 2], [0, 0, 0]])
    np.testing.assert_allclose(_model("images")({"images": codes}), [[15.5, 21], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize("storage", ["inline", "table"])
@pytest.mark.parametrize("reduce_type", ["none", "sum", "mean"])
@pytest.mark.parametrize("seed", range(3))
def test_projections_of_pretrained_vectors_and_their_gradients_against_numpy(storage: str, reduce_type: str, seed: int):
    """Of inline vectors by the column itself, too. Code 0 has no vector, and there is no bias."""
    random, codes = draw_lists(seed)
    codes, width = codes if reduce_type != "none" else codes[:, 0], int(random.integers(1, 6))
    matrix = random.normal(size=(3, width)).astype(np.float32)
    (feature,) = make_features(
        f={"kind": "DenseFeat", "side": "user", "pre_embed": storage, "projection": int(random.integers(1, 6))}
        | ({} if reduce_type == "none" else {"reduce_type": reduce_type, "maxlen": codes.shape[1]})
    ).values()
    vectors = {storage: VectorTable(path="v.json", width=width, storage=storage)}
    inputs, blocks = _blocks({"f": feature}, vectors, matrix)
    model = tf.keras.Model(inputs, blocks["f"].vector)
    looked_up = np.concatenate([np.zeros((1, width)), matrix])[codes]
    if reduce_type != "none":
        looked_up = reference.pooled(looked_up, codes, None, reduce_type)
    column = tf.Variable(looked_up if storage == "inline" else codes, dtype=model.input["f"].dtype)
    (kernel,) = model.trainable_variables
    moved = {"kernel": kernel} | ({"column": column} if storage == "inline" else {})
    factor = random.normal(size=(len(codes), feature.projection))
    with tf.GradientTape() as tape:
        made = model({"f": tf.convert_to_tensor(column)})
        total = tf.reduce_sum(made * factor)
    gradients = {name: gradient.numpy() for name, gradient in tape.gradient(total, moved).items()}
    place = {"kernel": kernel.numpy().astype(float), "column": looked_up}
    np.testing.assert_allclose(made, looked_up @ place["kernel"], rtol=1e-5, atol=1e-6)
    assert_same_slopes(gradients, lambda w: float(np.sum(factor * (w["column"] @ w["kernel"]))), place)


@pytest.mark.parametrize(
    ("columns", "made"), [(lambda e: e, r"\(None, 4, 3\)"), (lambda e: e[:, 0], r"\(None, 3\)")], ids=["list", "width"]
)
def test_an_encoder_that_makes_something_else_is_an_error_that_says_what(
    columns: Callable[[tf.Tensor], tf.Tensor], made: str, monkeypatch: pytest.MonkeyPatch
):
    class Other(tf.keras.layers.Layer):
        def call(self, embeddings: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
            return columns(embeddings)

    monkeypatch.setattr("dssm.model.encoders.cnn.build", lambda settings, dim, name: Other(name=name))
    expected = rf"^features\.read\.encoder: cnn made {made} of the list; expected \(None, 5\): a vector as wide as "
    with pytest.raises(UserError, match=expected):
        _model("read")
