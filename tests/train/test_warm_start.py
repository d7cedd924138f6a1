"""A model that is trained further, with grown vocabularies."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dssm.config import Settings
from dssm.errors import UserError
from dssm.manifest import VocabularySpec, read_manifest, write_manifest
from dssm.paths import RunPaths
from dssm.train import worker
from dssm.train.checkpoint import Arrays, read_checkpoint
from dssm.train.warm_start import check_vocabularies
from tests.datasets import SIZES, write_run
from tests.train.conftest import launch

pytestmark = [pytest.mark.usefixtures("single_rank"), pytest.mark.slow]

GROWN = 5  # more ids of items
HOW: dict[str, Any] = {"optimizer": "lazy_adam", "loss": {"logq": "streaming", "frequency": {"buckets": 64}}}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = write_run(tmp_path_factory.mktemp("earlier"), **HOW)
    worker.train_here(settings, lambda report: None)
    return settings


def later(folder: Path, earlier: Settings, grown: int = 0, **train: Any) -> Settings:
    """Writes a run whose item vocabulary has grown, made with --vocabularies of the earlier run and --grow."""
    chosen = train.pop("warm_start", {})
    warm = None if chosen is None else {"run": earlier.run_folder, **chosen}
    settings = write_run(folder, (9, 3), **{**HOW, "warm_start": warm, **train})
    for part in ("train", "test"):
        place = RunPaths(settings.run_folder).part(part)
        manifest = read_manifest(place, "build_samples")
        vocabularies = {**manifest.vocabularies}
        if grown:
            vocabularies["item_id"] = VocabularySpec(size=SIZES["item_id"] + grown, digest="grown")
        Path(place, "manifest.json").unlink()
        write_manifest(place, manifest.model_copy(update={"vocabularies": vocabularies, "vocabularies_of": "tiny"}))
    return settings


def state_of(settings: Settings) -> Arrays:
    return read_checkpoint(f"{RunPaths(settings.run_folder).model}/checkpoint")[1]


def first_state(settings: Settings) -> Arrays:
    return worker._Trainer(settings).state.copied()


def test_it_begins_where_the_earlier_one_ended(tmp_path: Path, earlier: Settings):
    begun, ended = first_state(later(tmp_path, earlier)), state_of(earlier)
    assert begun.keys() == ended.keys()
    for name, values in begun.items():
        np.testing.assert_array_equal(values, ended[name], err_msg=name)
    assert int(next(values for name, values in begun.items() if name.startswith("iteration"))) == 9


def test_new_rows_are_initialised_and_old_ones_kept(tmp_path: Path, earlier: Settings):
    begun, ended = first_state(later(tmp_path, earlier, grown=GROWN)), state_of(earlier)
    cold = first_state(later(tmp_path / "cold", earlier, grown=GROWN, warm_start=None))
    grown = [name for name in begun if begun[name].shape != ended[name].shape]
    assert len(grown) == 3  # the table and its two moments
    for name in grown:
        assert len(begun[name]) == len(ended[name]) + GROWN
        np.testing.assert_array_equal(begun[name][:-GROWN], ended[name])
        np.testing.assert_array_equal(begun[name][-GROWN:], cold[name][-GROWN:])
    (table,) = (name for name in grown if not name.startswith(("m/", "v/", "LazyAdam", "Adam", "lazy")))
    assert (begun[table][-GROWN:] != 0).all()


def test_the_optimizer_may_begin_anew(tmp_path: Path, earlier: Settings):
    settings = later(tmp_path, earlier, warm_start={"optimizer": "reset"}, optimizer="adagrad", learning_rate=0.02)
    trainer = worker._Trainer(settings)
    begun, ended = trainer.state.copied(), state_of(earlier)
    assert int(trainer.optimizer.iterations) == 0
    assert float(trainer.optimizer.learning_rate) == pytest.approx(0.02)
    for name, values in begun.items():
        if name not in trainer.state.of_optimizer:
            np.testing.assert_array_equal(values, ended[name], err_msg=name)


def test_a_learning_rate_of_its_own(tmp_path: Path, earlier: Settings):
    trainer = worker._Trainer(later(tmp_path, earlier, learning_rate=0.0625))
    assert float(trainer.optimizer.learning_rate) == 0.0625


def test_a_schedule_counts_its_own_steps(tmp_path: Path, earlier: Settings):
    schedule = {"kind": "linear", "warmup_steps": 1}
    trainer = worker._Trainer(later(tmp_path, earlier, schedule=schedule, learning_rate=0.5))
    assert int(trainer.optimizer.iterations) == 9
    rates = [float(trainer.optimizer._learning_rate(step)) for step in (9, 10, 11)]
    assert rates == [0.0, 0.5, 0.0]  # one step of warm-up, the peak, the last step


def test_it_trains_on_to_another_model(tmp_path: Path, earlier: Settings):
    settings = later(tmp_path, earlier, grown=GROWN)
    model = worker.train_here(settings, lambda report: None)
    assert model.steps == 3
    assert model.vocabularies["item_id"].size == SIZES["item_id"] + GROWN


@pytest.mark.horovod
def test_tables_that_are_spread_over_ranks_begin_where_whole_ones_ended_and_the_other_way_round(
    tmp_path: Path, earlier: Settings
):
    """Two ranks take up one process' model with new rows, and one process that of two ranks."""
    spread = {"model": {"embedding": {"placement": "sharded", "min_rows": 1}}}
    by_ranks = {**spread, "launch": "horovodrun", "ranks": 2}
    by_growth = {grown: later(tmp_path / str(grown), earlier, grown, **by_ranks) for grown in (0, GROWN)}
    for grown, settings in by_growth.items():
        (tmp_path / f"{grown}.json").write_text(settings.model_dump_json(), encoding="utf-8")
    launched = launch(2, "tests.train.begun", *(str(tmp_path / f"{grown}.json") for grown in by_growth))
    assert launched.code == 0, launched.output

    ended = state_of(earlier)
    finals = {grown: f"{RunPaths(of.run_folder).checkpoints}/final" for grown, of in by_growth.items()}
    for grown, final in finals.items():
        manifest, begun = read_checkpoint(final)
        assert len(manifest.files) == 2
        expected = first_state(later(tmp_path / f"one{grown}", earlier, grown, **spread))
        assert begun.keys() == expected.keys()
        for name, values in begun.items():
            np.testing.assert_array_equal(values, expected[name], err_msg=name)
            known = values[: len(ended[name])] if grown and name in manifest.tables else values
            np.testing.assert_array_equal(known, ended[name], err_msg=name)

    middle = RunPaths(by_growth[0].run_folder).model
    shutil.copytree(RunPaths(earlier.run_folder).model, middle)
    shutil.rmtree(f"{middle}/checkpoint")
    shutil.move(finals[0], f"{middle}/checkpoint")
    begun = first_state(later(tmp_path / "back", by_growth[0]))
    for name, values in ended.items():
        np.testing.assert_array_equal(begun[name], values, err_msg=name)


