from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.config import Settings
from dssm.errors import UserError
from dssm.features import of_side
from dssm.manifest import encoded_columns
from dssm.model.batch_norm import rows_of_batch
from dssm.model.export import LoadedTower, save_tower
from dssm.model.inputs import tower_columns
from dssm.model.outputs import output_name
from dssm.model.towers import TwoTowers, build_towers, combined_vector, frozen_tables
from dssm.sections import Model
from dssm.sections.model import Dnn
from tests.datasets import SIZES, VECTORS, Rows, draw_features, make_rows, make_settings
from tests.model.tiny import make_features, make_towers, precision, redraw, vectors_of

SETTINGS = make_settings("unused")
WITH_TABLE = make_settings("unused", storage="table")
USER_COLUMNS = ["user_id", "age", "clicked", "liked", "liked__weight", "images"]
ITEM_COLUMNS = ["item_id", "topic_id", "image", "days"]


@pytest.fixture(scope="module")
def towers() -> TwoTowers:
    return make_towers(SETTINGS)


@pytest.fixture(scope="module")
def with_table() -> TwoTowers:
    return make_towers(WITH_TABLE)


@pytest.mark.parametrize("settings", [SETTINGS, WITH_TABLE], ids=["inline", "table"])
def test_inputs_are_the_encoded_columns(settings: Settings):
    towers = make_towers(settings)
    for tower, side, names in ((towers.user, "user", USER_COLUMNS), (towers.item, "item", ITEM_COLUMNS)):
        assert list(tower.input) == list(tower_columns(settings.features, side, settings.vectors)) == names
        for feature in of_side(settings.features, side):
            for name, spec in encoded_columns(feature, settings.vectors).items():
                assert tower.input[name].shape == (None, *spec.shape)
                assert tower.input[name].dtype == spec.dtype


def test_towers_with_a_frozen_table_take_row_numbers(with_table: TwoTowers):
    assert (with_table.item.input["image"].shape, with_table.item.input["image"].dtype) == ((None,), "int32")
    assert (with_table.user.input["images"].shape, with_table.user.input["images"].dtype) == ((None, 3), "int32")


def test_row_numbers_give_what_the_vectors_themselves_give(towers: TwoTowers, with_table: TwoTowers):
    inline, codes = make_rows(SETTINGS, 40, seed=6), make_rows(WITH_TABLE, 40, seed=6)
    assert (codes["images"] == 0).any()
    assert (codes["image"] == 0).any()
    for side in ("user", "item"):
        one, other = getattr(towers, side), getattr(with_table, side)
        np.testing.assert_allclose(vectors_of(other, codes), vectors_of(one, inline), rtol=1e-5, atol=1e-6)


def test_a_frozen_table_is_one_variable_that_no_training_changes(towers: TwoTowers, with_table: TwoTowers):
    table = with_table.frozen["post"].table
    np.testing.assert_array_equal(table[1:], VECTORS)
    for tower in (with_table.user, with_table.item):
        assert sum(variable is table for variable in tower.variables) == 1
    assert sum(variable is table for variable in with_table.variables) == 1
    names = [variable.name for variable in towers.trained_variables]
    assert len(names) == len(towers.variables) == 11
    assert [variable.name for variable in with_table.trained_variables] == names
    assert [variable.name for variable in with_table.trainable_variables] == names


def test_only_tables_that_a_feature_uses_are_held():
    assert frozen_tables(SETTINGS.features, SETTINGS.vectors) == []
    assert frozen_tables(WITH_TABLE.features, WITH_TABLE.vectors) == ["post"]
    others = {name: f for name, f in WITH_TABLE.features.items() if name not in ("image", "images")}
    assert frozen_tables(others, WITH_TABLE.vectors) == []
    assert build_towers(WITH_TABLE.model, others, SIZES, WITH_TABLE.vectors).frozen == {}


