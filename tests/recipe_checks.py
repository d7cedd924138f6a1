"""What holds of each recipe that was trained: of its exported towers, its scorer and its published vectors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssm.config import Settings
from dssm.manifest import ITEM_ID, data_files, read_manifest
from dssm.metrics import auc
from dssm.paths import RunPaths
from tests.demo_rows import DemoRows

if TYPE_CHECKING:
    import pandas as pd
    import tensorflow as tf

    from dssm.model.export import LoadedTower


@lru_cache(maxsize=2)
def loaded_tower(folder: str) -> LoadedTower:
    """Each check asks for both; the next recipe's take their place."""
    from dssm.model.export import LoadedTower

    return LoadedTower(folder)


@lru_cache(maxsize=1)
def rows_of(settings_json: str) -> DemoRows:
    return DemoRows(Settings.model_validate_json(settings_json))


def assert_each_towers_vector_is_published(settings: Settings, published: pd.DataFrame) -> None:
    """The combined one, and of several objectives each one's own."""
    from dssm.model.manifest import read_model_manifest
    from dssm.packing import unpack_all

    run = RunPaths(settings.run_folder)
    model, items = read_model_manifest(run.model), read_manifest(run.part("items"), "build_samples")
    rows = pa.concat_tables([pq.read_table(file) for file in data_files(run.part("items"), items)])
    (batch,) = rows.combine_chunks().to_batches()
    expected = loaded_tower(f"{run.model}/item_tower").all_vectors(unpack_all(batch, model.item_columns))
    assert len(expected) == (1 + len(model.objectives) if len(model.objectives) > 1 else 1)
    by_item = published.set_index("item_id").loc[rows[ITEM_ID].to_pylist()]
    for output, vectors in expected.items():
        np.testing.assert_allclose(np.stack(by_item[output].to_numpy()), vectors, atol=1e-5, err_msg=output)


PREDICTED = {
    "rating_regression": ["value"],
    "multi_value": ["probability"],
    "multi_objective": [None, "probability", "value"],
}


def assert_vectors_predict_what_was_measured(settings: Settings, measured: Mapping[str, float | None]) -> None:
    """The exported towers and the card alone give the metrics of the test rows."""
    from dssm.model.card import ModelCard
    from dssm.paths import CARD

    rows, model = rows_of(settings.model_dump_json()), Path(settings.run_folder) / "model"
    users, items = (loaded_tower(f"{model}/{side}_tower").all_vectors(rows.encoded(side)) for side in ("user", "item"))
    told = ModelCard.model_validate_json((model / CARD).read_bytes()).predictions
    if settings.name in PREDICTED:
        assert [chosen.prediction for chosen in told.values()] == PREDICTED[settings.name]
    for number, ((name, objective), chosen) in enumerate(
        zip(settings.model.all_objectives.items(), told.values(), strict=True)
    ):
        label, prefix = rows.labels(objective.label), f"{name}_" if number else ""
        score = (users[chosen.output] * items[chosen.output]).sum(axis=1) / chosen.temperature + chosen.bias
        predicted = 1 / (1 + np.exp(-score)) if chosen.activation == "sigmoid" else score
        known = ~np.isnan(label)
        label, predicted = label[known].astype(float), predicted[known].astype(float)
        assert (chosen.bias != 0) == (settings.model.score_bias and chosen.prediction is not None)
        assert measured[f"{prefix}auc"] == pytest.approx(auc(label > 0.5, predicted), abs=1e-3)
        if chosen.prediction == "value":
            assert measured[f"{prefix}mse"] == pytest.approx(np.mean((predicted - label) ** 2), rel=1e-4)
        if chosen.prediction == "probability":
            losses = -label * np.log(predicted) - (1 - label) * np.log1p(-predicted)
            assert measured[f"{prefix}log_loss"] == pytest.approx(losses.mean(), rel=1e-4)


def assert_neighbours_are_found(settings: Settings, posts: int) -> None:
    from dssm.retrieval.index import index_items

    report = index_items(settings)
    assert report is not None
    (sink,) = report.sinks
    assert (sink.kind, sink.count, sink.switched) == ("faiss", posts, True)
    assert sink.recall.keys() == {10, 100}
    assert min(sink.recall.values()) > 0.95


def assert_saved_scorer_agrees(settings: Settings, scorer: tf.keras.Model, measured: float | None) -> None:
    """On each test row the saved scorer gives the trained one's probability, and by these the AUC that was measured."""
    from dssm.model.card import ModelCard
    from dssm.model.export import LoadedScorer
    from dssm.paths import CARD

    rows, model = rows_of(settings.model_dump_json()), Path(settings.run_folder) / "model"
    towers = {side: loaded_tower(f"{model}/{side}_tower") for side in ("user", "item")}
    users, items = (tower.vectors(rows.encoded(side)) for side, tower in towers.items())
    found = LoadedScorer(f"{model}/scorer").probabilities(users, items)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-scorer([users, items]).numpy())), rtol=1e-5)
    assert found.std() > 0.001
    assert measured == pytest.approx(auc(rows.labels(), found), abs=1e-4)
    card = ModelCard.model_validate_json((model / CARD).read_bytes())
    assert card.scorer is not None
    for side, tower in towers.items():
        example = {name: np.array([value]) for name, value in card.towers[f"{side}_tower"].example.items()}
        np.testing.assert_allclose(card.scorer.example[f"{side}_vector"], tower.vectors(example)[0], atol=1e-4)


def assert_raw_towers_agree(settings: Settings) -> dict[str, np.ndarray]:
    """Both towers give each test row, and the card's example, the same vectors, encoded and raw.

    Returns: those of the examples, by TOWER/OUTPUT.
    """
    from dssm.model.card import ModelCard
    from dssm.model.export import LoadedRawTower
    from dssm.paths import CARD

    rows, model = rows_of(settings.model_dump_json()), Path(settings.run_folder) / "model"
    towers = ModelCard.model_validate_json((model / CARD).read_bytes()).towers
    of_examples: dict[str, np.ndarray] = {}
    for side in ("user", "item"):
        encoded, raw = rows.encoded(side), rows.raw(side)
        assert len(raw) > 100
        tower, raw_tower = loaded_tower(f"{model}/{side}_tower"), LoadedRawTower(f"{model}/{side}_tower_raw")
        example = {name: np.array([value]) for name, value in towers[f"{side}_tower"].example.items()}
        for columns, sent in ((encoded, raw), (example, [towers[f"{side}_tower_raw"].example])):
            expected, found = tower.all_vectors(columns), raw_tower.all_vectors(sent)
            assert found.keys() == expected.keys()
            for output, vectors in expected.items():
                np.testing.assert_allclose(found[output], vectors, rtol=0, atol=1e-6, err_msg=f"{side} {output}")
        of_examples |= {f"{side}_tower/{output}": vectors for output, vectors in expected.items()}
        of_examples |= {f"{side}_tower_raw/{output}": vectors for output, vectors in found.items()}
    ids = [column for column in rows.encoded("user").values() if column.dtype.kind == "i"]
    assert any((column == 0).all(axis=1).any() for column in ids if column.ndim == 2)  # empty lists are among them
    if "client_id" in settings.features:
        assert any((column == 1).any() for column in ids)  # and unknown ids
    return of_examples
