from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dssm.config import Settings
from dssm.features import of_side
from dssm.manifest import encoded_columns
from dssm.model.towers import TwoTowers, build_towers, tower_columns
from tests.datasets import SIZES, WIDTHS, make_rows, make_settings

SETTINGS = make_settings("unused")
USER_COLUMNS = ["user_id", "age", "clicked", "liked", "liked__weight"]
ITEM_COLUMNS = ["item_id", "topic_id", "image"]


def _towers(settings: Settings = SETTINGS) -> TwoTowers:
    tf.keras.utils.set_random_seed(1)
    return build_towers(settings.model, settings.features, SIZES, WIDTHS)


@pytest.fixture(scope="module")
def towers() -> TwoTowers:
    return _towers()


def test_inputs_are_the_encoded_columns(towers: TwoTowers):
    for tower, side, names in ((towers.user, "user", USER_COLUMNS), (towers.item, "item", ITEM_COLUMNS)):
        assert list(tower.input) == list(tower_columns(SETTINGS.features, side, WIDTHS)) == names
        for feature in of_side(SETTINGS.features, side):
            for name, spec in encoded_columns(feature, WIDTHS).items():
                assert tower.input[name].shape == (None, *spec.shape)
                assert tower.input[name].dtype == spec.dtype


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
    towers = _towers()
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
    user = _towers(noisy).user
    rows = make_rows(SETTINGS, 30, seed=4)
    inputs = {name: rows[name] for name in user.input}
    np.testing.assert_array_equal(user(inputs, training=False), user(inputs, training=False))
    assert np.abs(user(inputs, training=True) - user(inputs, training=True)).max() > 1e-3