FAULTS = {
    "another vocabulary": ({}, "vocabulary 'item_id' is not that of"),
    "another optimizer": ({"optimizer": "adagrad"}, "set train.warm_start.optimizer: reset"),
    "another width": ({"model": {"vector_dim": 6}}, "expected the same model settings"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_another_model_is_refused(tmp_path: Path, earlier: Settings, fault: str):
    change, message = FAULTS[fault]
    settings = later(tmp_path, earlier, grown=0, **change)
    if not change:
        place = RunPaths(settings.run_folder).part("train")
        manifest = read_manifest(place, "build_samples")
        Path(place, "manifest.json").unlink()
        other = {**manifest.vocabularies, "item_id": VocabularySpec(size=20, digest="other")}
        write_manifest(place, manifest.model_copy(update={"vocabularies": other, "vocabularies_of": None}))
    with pytest.raises(UserError, match=message):
        worker._Trainer(settings)


@pytest.mark.parametrize("rule", ["hash", "buckets"])
def test_buckets_do_not_grow(tmp_path: Path, earlier: Settings, rule: Any):
    """With more of them every value has another id: new rows behind the old ones would not do."""
    settings = later(tmp_path, earlier, grown=GROWN)
    place = RunPaths(settings.run_folder).part("train")
    manifest = read_manifest(place, "build_samples")
    hashed = manifest.vocabularies["item_id"].model_copy(update={"rule": rule})
    samples = manifest.model_copy(update={"vocabularies": {**manifest.vocabularies, "item_id": hashed}})
    with pytest.raises(UserError, match=rf"'item_id' is not that of .*; expected {SIZES['item_id']} ids of tokens"):
        check_vocabularies(settings, samples)


def test_an_earlier_run_without_a_model_is_an_error(tmp_path: Path, earlier: Settings):
    settings = later(tmp_path / "later", earlier, warm_start={"run": str(tmp_path / "none")})
    with pytest.raises(UserError, match="none"):
        worker._Trainer(settings)
    shutil.rmtree(tmp_path / "later")
