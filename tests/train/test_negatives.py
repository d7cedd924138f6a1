"""Negatives that the samples bring: where their columns come from, and the loss with them, against float64 NumPy."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dssm.config import Settings
from dssm.errors import UserError
from dssm.manifest import (
    ITEM_INDEX,
    LABEL,
    NEGATIVES,
    WEIGHT,
    ColumnSpec,
    negatives_column,
    read_manifest,
    write_manifest,
)
from dssm.model.towers import tower_columns
from dssm.paths import RunPaths
from dssm.train.negatives import load_negatives, read_catalogue, step_negative_columns
from dssm.train.step import make_optimizer, make_step, mean_loss, training_rows
from tests.datasets import (
    ITEMS,
    NEGATIVE_KINDS,
    Rows,
    columns_of,
    make_catalogue,
    make_rows,
    make_settings,
    write_dataset,
    write_items,
    write_run,
)
from tests.model import reference
from tests.model.tiny import make_towers
from tests.train.tiny import FIXED_COLUMNS, make_negatives

pytestmark = pytest.mark.usefixtures("single_rank")

SETTINGS = make_settings("unused", negatives=NEGATIVE_KINDS, loss="weighted_bce", positive_weight=2.5)
DAYS = negatives_column("days")
FACTORS = (0.5, 0.5, 2.0)  # of the three places


def _rows(count: int = 8, padded: tuple[int, ...] = (2, 7), seed: int = 0) -> Rows:
    """Rows with negatives, of which some are not there; padding as the stream makes it."""
    rows = make_rows(SETTINGS, count, seed=seed)
    rows[NEGATIVES][np.flatnonzero(rows[LABEL])[0], 1] = -1
    for array in rows.values():
        array[list(padded)] = 0
    return rows


def _batch(rows: Rows) -> dict[str, tf.Tensor]:
    return {name: tf.constant(values) for name, values in rows.items()}


# What becomes of a batch -------------------------------------------------------------------------------


def test_negatives_stand_behind_the_rows_with_their_catalogue_rows_columns():
    rows, catalogue = _rows(), make_catalogue(SETTINGS)
    joined, number = make_negatives(SETTINGS).appended(_batch(rows))

    expected = [
        (row, place, rows[NEGATIVES][row, place])
        for row in range(8)
        for place in range(3)
        if rows[LABEL][row] > 0 and rows[WEIGHT][row] > 0 and rows[NEGATIVES][row, place] >= 0
    ]
    assert len(expected) > 6
    of_row, of_place, items = (np.array(values) for values in zip(*expected, strict=True))
    assert len(set(items)) > 3
    assert number.numpy().tolist() == [*range(8), *of_row]
    for name in FIXED_COLUMNS:
        np.testing.assert_array_equal(joined[name], np.concatenate([rows[name], catalogue[name][items]]))
    np.testing.assert_array_equal(joined["days"], np.concatenate([rows["days"], rows[DAYS][of_row, of_place]]))
    np.testing.assert_array_equal(joined[LABEL], np.concatenate([rows[LABEL], np.zeros(len(items))]))
    weights = rows[WEIGHT][of_row] * np.array(FACTORS, np.float32)[of_place]
    np.testing.assert_array_equal(joined[WEIGHT], np.concatenate([rows[WEIGHT], weights]))


@pytest.mark.parametrize("why", ["padding", "no positive", "no weight", "none was found"])
def test_rows_without_negatives(why: str):
    rows = _rows(padded=())
    if why == "padding":
        rows = {name: np.zeros_like(values) for name, values in rows.items()}  # index 0 is an item
    elif why == "none was found":
        rows[NEGATIVES][:] = -1
    else:
        rows[NEGATIVES][:] = 3
        rows[LABEL if why == "no positive" else WEIGHT][:] = 0
    joined, number = make_negatives(SETTINGS).appended(_batch(rows))
    assert number.numpy().tolist() == list(range(8))
    for name in (*FIXED_COLUMNS, "days", LABEL, WEIGHT):
        np.testing.assert_array_equal(joined[name], rows[name])


# The loss ----------------------------------------------------------------------------------------------


class _TableTowers:
    """Towers whose vectors are plain: a row of a table, and for items `days` times a direction besides."""

    DIRECTION = np.array([0.3, -0.2, 0.1], np.float32)

    def __init__(self) -> None:
        drawn = np.random.default_rng(9)
        self.users = tf.Variable(drawn.normal(size=(12, 3)).astype(np.float32))
        self.items = tf.Variable(drawn.normal(size=(20, 3)).astype(np.float32))
        self.user = self._tower(["user_id"], lambda of: tf.gather(self.users, of["user_id"]))
        self.item = self._tower(
            ["item_id", "days"], lambda of: tf.gather(self.items, of["item_id"]) + of["days"][:, None] * self.DIRECTION
        )

    @staticmethod
    def _tower(inputs: list[str], vectors: Any) -> Any:
        class Tower(SimpleNamespace):
            def __call__(self, columns: dict[str, tf.Tensor], training: bool) -> tf.Tensor:
                assert training
                return vectors(columns)

        return Tower(input=dict.fromkeys(inputs))


def _expected(users: np.ndarray, items: np.ndarray, rows: Rows) -> float:
    catalogue, direction = make_catalogue(SETTINGS), _TableTowers.DIRECTION.astype(float)
    negatives: list[list[tuple[np.ndarray, float]]] = [[] for _ in rows[LABEL]]
    for (row, place), item in np.ndenumerate(rows[NEGATIVES]):
        if item >= 0 and rows[LABEL][row] > 0:
            vector = items[catalogue["item_id"][item]] + float(rows[DAYS][row, place]) * direction
            negatives[row].append((vector, FACTORS[place]))
    return reference.bce_with_negatives(
        users[rows["user_id"]], items[rows["item_id"]] + np.outer(rows["days"], direction), rows[LABEL], rows[WEIGHT],
        negatives, temperature=SETTINGS.model.temperature, positive_weight=2.5,
    )  # fmt: skip


def _loss_and_gradients(rows: Rows) -> tuple[float, np.ndarray, np.ndarray]:
    towers = _TableTowers()
    with tf.GradientTape() as tape:
        examples, users, items = training_rows(towers, _batch(rows), make_negatives(SETTINGS))
        loss = mean_loss(SETTINGS.model, SETTINGS.train, examples, users, items)
    gradients = tape.gradient(loss, [towers.users, towers.items])
    return float(loss), *(tf.convert_to_tensor(gradient).numpy() for gradient in gradients)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_with_negatives_and_its_gradients(seed: int):
    rows, towers = _rows(seed=seed), _TableTowers()
    loss, by_users, by_items = _loss_and_gradients(rows)
    users, items = towers.users.numpy(), towers.items.numpy()
    assert loss == pytest.approx(_expected(users, items, rows), rel=1e-5)
    for found, slope in (
        (by_users, reference.slope(lambda x: _expected(x, items, rows), users)),
        (by_items, reference.slope(lambda x: _expected(users, x, rows), items)),
    ):
        np.testing.assert_allclose(found, slope, rtol=1e-4, atol=3e-5)
        assert np.abs(slope).max() > 0.01


def test_the_weight_of_negatives_counts_in_the_mean():
    """One positive of weight 2 and its negative of weight 1, both of score 0: the mean of w₊ log 2 and log 2."""
    rows = _rows(padded=(1, 2, 3, 4, 5, 6, 7))
    rows[LABEL][0], rows[WEIGHT][0] = 1, 2
    rows[NEGATIVES][0] = [4, -1, -1]
    joined, _ = make_negatives(SETTINGS).appended(_batch(rows))
    zeros = tf.zeros((9, 3))
    found = mean_loss(SETTINGS.model, SETTINGS.train, joined, zeros, zeros)
    assert float(found) == pytest.approx((2 * 2.5 + 1) / 3 * np.log(2), rel=1e-6)


def test_a_place_without_a_negative_changes_nothing():
    rows = _rows(padded=())
    rows[NEGATIVES][:, 2] = -1
    found = _loss_and_gradients(rows)
    rows[DAYS][rows[NEGATIVES] < 0] = np.nan
    first = {name: kind for name, kind in NEGATIVE_KINDS.items() if name == "any"}
    fewer = make_settings("unused", negatives=first, loss="weighted_bce", positive_weight=2.5)
    two = {**rows, NEGATIVES: rows[NEGATIVES][:, :2], DAYS: rows[DAYS][:, :2]}
    towers = _TableTowers()
    with tf.GradientTape() as tape:
        examples, users, items = training_rows(towers, _batch(two), make_negatives(fewer))
        loss = mean_loss(fewer.model, fewer.train, examples, users, items)
    expected = [loss, *map(tf.convert_to_tensor, tape.gradient(loss, [towers.users, towers.items]))]
    for again in (found, _loss_and_gradients(rows)):
        for one, other in zip(again, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_positives_without_any_negative_have_the_loss_without_negatives():
    rows = _rows()
    rows[NEGATIVES][:] = -1
    loss, by_users, by_items = _loss_and_gradients(rows)
    towers = _TableTowers()
    with tf.GradientTape() as tape:
        examples, users, items = training_rows(towers, _batch(rows), None)
        plain = mean_loss(SETTINGS.model, SETTINGS.train, examples, users, items)
    assert loss == float(plain)
    for found, gradient in zip((by_users, by_items), tape.gradient(plain, [towers.users, towers.items]), strict=True):
        np.testing.assert_array_equal(found, tf.convert_to_tensor(gradient))


def test_steps_with_negatives_lower_the_loss_that_they_report():
    settings = make_settings("unused", negatives=NEGATIVE_KINDS, loss="weighted_bce", learning_rate=0.05)
    towers, batch, negatives = make_towers(settings), _batch(_rows()), make_negatives(settings)
    step = make_step(settings.model, settings.train, towers, make_optimizer(settings.train), negatives)
    before = mean_loss(settings.model, settings.train, *training_rows(towers, batch, negatives))
    losses = [float(step(batch)) for _ in range(20)]
    assert losses[0] == pytest.approx(float(before), rel=1e-5)
    assert losses[-1] < 0.7 * losses[0]


def test_a_step_takes_batches_with_and_without_negatives():
    towers, negatives = make_towers(SETTINGS), make_negatives(SETTINGS)
    step = make_step(SETTINGS.model, SETTINGS.train, towers, make_optimizer(SETTINGS.train), negatives)
    batches = [_rows(), _rows(padded=tuple(range(8))), _rows(seed=3)]
    losses = [float(step(_batch(rows))) for rows in batches]
    assert losses[1] == 0.0
    assert np.isfinite(losses).all()


# Reading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["inline", "table"])
def test_the_catalogue_is_read_in_the_order_of_its_indexes(tmp_path: Path, storage: str):
    settings = make_settings(tmp_path, storage=storage)
    expected = write_items(settings)
    folder = RunPaths(settings.run_folder).part("items")
    columns = tower_columns(settings.features, "item", settings.vectors)
    found = read_catalogue(folder, read_manifest(folder, "build_samples"), columns)
    assert list(found) == list(columns) == [*FIXED_COLUMNS, "days"]
    for name, spec in columns.items():
        assert found[name].dtype == spec.dtype
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("index", [0, -1, ITEMS])
def test_a_catalogue_with_an_index_missing_is_refused(tmp_path: Path, index: int):
    settings = make_settings(tmp_path)
    rows = make_catalogue(settings)
    rows[ITEM_INDEX][4] = index
    folder, columns = f"{tmp_path}/items", {ITEM_INDEX: ColumnSpec(dtype="int32")}
    manifest = write_dataset(folder, settings, [rows], "items", columns)
    with pytest.raises(UserError) as caught:
        read_catalogue(folder, manifest, {})
    assert str(caught.value) == f"{folder}: the item indexes are not 0…{ITEMS - 1}; run build_samples again"


def _loaded(settings: Settings) -> Any:
    columns = tower_columns(settings.features, "item", settings.vectors)
    return load_negatives(settings, RunPaths(settings.run_folder).part("items"), columns, build="tiny")


def test_negatives_from_the_written_catalogue_are_those_of_the_drawn_one(tmp_path: Path):
    settings = make_settings(tmp_path, negatives=NEGATIVE_KINDS, loss="weighted_bce")
    write_items(settings)
    batch = _batch(_rows())
    found, number = _loaded(settings).appended(batch)
    expected, of_expected = make_negatives(settings).appended(batch)
    assert found.keys() == expected.keys()
    np.testing.assert_array_equal(number, of_expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_settings_without_negatives_read_no_catalogue(tmp_path: Path):
    settings = write_run(tmp_path)
    folder = RunPaths(settings.run_folder).part("train")
    assert load_negatives(settings, f"{tmp_path}/none", {}, build="tiny") is None
    assert step_negative_columns(settings, read_manifest(folder, "build_samples"), folder) == {}


def test_a_catalogue_of_another_build_is_refused(tmp_path: Path):
    settings = make_settings(tmp_path, negatives=NEGATIVE_KINDS, loss="weighted_bce")
    write_items(settings, build="other")
    with pytest.raises(UserError) as caught:
        _loaded(settings)
    assert str(caught.value) == (
        f"{RunPaths(settings.run_folder).part('items')}: of build other, but the training samples are of build tiny, "
        "whose negatives are indexes of its own catalogue; run build_samples again"
    )


def test_samples_with_other_negatives_are_refused(tmp_path: Path):
    settings = write_run(tmp_path, negatives=NEGATIVE_KINDS, loss="weighted_bce")
    folder = RunPaths(settings.run_folder).part("train")
    manifest = read_manifest(folder, "build_samples")
    packed = {name: spec for name, spec in columns_of(settings).items() if name in (NEGATIVES, DAYS)}
    assert step_negative_columns(settings, manifest, folder) == packed

    more = {**NEGATIVE_KINDS, "any": {"kind": "uniform", "count": 5}}
    with pytest.raises(UserError) as caught:
        step_negative_columns(make_settings(tmp_path, negatives=more, loss="weighted_bce"), manifest, folder)
    assert str(caught.value) == (
        f"samples.negatives: {folder}: column 'row__negatives': found int32[3] packed, the settings expect "
        "int32[6] packed; run build_samples again with these settings"
    )
    without = {name: spec for name, spec in manifest.columns.items() if name != DAYS}
    write_manifest(folder, manifest.model_copy(update={"columns": without}))
    with pytest.raises(UserError, match=r"^samples.negatives: .* column 'days__negatives': found none"):
        step_negative_columns(settings, read_manifest(folder, "build_samples"), folder)
