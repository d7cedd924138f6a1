from __future__ import annotations

import numpy as np
import pytest

from dssm.config import Settings
from dssm.features import of_side
from dssm.manifest import encoded_columns
from dssm.model.towers import TwoTowers, build_towers, frozen_tables, tower_columns
from tests.datasets import SIZES, VECTORS, make_rows, make_settings
from tests.model.tiny import make_towers

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
        np.testing.assert_allclose(
            other({name: codes[name] for name in other.input}), one({name: inline[name] for name in one.input}),
            rtol=1e-5, atol=1e-6,
        )  # fmt: skip


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
        vectors = tower({name: rows[name] for name in tower.input}, training=False).numpy()
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
        return [t({n: rows[n] for n in t.input}, training=False).numpy() for t in (towers.user, towers.item)]

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
    user = towers.user
    np.testing.assert_array_equal(
        user({n: rows[n] for n in user.input}, training=False),
        user({n: changed[n] for n in user.input}, training=False),
    )


def test_dropout_acts_in_training_alone():
    model = SETTINGS.model
    noisy = SETTINGS.model_copy(
        update={"model": model.model_copy(update={"user_tower": model.user_tower.model_copy(update={"dropout": 0.5})})}
    )
    user = make_towers(noisy).user
    rows = make_rows(SETTINGS, 30, seed=4)
    inputs = {name: rows[name] for name in user.input}
    np.testing.assert_array_equal(user(inputs, training=False), user(inputs, training=False))
    assert np.abs(user(inputs, training=True) - user(inputs, training=True)).max() > 1e-3
