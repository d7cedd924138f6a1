"""Each recipe of conf/recipes: its settings, and the way from a small feed's log to the published table."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
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
from dssm.sections import LossKind, OptimizerKind, TowerKind
from dssm.strict import Kind
from tests.pipeline import write_small_demo
from tests.recipe_checks import (
    assert_each_towers_vector_is_published,
    assert_neighbours_are_found,
    assert_raw_towers_agree,
    assert_saved_scorer_agrees,
    assert_vectors_predict_what_was_measured,
)

if TYPE_CHECKING:
    import tensorflow as tf
    from pyspark.sql import SparkSession

RECIPES = recipes()
LEAST_AUC = 0.55  # towers that have learnt nothing have about a half


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
    return Outcome(name, f"What {name} is", "bpr", 0.25, auc, scorer_auc, recalls, 12.34, published=True)


def test_table_is_ordered_by_recall_with_the_bounds_below() -> None:
    outcomes = [_outcome("a", 0.25), _outcome("b", 0.4, auc=None), _outcome("c", 0.3, 0.7, 0.8)]
    lines = markdown(outcomes).splitlines()
    assert (
        lines[0] == "| recipe | what it is | loss | its mean | AUC | recall@50 | of the best reachable | training s |"
    )
    assert lines[1] == "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |"
    assert lines[2] == "| [`b`](conf/recipes/b.yaml) | What b is | bpr | 0.250 | – | 0.400 | 80% | 12 |"
    assert (
        lines[3] == "| [`c`](conf/recipes/c.yaml) | What c is | bpr | 0.250 | 0.700, scorer 0.800 | 0.300 | 60% | 12 |"
    )
    assert lines[4] == "| [`a`](conf/recipes/a.yaml) | What a is | bpr | 0.250 | 0.700 | 0.250 | 50% | 12 |"
    assert lines[5] == "| *best reachable* |  |  |  |  | 0.500 |  |  |"
    assert lines[6] == "| *popularity* |  |  |  |  | 0.200 |  |  |"
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
    """Runs recipes on a small feed in this process.

    Attributes:
      samples: the runs that made some, by key.
      examples: what each trained model makes of its card's examples, by its folder; see `assert_raw_towers_agree`.
    """

    folder: Path
    samples: dict[str, Path] = field(default_factory=dict)
    examples: dict[Path, dict[str, np.ndarray]] = field(default_factory=dict)

    def settings(self, name: str) -> Settings:
        changes = [
            f"data={self.folder / 'data'}", f"root={self.folder / 'runs'}", "samples.rows_per_file=1000",
            "samples.shuffle_partitions=2", "train.batch_size=256", "train.epochs=2",
            "item_table.gate.better_than=none",
            # Of the evaluation, what is looked at here: the model's recall and that of popularity.
            "evaluate.bootstrap=0", "evaluate.examples=0", "evaluate.itemcf_max_interactions=0",
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
    assert model.metrics[-1]["auc"] > LEAST_AUC
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
    small_runs.examples[run / "model"] = assert_raw_towers_agree(settings)
    assert_vectors_predict_what_was_measured(settings, model.metrics[-1])
    if name == "word2vec_negatives":
        assert_neighbours_are_found(settings, POSTS)
    assert len(scorers) == ("scorer" in name) == (run / "model" / "scorer").exists()
    for scorer in scorers:
        assert_saved_scorer_agrees(settings, scorer, model.metrics[-1]["scorer_auc"])


# What a service does with the models: it has TensorFlow, the folders and the cards in them.
SERVER = """
import json, sys
import numpy as np
import tensorflow as tf

target, *folders = sys.argv[1:]
vectors = {}
for folder in folders:
    with open(f"{folder}/model.json", encoding="utf-8") as card:
        towers = json.load(card)["towers"]
    for name, tower in towers.items():
        serve = tf.saved_model.load(f"{folder}/{name}").signatures["serving_default"]
        inputs, example = serve.structured_input_signature[1], tower["example"]
        made = serve(**{key: tf.constant([example[key]], spec.dtype) for key, spec in inputs.items()})
        vectors |= {f"{folder}/{name}/{output}": values.numpy() for output, values in made.items()}
np.savez(target, names=list(vectors), **{str(number): vector for number, vector in enumerate(vectors.values())})
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.mark.spark
def test_the_trained_recipes_load_with_tensorflow_alone(small_runs: SmallRuns, tmp_path: Path) -> None:
    """All in one process: their towers give the examples the vectors that they gave where `dssm` is imported."""
    expected = {f"{folder}/{name}": vector for folder, of in small_runs.examples.items() for name, vector in of.items()}
    if not expected:
        pytest.skip("none of the recipes was trained before this test")
    done = subprocess.run(
        [sys.executable, "-c", SERVER, str(tmp_path / "vectors.npz"), *map(str, small_runs.examples)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": ""},
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    assert "tensorflow" in modules
    assert not modules & {"dssm", "horovod", "petastorm", "pyspark"}
    vectors = np.load(tmp_path / "vectors.npz")
    found = {name: vectors[str(number)] for number, name in enumerate(vectors["names"].tolist())}
    assert found.keys() == expected.keys()
    for name, vector in expected.items():
        np.testing.assert_allclose(found[name], vector, rtol=0, atol=1e-6, err_msg=name)
