"""Each kind of tower against its formula, over features of several widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from pydantic import TypeAdapter

from dssm.model.batch_norm import rows_of_batch
from dssm.model.inputs import FeatureBlock
from dssm.model.towers import TowerContext
from dssm.sections import Tower, TowerKind
from tests.model import tower_reference
from tests.model.tiny import assert_same_slopes, redraw, values_by_name

VECTOR_DIM = 4
WIDTHS = {"user_id": 4, "age": 1, "clicked": 3}

HEADS = {
    "kind": "parallel",
    "channels": {
        "deep": {"layers": [3], "activation": "tanh", "residual": ["user_id"]},
        "wide": {"kind": "fm", "dim": 2},
    },
}
KINDS: dict[str, dict[str, Any]] = {
    "dnn": {"layers": [5, 3], "activation": "tanh"},
    "dnn without layers": {"layers": []},
    "dnn of every option": {
        "layers": [5, 3],
        "activation": ["prelu", "gelu"],
        "last_activation": "tanh",
        "batch_norm": True,
        "residual": ["user_id"],
    },
    "dnn with dice": {"layers": [5, 3], "activation": "dice", "last_activation": "dice"},
    "senet": {"kind": "senet", "layers": [5], "activation": "tanh", "reduction": 2},
    "fm": {"kind": "fm"},
    "fm of another width": {"kind": "fm", "dim": 3},
    "cross": {"kind": "cross"},
    "cross of low rank": {"kind": "cross", "depth": 3, "rank": 2},
    "parallel": {
        "kind": "parallel",
        "channels": {"deep": {"layers": [3], "activation": "elu"}, "x": "cross", "wide": "fm"},
    },
    "parallel of senet": {
        "kind": "parallel",
        "channels": {"weighed": {"kind": "senet", "layers": [5], "activation": "tanh", "reduction": 2}, "wide": "fm"},
    },
    "multi_objective": {
        "kind": "multi_objective",
        "shared": {"layers": [5], "activation": "swish", "batch_norm": True},
        "head": {"layers": [3], "activation": "sigmoid"},
    },
    "multi_objective of senet and parallel": {
        "kind": "multi_objective",
        "shared": {"kind": "senet", "layers": [5], "activation": "tanh"},
        "head": HEADS,
    },
    "parallel of multi_objective": {
        "kind": "parallel",
        "channels": {
            "heads": {
                "kind": "multi_objective", "shared": {"layers": [5], "activation": "tanh"}, "head": {"layers": []},
            },
            "wide": "fm",
        },
    },
}  # fmt: skip


def _settings(described: dict[str, Any]) -> TowerKind:
    return TypeAdapter(Tower).validate_python(described)


@dataclass(frozen=True)
class Batch:
    """Features of any widths; `real`: which rows are no padding."""

    features: dict[str, np.ndarray]
    real: list[bool]

    @property
    def vector_dim(self) -> int:
        return self.features["user_id"].shape[1]  # which a residual adds

    @property
    def widths(self) -> dict[str, int]:
        return {name: values.shape[1] for name, values in self.features.items()}


def _drawn(seed: int) -> Batch:
    """One row of seed 0; of others several, of which the last is the first once more and the second is padding."""
    random = np.random.default_rng(seed)
    rows = 1 if seed == 0 else int(random.integers(5, 9))
    names = ["user_id", *(f"other{number}" for number in range(random.integers(1, 5)))]
    features = {name: random.normal(0.5, 1, (rows, random.integers(2, 7))).astype(np.float32) for name in names}
    features["other0"] = features["other0"][:, :1]
    for values in features.values():
        values[-1] = values[0]
    return Batch(features, [row != 1 for row in range(rows)])


def _built(
    settings: TowerKind,
    objectives: Sequence[str],
    unit_norm: bool = True,
    widths: Mapping[str, int] = WIDTHS,
    vector_dim: int = VECTOR_DIM,
) -> tf.keras.Model:
    inputs = {name: tf.keras.Input((width,), name=name) for name, width in widths.items()}
    blocks = [FeatureBlock(name, tensor) for name, tensor in inputs.items()]
    context = TowerContext(
        name="user",
        setting="model.user_tower",
        objectives=tuple(objectives),
        vector_dim=vector_dim,
        unit_norm=unit_norm,
        features={block.name: block for block in blocks},
        penalties=[],
    )
    model = tf.keras.Model(inputs, settings.build(blocks, context))
    redraw(model.variables)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_vectors_and_gradients_against_numpy(kind: str, training: bool, seed: int):
    settings, batch = _settings(KINDS[kind]), _drawn(seed)
    objectives = ["click", "like"] if "multi_objective" in kind else ["label"]
    model = _built(settings, objectives, kind != "senet", batch.widths, batch.vector_dim)
    features = {name: tf.Variable(values, name=name) for name, values in batch.features.items()}
    rows, width = len(batch.real), settings.width(batch.vector_dim)
    # Rows of padding get vectors too, in training of no meaning: nothing may depend on them.
    factors = {o: np.random.default_rng(ord(o[0])).normal(size=(rows, width)) for o in objectives}
    factors = {o: np.where(np.array(batch.real)[:, None], f, 0) for o, f in factors.items()}
    place = values_by_name(model.variables) | {name: values.astype(float) for name, values in batch.features.items()}

    def vectors(w: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return tower_reference.tower(
            settings,
            {name: w[name] for name in features},
            w,
            name="user",
            objectives=objectives,
            vector_dim=batch.vector_dim,
            unit_norm=kind != "senet",
            real=batch.real if training else None,
        )

    with rows_of_batch(tf.constant(batch.real), lambda value, _: value), tf.GradientTape() as tape:
        made = model({name: tf.convert_to_tensor(v) for name, v in features.items()}, training=training)
        total = tf.add_n([tf.reduce_sum(made[o] * factors[o]) for o in objectives])
    moved = features | {v.name.removesuffix(":0"): v for v in model.trainable_variables}
    gradients = {name: gradient.numpy() for name, gradient in tape.gradient(total, moved).items()}
    assert list(made) == objectives
    for objective, expected in vectors(place).items():
        assert expected.shape == (rows, width)
        np.testing.assert_allclose(made[objective], expected, rtol=1e-4, atol=1e-4)
    assert_same_slopes(gradients, lambda w: float(sum(np.sum(factors[o] * v) for o, v in vectors(w).items())), place)
    silent = [name for name, gradient in gradients.items() if np.abs(gradient).max() < 1e-5]
    if rows > 1:  # a row alone is its own mean
        assert silent == (_before_norm(kind) if training else [])  # else zeros would be compared with zeros


def _before_norm(kind: str) -> list[str]:
    """Biases that batch statistics take out again."""
    return {
        "dnn of every option": ["user.dense_1/bias", "user.dense_2/bias"],
        "multi_objective": ["user.dense_1/bias"],
    }.get(kind, [])


@pytest.mark.slow
@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_the_product_of_parallel_vectors_is_the_sum_of_the_channels_similarities(cosine: bool, seed: int):
    settings = _settings(KINDS["parallel"])
    assert (settings.width(VECTOR_DIM), settings.unit_vectors()) == (3 * VECTOR_DIM, 3)
    drawn = [_drawn(seed), _drawn(seed + 10)]
    user, item = (_built(settings, ["label"], cosine, batch.widths) for batch in drawn)
    count = min(len(batch.real) for batch in drawn)
    rows = [{name: values[:count] for name, values in batch.features.items()} for batch in drawn]
    users, items = (model(columns)["label"].numpy() for model, columns in zip((user, item), rows, strict=True))
    channels = [
        tf.keras.Model(model.input, [model.get_layer(f"user.{name}.vector").output for name in ("deep", "x", "wide")])
        for model in (user, item)
    ]
    of_users, of_items = (model(columns) for model, columns in zip(channels, rows, strict=True))
    similarities = [np.sum(u.numpy() * v.numpy(), axis=1) for u, v in zip(of_users, of_items, strict=True)]
    if cosine:
        assert np.abs(similarities).max() <= 1 + 1e-6
        np.testing.assert_allclose(np.linalg.norm(users, axis=1), 3**0.5, rtol=1e-5)
    np.testing.assert_allclose(np.sum(users * items, axis=1), sum(similarities), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (1, 6), (5, 4)])
def test_the_product_of_fm_vectors_is_that_of_all_pairs_of_features(rows: int, width: int):
    """Rendle, ICDM 2010: Σᵢ Σⱼ ⟨eᵢ, eⱼ⟩ over the user's features i and the item's j."""
    user, item = (
        _built(_settings({"kind": "fm"}), ["label"], False, dict.fromkeys(names, width), width)
        for names in (("a", "b", "c"), ("d", "e"))
    )
    assert user.variables == item.variables == []
    random = np.random.default_rng(width)
    features = {name: random.normal(size=(rows, width)).astype(np.float32) for name in "abcde"}
    users, items = (model({n: features[n] for n in model.input})["label"].numpy() for model in (user, item))
    pairs = sum(np.sum(features[i] * features[j], axis=1) for i in "abc" for j in "de")
    np.testing.assert_allclose(np.sum(users * items, axis=1), pairs, rtol=1e-4, atol=1e-5)


def test_a_single_feature_is_enough_for_every_kind():
    for described in KINDS.values():
        if "residual" not in str(described):
            made = _built(_settings(described), ["label"], widths={"age": 1})({"age": tf.constant([[0.5], [2.0]])})
            assert np.isfinite(made["label"]).all()


@pytest.mark.parametrize(
    ("squeeze", "excite", "factors"),
    [
        ([1, 0], [2, -1], (2, 0)),  # the first's mean; the outer relu takes the second's factor
        ([0, 1], [-2, 3], (0, 0)),  # the second's mean is negative: the inner relu takes both
        ([0, -3], [2, 0.5], (6, 1.5)),
    ],
)
def test_features_of_means_1_and_minus_1_get_these_factors(squeeze: Any, excite: Any, factors: tuple[float, float]):
    model = _built(_settings(KINDS["senet"]), ["label"], widths={"a": 2, "b": 3})
    layer = model.get_layer("user.senet")
    layer.squeeze.assign(np.reshape(squeeze, (2, 1)))
    layer.excite.assign(np.reshape(excite, (1, 2)))
    one, other = layer([tf.constant([[0.0, 2.0]]), tf.constant([[-3.0, 0.0, 0.0]])])
    np.testing.assert_array_equal(one, [[0, 2 * factors[0]]])
    np.testing.assert_array_equal(other, [[-3 * factors[1], 0, 0]])


def test_initial_kernels_have_the_asked_deviation():
    tf.keras.utils.set_random_seed(1)
    described = {"kind": "senet", "layers": [300], "initial_deviation": 0.01, "reduction": 1}
    inputs = [FeatureBlock("a", tf.keras.Input((200,))), FeatureBlock("b", tf.keras.Input((100,)))]
    context = TowerContext("u", "model.user_tower", ("label",), 64, True, {}, [])
    model = tf.keras.Model([block.vector for block in inputs], _settings(described).build(inputs, context))
    for name in ("u.dense_1", "u.projection"):
        np.testing.assert_allclose(np.std(model.get_layer(name).kernel), 0.01, rtol=0.05)
    assert 0 < np.abs(model.get_layer("u.senet").squeeze).max() < 0.05


def test_heads_are_the_objectives_own_and_share_what_is_below():
    model = _built(_settings(KINDS["multi_objective"]), ["click", "like"])
    assert {name.removesuffix(":0") for name in (v.name for v in model.trainable_variables)} == {
        *(f"user.{part}" for part in ("dense_1/kernel", "dense_1/bias", "norm_1/gamma", "norm_1/beta")),
        *(
            f"user.{objective}.{layer}/{part}"
            for objective in ("click", "like")
            for layer in ("dense_1", "projection")
            for part in ("kernel", "bias")
        ),
    }
