"""Each recipe of conf/recipes: its settings, and the way from a small feed's log to the published table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.recipes import (
    README,
    Outcome,
    kept_outcomes,
    loss_names,
    markdown,
    recipes,
    samples_key,
    share_samples,
    title,
)
from benchmarks.report import with_table
from dssm.checks import towers_of
from dssm.config import Settings, load_settings
from dssm.encoders import EncoderKind
from dssm.features import VarLenSparseFeat
from dssm.manifest import ITEM_ID, data_files, read_manifest
from dssm.metrics import auc
from dssm.paths import RunPaths
from dssm.sections import LossKind, OptimizerKind, TowerKind
from dssm.strict import Kind
from tests.demo_rows import DemoRows
from tests.pipeline import write_small_demo

if TYPE_CHECKING:
    import pandas as pd
    import tensorflow as tf
    from pyspark.sql import SparkSession

RECIPES = recipes()


@pytest.fixture(scope="module")
def all_settings() -> dict[str, Settings]:
    return {name: load_settings(str(path)) for name, path in RECIPES.items()}


# The files -------------------------------------------------------------------------------------------


def test_every_recipe_trains_alone_under_its_own_name(all_settings: dict[str, Settings]) -> None:
    assert len(all_settings) >= 20
    for name, settings in all_settings.items():
        assert settings.name == name
        assert (settings.train.launch, settings.train.ranks) == ("single", 1)
        assert settings.item_table == load_settings("conf/demo.yaml").item_table
        assert settings.evaluate == load_settings("conf/demo.yaml").evaluate


def test_every_recipe_says_what_it_is_where_it_is_from_and_what_differs() -> None:
    for name, path in RECIPES.items():
        head = re.match(r"(?:#.*\n)+", path.read_text())
        assert head is not None, name
        assert 20 < len(title(path)) < 100, name
        assert "\n# Source: " in head.group(), name
        assert "\n# Other than the demo: " in head.group(), name


def _kinds(settings: Settings) -> Iterator[Kind]:
    yield from (tower for _, tower in towers_of(settings.model))
    yield from (f.encoder for f in settings.features.values() if isinstance(f, VarLenSparseFeat))
    yield from (o.loss or settings.train.loss for o in settings.model.all_objectives.values())
    yield settings.train.optimizer


@pytest.mark.parametrize("family", [TowerKind, EncoderKind, LossKind, OptimizerKind])
def test_every_kind_is_in_a_recipe(all_settings: dict[str, Settings], family: type[Kind]) -> None:
    shown = {kind.kind for settings in all_settings.values() for kind in _kinds(settings) if isinstance(kind, family)}
    ours = {kind for kind, made in family.choices.items() if made.__module__.startswith("dssm.")}
    assert shown == ours


# The benchmark's table -------------------------------------------------------------------------------


def test_samples_are_shared_by_recipes_that_read_the_same_and_by_no_others(all_settings: dict[str, Settings]) -> None:
    keys = {name: samples_key(settings) for name, settings in all_settings.items()}
    assert keys["senet"] == keys["cnn"] == keys["youtube_2019"]  # an encoder's list is stored as it is
    assert keys["logistic_scorer"] == keys["shallow_scorer"] != keys["senet"]
    demo = load_settings("conf/demo.yaml")
    assert keys["senet"] == samples_key(demo)
    for change in ("seed=1", "date=2024-01-14", "features.click_history.maxlen=29", "samples.rows_per_file=100"):
        assert samples_key(load_settings("conf/demo.yaml", [change])) != samples_key(demo)
    for change in ("name=other", "train.epochs=1", "model.vector_dim=8", "features.click_history.encoder=cnn"):
        assert samples_key(load_settings("conf/demo.yaml", [change])) == samples_key(demo)


def test_shared_samples_replace_those_that_were_there(tmp_path: Path) -> None:
    for run, text in (("made", "new"), ("other", "old")):
        (tmp_path / run / "samples" / "train").mkdir(parents=True)
        (tmp_path / run / "samples" / "train" / f"{text}.parquet").write_text(text)
    share_samples(tmp_path / "made", tmp_path / "other")
    (shared,) = (tmp_path / "other" / "samples" / "train").iterdir()
    assert (shared.name, shared.read_text()) == ("new.parquet", "new")


def _outcome(name: str, recall: float, auc: float | None = 0.7, scorer_auc: float | None = None) -> Outcome:
    recalls = {"model": recall, "popularity": 0.2, "best_reachable": 0.5}
    return Outcome(name, f"What {name} is", "bpr", auc, scorer_auc, recalls, 12.34, published=True)


def test_table_is_ordered_by_recall_with_the_bounds_below() -> None:
    outcomes = [_outcome("a", 0.25), _outcome("b", 0.4, auc=None), _outcome("c", 0.3, 0.7, 0.8)]
    lines = markdown(outcomes).splitlines()
    assert lines[0] == "| recipe | what it is | loss | AUC | recall@50 | of the best reachable | training s |"
    assert lines[1] == "| --- | --- | --- | ---: | ---: | ---: | ---: |"
    assert lines[2] == "| [`b`](conf/recipes/b.yaml) | What b is | bpr | – | 0.400 | 80% | 12 |"
    assert lines[3] == "| [`c`](conf/recipes/c.yaml) | What c is | bpr | 0.700, scorer 0.800 | 0.300 | 60% | 12 |"
    assert lines[4] == "| [`a`](conf/recipes/a.yaml) | What a is | bpr | 0.700 | 0.250 | 50% | 12 |"
    assert lines[5] == "| *best reachable* |  |  |  | 0.500 |  |  |"
    assert lines[6] == "| *popularity* |  |  |  | 0.200 |  |  |"
    assert len({line.count("|") for line in lines}) == 1


def test_the_readmes_table_is_that_of_the_kept_results() -> None:
    kept = kept_outcomes()
    assert sorted(outcome.name for outcome in kept) == sorted(RECIPES)
    made = markdown(kept)
    page = README.read_text(encoding="utf-8")
    assert with_table(page, "recipes", made) == page


def test_losses_of_all_objectives_and_the_scorer_are_named(all_settings: dict[str, Settings]) -> None:
    assert loss_names(all_settings["senet"]) == "in_batch_softmax"
    assert loss_names(all_settings["multi_objective"]) == "in_batch_softmax + weighted_bce + regression"
    assert loss_names(all_settings["shallow_scorer"]) == "in_batch_softmax + shallow scorer"


# From the log to the table ---------------------------------------------------------------------------

EVENTS, CLIENTS, POSTS = 20_000, 400, 300


@dataclass
class SmallRuns:
    """Runs recipes on a small feed in this process; `samples`: the runs that made some, by key."""

    folder: Path
    samples: dict[str, Path] = field(default_factory=dict)

    def settings(self, name: str) -> Settings:
        changes = [
            f"data={self.folder / 'data'}", f"root={self.folder / 'runs'}", "samples.rows_per_file=1000",
            "samples.shuffle_partitions=2", "train.batch_size=256", "train.epochs=2",
            "item_table.gate.better_than=none",
        ]  # fmt: skip
        return load_settings(str(RECIPES[name]), changes)


@pytest.fixture(scope="module")
def small_runs(tmp_path_factory: pytest.TempPathFactory) -> SmallRuns:
    folder = tmp_path_factory.mktemp("recipes")
    write_small_demo(folder / "data", EVENTS, CLIENTS, POSTS)
    return SmallRuns(folder)


@pytest.fixture
def build(spark: SparkSession, small_runs: SmallRuns) -> Callable[[Settings], None]:
    """Makes a run's samples, or takes those of an earlier one that are the same."""
    from dssm.samples.build import build_samples

    def make(settings: Settings) -> None:
        key, run = samples_key(settings), Path(settings.run_folder)
        if key in small_runs.samples:
            share_samples(small_runs.samples[key], run)
        else:
            build_samples(spark, settings)
            small_runs.samples[key] = run

    return make


