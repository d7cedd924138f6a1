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
    NEGATIVE_PROBABILITY,
    NEGATIVES,
    WEIGHT,
    ColumnSpec,
    negatives_column,
    read_manifest,
    write_manifest,
)
from dssm.model.inputs import tower_columns
from dssm.paths import RunPaths
from dssm.train.negatives import SampledNegatives, load_negatives, read_catalogue, step_negative_columns
from dssm.train.scores import encode
from dssm.train.step import loss_shares, make_optimizer, make_step, total_loss
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
from tests.train.tiny import FIXED_COLUMNS, make_model, make_negatives

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("single_rank")]

SETTINGS = make_settings("unused", negatives=NEGATIVE_KINDS, loss={"kind": "weighted_bce", "positive_weight": 2.5})
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


def test_negatives_have_their_catalogue_rows_columns():
    rows, catalogue = _rows(), make_catalogue(SETTINGS)
    drawn = make_negatives(SETTINGS).drawn(_batch(rows))

    expected = [
        (row, place, rows[NEGATIVES][row, place])
        for row in range(8)
        for place in range(3)
        if rows[LABEL][row] > 0 and rows[WEIGHT][row] > 0 and rows[NEGATIVES][row, place] >= 0
    ]
    assert len(expected) > 6
    of_row, of_place, items = (np.array(values) for values in zip(*expected, strict=True))
    assert len(set(items)) > 3
    np.testing.assert_array_equal(drawn.places, np.stack([of_row, of_place], axis=1))
    assert sorted(drawn.columns) == sorted([*FIXED_COLUMNS, "days"])
    for name in FIXED_COLUMNS:
        np.testing.assert_array_equal(drawn.columns[name], catalogue[name][items])
    np.testing.assert_array_equal(drawn.columns["days"], rows[DAYS][of_row, of_place])
    there = np.zeros((8, 3), bool)
    there[of_row, of_place] = True
    np.testing.assert_array_equal(drawn.there, there)
    np.testing.assert_array_equal(drawn.probability, rows[NEGATIVE_PROBABILITY])
    np.testing.assert_allclose(drawn.weight, FACTORS)
    assert drawn.kinds == (2, 1)


def test_a_negative_is_scored_with_its_rows_user():
    rows, random = _rows(), np.random.default_rng(2)
    drawn = make_negatives(SETTINGS).drawn(_batch(rows))
    users, items = random.normal(size=(8, 3)), random.normal(size=(len(drawn.places), 3))
    found = drawn.beside(tf.constant(users, tf.float32), tf.constant(items, tf.float32), temperature=0.5)
    expected = np.zeros((8, 3))
    for (row, place), item in zip(drawn.places.numpy(), items, strict=True):
        expected[row, place] = users[row] @ item / 0.5
    np.testing.assert_allclose(found.logits, expected, rtol=1e-5)
    np.testing.assert_array_equal(found.drawn, drawn.there)


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
    drawn = make_negatives(SETTINGS).drawn(_batch(rows))
    assert len(drawn.places) == 0
    assert not drawn.there.numpy().any()
    for name, values in drawn.columns.items():
        assert values.shape == (0, *rows[name].shape[1:])


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
            def __call__(self, columns: dict[str, tf.Tensor], training: bool) -> dict[str, tf.Tensor]:
                assert training
                return {"label": vectors(columns)}

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
        negatives, temperature=SETTINGS.model.tau, positive_weight=2.5,
    )  # fmt: skip


def _loss(settings: Settings, towers: Any, rows: Rows, negatives: SampledNegatives | None) -> tf.Tensor:
    """Returns the loss of rows under towers that stand for the model's own."""
    model, batch = make_model(settings), _batch(rows)
    return total_loss(
        model, *loss_shares(model, batch, {}, encode(towers, batch, negatives and negatives.drawn(batch), {}))
    )


def _loss_and_gradients(rows: Rows) -> tuple[float, np.ndarray, np.ndarray]:
    towers = _TableTowers()
    with tf.GradientTape() as tape:
        loss = _loss(SETTINGS, towers, rows, make_negatives(SETTINGS))
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
    towers = _TableTowers()
    for table in (towers.users, towers.items):
        table.assign(tf.zeros_like(table))
    rows["days"][:] = rows[DAYS][:] = 0
    found = _loss(SETTINGS, towers, rows, make_negatives(SETTINGS))
    assert float(found) == pytest.approx((2 * 2.5 + 1) / 3 * np.log(2), rel=1e-6)


def test_a_place_without_a_negative_changes_nothing():
    rows = _rows(padded=())
    rows[NEGATIVES][:, 2] = -1
    found = _loss_and_gradients(rows)
    rows[DAYS][rows[NEGATIVES] < 0] = np.nan
    first = {name: kind for name, kind in NEGATIVE_KINDS.items() if name == "any"}
    fewer = make_settings("unused", negatives=first, loss={"kind": "weighted_bce", "positive_weight": 2.5})
    of_place = (NEGATIVES, NEGATIVE_PROBABILITY, DAYS)
    two = {**rows, **{name: rows[name][:, :2] for name in of_place}}
    towers = _TableTowers()
    with tf.GradientTape() as tape:
        loss = _loss(fewer, towers, two, make_negatives(fewer))
    expected = [loss, *map(tf.convert_to_tensor, tape.gradient(loss, [towers.users, towers.items]))]
    for again in (found, _loss_and_gradients(rows)):
        for one, other in zip(again, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)  # a sum with other zeros in it


def test_positives_without_any_negative_have_the_loss_without_negatives():
    rows = _rows()
    rows[NEGATIVES][:] = -1
    loss, by_users, by_items = _loss_and_gradients(rows)
    towers = _TableTowers()
    with tf.GradientTape() as tape:
        plain = _loss(SETTINGS, towers, rows, None)
    assert loss == float(plain)
    for found, gradient in zip((by_users, by_items), tape.gradient(plain, [towers.users, towers.items]), strict=True):
        np.testing.assert_array_equal(found, tf.convert_to_tensor(gradient))


def test_steps_with_negatives_lower_the_loss_that_they_report():
    settings = make_settings("unused", negatives=NEGATIVE_KINDS, loss="weighted_bce", learning_rate=0.05)
    model, rows, negatives = make_model(settings), _rows(), make_negatives(settings)
    step = make_step(settings, model, make_optimizer(settings.train, 20, model), negatives)
    before = _loss(settings, model.towers, rows, negatives)
    losses = [float(step(_batch(rows), {})["loss"]) for _ in range(20)]
    assert losses[0] == pytest.approx(float(before), rel=1e-5)
    assert losses[-1] < 0.7 * losses[0]


def test_a_step_takes_batches_with_and_without_negatives():
    model = make_model(SETTINGS)
    step = make_step(SETTINGS, model, make_optimizer(SETTINGS.train, 3, model), make_negatives(SETTINGS))
    batches = [_rows(), _rows(padded=tuple(range(8))), _rows(seed=3)]
    losses = [float(step(_batch(rows), {})["loss"]) for rows in batches]
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
    found, expected = _loaded(settings).drawn(batch), make_negatives(settings).drawn(batch)
    assert found.columns.keys() == expected.columns.keys()
    np.testing.assert_array_equal(found.places, expected.places)
    for name, values in expected.columns.items():
        np.testing.assert_array_equal(found.columns[name], values)


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
    packed = {
        name: spec for name, spec in columns_of(settings).items() if name in (NEGATIVES, NEGATIVE_PROBABILITY, DAYS)
    }
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