def test_vectors_have_unit_norm(towers: TwoTowers):
    rows = make_rows(SETTINGS, 50, seed=2)
    for tower in (towers.user, towers.item):
        vectors = vectors_of(tower, rows)
        assert vectors.shape == (50, SETTINGS.model.vector_dim)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_features_that_share_a_vocabulary_share_one_variable(towers: TwoTowers):
    names = sorted(variable.name for variable in towers.variables)
    assert [name for name in names if "embedding" in name] == [
        "embedding_item_id/embeddings:0",
        "embedding_topic_id/embeddings:0",
        "embedding_user_id/embeddings:0",
    ]
    assert len({variable.ref() for variable in towers.variables}) == len(towers.variables)
    shared = {v.ref() for v in towers.user.variables} & {v.ref() for v in towers.item.variables}
    assert sorted(ref.deref().name for ref in shared) == [
        "embedding_item_id/embeddings:0",
        "embedding_topic_id/embeddings:0",
    ]


def test_a_row_of_a_shared_table_moves_both_towers():
    towers = make_towers(SETTINGS)
    rows = make_rows(SETTINGS, 1, seed=2)
    rows["clicked"][:] = [[3, 0, 0, 0, 0]]
    rows["item_id"][:] = 3

    def vectors() -> list[np.ndarray]:
        return [vectors_of(tower, rows) for tower in (towers.user, towers.item)]

    (table,) = (v for v in towers.variables if v.name == "embedding_item_id/embeddings:0")
    before = vectors()
    table.scatter_nd_update([[4]], [[9.0] * 4])
    for old, new in zip(before, vectors(), strict=True):
        np.testing.assert_array_equal(old, new)
    table.scatter_nd_update([[3]], [[9.0] * 4])
    for old, new in zip(before, vectors(), strict=True):
        assert np.abs(old - new).max() > 1e-3


def test_padding_and_its_weights_never_count(towers: TwoTowers):
    rows = make_rows(SETTINGS, 20, seed=4)
    changed = {**rows, "liked__weight": np.where(rows["liked"] == 0, np.float32(7), rows["liked__weight"])}
    np.testing.assert_array_equal(vectors_of(towers.user, rows), vectors_of(towers.user, changed))


def _with_model(**changes: Any) -> Settings:
    return SETTINGS.model_copy(update={"model": Model.model_validate({**SETTINGS.model.model_dump(), **changes})})


def test_dropout_acts_in_training_alone():
    user = make_towers(_with_model(user_tower={"layers": [8], "dropout": 0.5})).user
    rows = make_rows(SETTINGS, 30, seed=4)
    np.testing.assert_array_equal(vectors_of(user, rows), vectors_of(user, rows))
    assert np.abs(vectors_of(user, rows, training=True) - vectors_of(user, rows, training=True)).max() > 1e-3


@pytest.mark.parametrize("embedding", [{}, {"placement": "sharded", "min_rows": 1}], ids=["replicated", "sharded"])
@pytest.mark.parametrize("deviation", [None, 0.01, 2.0])
def test_embeddings_begin_with_the_asked_deviation(embedding: dict[str, Any], deviation: float | None):
    """Without it, with 1/√dim."""
    model = _with_model(embedding=embedding, embedding_deviation=deviation).model
    tf.keras.utils.set_random_seed(1)
    towers = build_towers(model, SETTINGS.features, dict.fromkeys(SIZES, 5000), SETTINGS.vectors)
    assert len(towers.sharded) == (len(SIZES) if embedding else 0)
    for table in towers.embeddings:
        expected = deviation or table.shape[1] ** -0.5
        np.testing.assert_allclose(np.std(table), expected, rtol=0.05)  # 8 deviations of 15,000 draws
        assert abs(np.mean(table)) < 0.05 * expected


def test_without_objectives_there_is_the_label(towers: TwoTowers):
    assert list(towers.user.output) == list(towers.item.output) == ["label"]


def test_features_may_be_named_as_parts_of_a_tower():
    names = ["user_vector", "user_features", "user_dense_1", "user_projection", "a_pooling"]
    lists = {"kind": "VarLenSparseFeat", "side": "user", "share_embedding": "item_id", "dim": 4}
    features = make_features(
        **{name: {"kind": "DenseFeat", "side": "user"} for name in names},
        a=lists,
        item_id={"kind": "SparseFeat", "side": "item", "dim": 4},
    )
    towers = build_towers(SETTINGS.model, features, SIZES, {})
    assert list(towers.user.input) == [*names, "a"]