@pytest.mark.spark
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_learns_and_is_published(
    spark: SparkSession,
    small_runs: SmallRuns,
    build: Callable[[Settings], None],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dssm.model.export import save_scorer
    from dssm.model.manifest import read_model_manifest
    from dssm.retrieval.evaluate import evaluate
    from dssm.scoring.items import score_items
    from dssm.scoring.score import name_of
    from dssm.train.launch import train

    settings = small_runs.settings(name)
    run = Path(settings.run_folder)
    build(settings)
    scorers: list[tf.keras.Model] = []
    monkeypatch.setattr("dssm.train.saving.save_scorer", lambda *of: (scorers.append(of[0]), save_scorer(*of)))
    train(settings)
    evaluate(spark, settings)
    score_items(spark, settings)

    model = read_model_manifest(str(run / "model"))
    assert np.isfinite(model.loss).all()
    assert model.loss[-1] < model.loss[0]
    evaluation = json.loads((run / "evaluation.json").read_text())
    recalls, by_chance = evaluation["seen_kept"], 50 / evaluation["items"]
    assert recalls["model"]["recall@50"] > max(recalls["popularity"]["recall@50"] / 2, 1.5 * by_chance)
    published = spark.table(name_of(settings, "items")).filter(f"dt = '{settings.date}'").toPandas()
    assert len(published) == published["item_id"].nunique() == POSTS
    vectors = np.stack(published["vector"].to_numpy())
    assert vectors.shape == (POSTS, model.vector_dim)
    assert np.isfinite(vectors).all()
    assert vectors.std(axis=0).max() > 0.01  # not one vector for all
    if model.vector_norm is not None:
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), model.vector_norm, rtol=1e-3)
    assert_each_towers_vector_is_published(settings, published)
    assert_raw_towers_agree(settings)
    assert_vectors_predict_what_was_measured(settings, model.metrics[-1])
    if name == "word2vec_negatives":
        assert_neighbours_are_found(settings)
    assert len(scorers) == ("scorer" in name) == (run / "model" / "scorer").exists()
    for scorer in scorers:
        assert_saved_scorer_agrees(settings, scorer, model.metrics[-1]["scorer_auc"])