def test_a_tower_without_heads_has_one_vector_for_all_objectives():
    heads = {"kind": "multi_objective", "shared": {"layers": [6]}, "head": {"layers": [4]}}
    both = make_towers(_with_model(user_tower=heads, objectives={"click": {}, "like": {}}))
    rows = make_rows(SETTINGS, 9)
    assert list(both.user.output) == list(both.item.output) == ["click", "like"]
    np.testing.assert_array_equal(vectors_of(both.item, rows, "click"), vectors_of(both.item, rows, "like"))
    assert np.abs(vectors_of(both.user, rows, "click") - vectors_of(both.user, rows, "like")).max() > 0.1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 4), min_size=2, max_size=3).filter(any), st.integers(0, 99))
def test_the_combined_vectors_product_is_the_sum_of_the_objectives(shares: list[float], seed: int):
    random = np.random.default_rng(seed)
    users, items = (
        {str(n): tf.constant(random.normal(size=(4, 3 + n)), tf.float32) for n in range(len(shares))} for _ in range(2)
    )
    by_name = {str(n): share for n, share in enumerate(shares)}
    expected = sum(share * (users[name].numpy() @ items[name].numpy().T) for name, share in by_name.items())
    one, other = (combined_vector(vectors, by_name).numpy() for vectors in (users, items))
    np.testing.assert_allclose(one @ other.T, expected, rtol=1e-4, atol=1e-4)
    assert one.shape[1] == sum(3 + n for n, share in enumerate(shares) if share > 0)


def test_penalties_are_of_each_kernel_once_with_the_towers_strength():
    channels = {"deep": {"kind": "senet", "layers": [6, 4], "l2": 0.5}, "wide": {"kind": "fm", "dim": 3, "l2": 0.25}}
    cross = {
        "kind": "parallel",
        "channels": {"deep": {"kind": "cross", "rank": 2, "l2": 2.0}, "wide": {"kind": "fm", "dim": 3}},
    }
    found = make_towers(_with_model(user_tower={"kind": "parallel", "channels": channels}, item_tower=cross)).penalties
    assert [(variable.name.removesuffix(":0"), strength) for variable, strength in found] == [
        ("user.deep.senet/squeeze", 0.5),
        ("user.deep.senet/excite", 0.5),
        *((f"user.deep.{layer}/kernel", 0.5) for layer in ("dense_1", "dense_2", "projection")),
        *((f"user.wide.projection_{name}/kernel", 0.25) for name in ("user_id", "age", "clicked", "images")),
        *((f"item.deep.{layer}/kernel", 2.0) for layer in ("narrow_1", "cross_1", "narrow_2", "cross_2", "projection")),
    ]
    assert make_towers(SETTINGS).penalties == ()