def assert_each_towers_vector_is_published(settings: Settings, published: pd.DataFrame) -> None:
    """The combined one, and of several objectives each one's own."""
    from dssm.model.export import LoadedTower
    from dssm.model.manifest import read_model_manifest
    from dssm.packing import unpack_all

    run = RunPaths(settings.run_folder)
    model, items = read_model_manifest(run.model), read_manifest(run.part("items"), "build_samples")
    rows = pa.concat_tables([pq.read_table(file) for file in data_files(run.part("items"), items)])
    (batch,) = rows.combine_chunks().to_batches()
    expected = LoadedTower(f"{run.model}/item_tower").all_vectors(unpack_all(batch, model.item_columns))
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
    from dssm.model.export import LoadedTower
    from dssm.paths import CARD

    rows, model = DemoRows(settings), Path(settings.run_folder) / "model"
    users, items = (LoadedTower(f"{model}/{side}_tower").all_vectors(rows.encoded(side)) for side in ("user", "item"))
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


def assert_neighbours_are_found(settings: Settings) -> None:
    from dssm.retrieval.index import index_items

    report = index_items(settings)
    assert report is not None
    (sink,) = report.sinks
    assert (sink.kind, sink.count, sink.switched) == ("faiss", POSTS, True)
    assert sink.recall.keys() == {10, 100}
    assert min(sink.recall.values()) > 0.95


def assert_saved_scorer_agrees(settings: Settings, scorer: tf.keras.Model, measured: float | None) -> None:
    """On each test row the saved scorer gives the trained one's probability, and by these the AUC that was measured."""
    from dssm.model.card import ModelCard
    from dssm.model.export import LoadedScorer, LoadedTower
    from dssm.paths import CARD

    rows, model = DemoRows(settings), Path(settings.run_folder) / "model"
    towers = {side: LoadedTower(f"{model}/{side}_tower") for side in ("user", "item")}
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


def assert_raw_towers_agree(settings: Settings) -> None:
    """Both towers give each test row, and the card's example, the same vectors, encoded and raw."""
    from dssm.model.card import ModelCard
    from dssm.model.export import LoadedRawTower, LoadedTower
    from dssm.paths import CARD

    rows, model = DemoRows(settings), Path(settings.run_folder) / "model"
    towers = ModelCard.model_validate_json((model / CARD).read_bytes()).towers
    for side in ("user", "item"):
        encoded, raw = rows.encoded(side), rows.raw(side)
        assert len(raw) > 100
        tower, raw_tower = LoadedTower(f"{model}/{side}_tower"), LoadedRawTower(f"{model}/{side}_tower_raw")
        example = {name: np.array([value]) for name, value in towers[f"{side}_tower"].example.items()}
        for columns, sent in ((encoded, raw), (example, [towers[f"{side}_tower_raw"].example])):
            expected, found = tower.all_vectors(columns), raw_tower.all_vectors(sent)
            assert found.keys() == expected.keys()
            for output, vectors in expected.items():
                np.testing.assert_allclose(found[output], vectors, rtol=0, atol=1e-6, err_msg=f"{side} {output}")
    ids = [column for column in rows.encoded("user").values() if column.dtype.kind == "i"]
    assert any((column == 0).all(axis=1).any() for column in ids if column.ndim == 2)  # empty lists are among them
    if "client_id" in settings.features:
        assert any((column == 1).any() for column in ids)  # and unknown ids