def test_penalties_of_tables_are_the_models_or_their_features_own():
    own = {"user_id": 0.0, "topic_id": 2.0}
    features = {
        name: f.model_copy(update={"l2": own.get(name)}) for name, f in SETTINGS.features.items() if hasattr(f, "l2")
    }
    towers = make_towers(
        _with_model(embedding_l2=0.5).model_copy(update={"features": {**SETTINGS.features, **features}})
    )
    found = {variable.ref(): strength for variable, strength in towers.penalties}
    strengths = {name: found.pop(table.embeddings.ref(), None) for name, table in towers.tables.items()}
    assert not found
    assert strengths == dict.fromkeys(towers.tables, 0.5) | {"user_id": None, "topic_id": 2.0}
    assert len(strengths) > 2


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"user_tower": {"residual": ["clickd"]}},
            r"model\.user_tower\.residual: this side has no feature 'clickd' \(did you mean 'clicked'\?\)",
        ),
        ({"user_tower": {"residual": ["topic_id"]}}, r"user_tower\.residual: this side has no feature 'topic_id'"),
        (
            {"item_tower": {"residual": ["item_id"]}},
            r"model\.item_tower\.residual: 'item_id' is 4 wide, and is added to a vector of model\.vector_dim 5; "
            "expected the same width",
        ),
        (
            {
                "user_tower": {"kind": "parallel", "channels": {"a": {"residual": ["liked"]}}},
                "item_tower": {"kind": "parallel", "channels": {"a": {}}},
            },
            r"model\.user_tower\.channels\.a\.residual: 'liked' is 3 wide",
        ),
        (
            {
                "user_tower": {"kind": "multi_objective", "head": {"residual": ["liked"]}},
                "objectives": {"click": {}},
            },
            r"model\.user_tower\.head\.residual: 'liked' is 3 wide",
        ),
    ],
)  # fmt: skip
def test_a_residual_that_does_not_fit_is_an_error_that_names_it(model: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        make_towers(_with_model(**model))


def test_a_builder_that_gives_something_else_is_an_error_that_says_what(monkeypatch: pytest.MonkeyPatch):
    def narrow(settings: Dnn, features: Any, context: Any) -> Any:
        return {"label": tf.keras.layers.Dense(2)(features[0].vector)}

    monkeypatch.setattr("dssm.model.towers.dnn.build", narrow)
    expected = r"model\.user_tower: its builder made .*\(None, 2\).*; expected \{'label': \(\(None, 5\), 'float32'\)\}"
    with pytest.raises(UserError, match=expected):
        make_towers(SETTINGS)


# Every kind of layer that there is: the user tower of the tests below.
LISTS = {"kind": "VarLenSparseFeat", "side": "user", "dim": 4, "maxlen": 5, "share_embedding": "item_id"}
EVERY_FEATURE = make_features(
    user_id={"kind": "SparseFeat", "side": "user", "dim": 3},
    age={"kind": "DenseFeat", "side": "user"},
    pooled={**LISTS, "weighted": True, "combiner": "sqrtn", "entry_dropout": 0.2},
    attended={**LISTS, "weighted": True, "encoder": {"kind": "attention", "units": 3, "heads": 2}},
    windows={**LISTS, "encoder": {"kind": "cnn", "filters": 3}},
    states={**LISTS, "encoder": {"kind": "lstm", "units": 3}},
    gated={**LISTS, "encoder": {"kind": "gru", "units": 3}},
    blocks={**LISTS, "encoder": {"kind": "transformer", "hidden": 3, "dropout": 0.2}},
    images={"kind": "DenseFeat", "side": "user", "pre_embed": "post", "reduce_type": "mean", "maxlen": 3},
    image={"kind": "DenseFeat", "side": "user", "pre_embed": "post", "projection": 2},
    item_id={"kind": "SparseFeat", "side": "item", "dim": 4},
)
SHARED = {"kind": "senet", "layers": [6, 5], "activation": ["dice", "prelu"], "batch_norm": True, "dropout": 0.2}
DEEP = {"layers": [5], "last_activation": "dice", "residual": ["pooled"]}
CROSS = {"kind": "cross", "rank": 2}
EVERY_MODEL = Model.model_validate(
    {
        "vector_dim": 4,
        "objectives": {"click": {}, "like": {}},
        "user_tower": {
            "kind": "multi_objective",
            "shared": SHARED,
            "head": {"kind": "parallel", "channels": {"deep": DEEP, "wide": "fm", "cross": CROSS}},
        },
        "item_tower": {"kind": "parallel", "channels": {"deep": "dnn", "wide": "fm", "cross": "cross"}},
    }
)


def _every_tower(policy: str = "float32") -> tf.keras.Model:
    with precision(policy):
        towers = build_towers(EVERY_MODEL, EVERY_FEATURE, SIZES, WITH_TABLE.vectors, {"post": VECTORS})
    redraw(towers.trained_variables)
    return towers.user


@pytest.fixture(scope="module")
def every() -> tf.keras.Model:
    return _every_tower()


def _every_row(count: int) -> Rows:
    own = [feature for feature in EVERY_FEATURE.values() if feature.side == "user"]
    return draw_features(WITH_TABLE, own, count, np.random.default_rng(5))


@pytest.mark.slow
def test_a_saved_tower_of_every_layer_gives_the_same_vectors(every: tf.keras.Model, tmp_path: Path):
    save_tower(every, f"{tmp_path}/tower", {"click": 1.0, "like": 1.0})
    loaded = LoadedTower(f"{tmp_path}/tower")
    for count in (1, 7):
        rows = _every_row(count)
        found = loaded.all_vectors(rows)
        for objective in ("click", "like"):
            expected = vectors_of(every, rows, objective)
            np.testing.assert_allclose(found[output_name(objective)], expected, rtol=1e-5, atol=1e-5)


def test_rows_in_another_order_give_the_vectors_in_that_order(every: tf.keras.Model):
    rows, order = _every_row(8), np.array([4, 2, 7, 0, 1, 6, 5, 3])
    permuted = {name: values[order] for name, values in rows.items()}
    for objective in ("click", "like"):
        made = vectors_of(every, rows, objective)
        assert np.abs(made - made[order]).max() > 0.1
        np.testing.assert_allclose(vectors_of(every, permuted, objective), made[order], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_vectors_of_mixed_precision_are_float32_of_unit_norm_and_nearly_the_same(every: tf.keras.Model):
    rows, mixed = _every_row(8), _every_tower("mixed_bfloat16")
    computed = {layer.name for layer in mixed.layers if layer.compute_dtype == "bfloat16"}
    assert {"user.dense_1", "user.like.cross.cross_1", "windows.encoder", "blocks.encoder"} < computed
    assert {variable.dtype for variable in mixed.variables} == {tf.float32}
    for objective in ("click", "like"):
        made, exact = (vectors_of(tower, rows, objective) for tower in (mixed, every))
        assert made.dtype == np.float32
        parts, exact_parts = (vectors.reshape(8, 3, 4) for vectors in (made, exact))
        np.testing.assert_allclose(np.linalg.norm(parts, axis=2), 1.0, atol=1e-6)
        assert np.sum(parts * exact_parts, axis=2).min() > 0.9
    gradients = _gradients(mixed, rows)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


def test_without_unit_norm_the_vectors_are_float32_as_well():
    with precision("mixed_bfloat16"):
        towers = make_towers(_with_model(similarity="inner_product"))
    rows = make_rows(SETTINGS, 6)
    made = vectors_of(towers.user, rows)
    assert made.dtype == np.float32
    assert np.abs(np.linalg.norm(made, axis=1) - 1).max() > 0.01


def _gradients(tower: tf.keras.Model, rows: Rows) -> dict[str, np.ndarray]:
    with tf.GradientTape() as tape:
        made = tower({name: rows[name] for name in tower.input}, training=True)
        total = tf.add_n([tf.reduce_sum(vectors[:, ::2]) for vectors in made.values()])
    gradients = tape.gradient(total, tower.trainable_variables)
    return {
        variable.name: tf.convert_to_tensor(gradient).numpy()
        for variable, gradient in zip(tower.trainable_variables, gradients, strict=True)
    }


def test_padding_rows_change_nothing_in_training():
    """Neither the other rows' vectors, nor any gradient, nor a moving average."""
    settings = _with_model(
        user_tower={"layers": [6, 5], "activation": ["dice", "tanh"], "batch_norm": True, "last_activation": "dice"}
    )
    rows, more = make_rows(SETTINGS, 9), make_rows(SETTINGS, 4, seed=77)
    padded = {name: np.concatenate([values, more[name]]) for name, values in rows.items()}
    found = []
    for batch, count in ((rows, 9), (padded, 13)):
        tower = make_towers(settings).user
        redraw(tower.variables)
        real = tf.range(count) < 9
        with rows_of_batch(real, lambda value, _: value), tf.GradientTape() as tape:
            made = tower({name: batch[name] for name in tower.input}, training=True)["label"]
            total = tf.reduce_sum(tf.boolean_mask(made, real)[:, ::2])
        gradients = [tf.convert_to_tensor(g).numpy() for g in tape.gradient(total, tower.trainable_variables)]
        found.append([made.numpy()[:9], *gradients, *(variable.numpy() for variable in tower.non_trainable_variables)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
    assert len(found[0]) == 1 + 15 + 8
