"""Scoring while train or build_samples puts others in the place of what is read: no version is of both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("pyspark")

from dssm import published, storage
from dssm.config import Settings
from dssm.errors import ReplacedError, exit_code_of
from dssm.manifest import Manifest
from dssm.model import export
from dssm.model.kept import version_in
from dssm.model.manifest import ModelManifest
from dssm.paths import RunPaths
from dssm.published import Published
from dssm.retrieval.evaluate import _of_one_model
from dssm.scoring import score
from dssm.scoring.files import FileResult, Scoring, score_file
from dssm.scoring.score import publish_vectors
from dssm.scoring.vectors import load_tower
from dssm.sections import Gate
from tests.datasets import write_items
from tests.model.tiny import write_model
from tests.scoring.runs import settings_at, write_run
from tests.scoring.tables import DATE

SESSION: Any = SimpleNamespace(conf={})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = settings_at(tmp_path, "replaced", kind="path", gate=Gate(better_than="none"))
    write_run(settings)
    return settings


def publish_while(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, replace: Callable[[], object], workers: bool = False
) -> Published:
    """Publishes without Spark; after the first file something is replaced. Args: workers: whether each file has one."""

    def run_files(spark: Any, scoring: Scoring, samples: Manifest) -> list[FileResult]:
        results = []
        for number, file in enumerate(samples.files):
            if number == 1:
                replace()
            if workers:
                load_tower.cache_clear()
            results.append(score_file(scoring, file.name))
        return results

    with monkeypatch.context() as patched:
        patched.setattr(score, "run_files", run_files)
        return publish_vectors(SESSION, settings, "items")


@pytest.mark.parametrize("workers", [False, True], ids=["one worker", "a worker a file"])
def test_a_model_that_is_replaced_between_two_files(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, workers: bool
) -> None:
    paths = RunPaths(settings.run_folder)
    before = version_in(paths.model)
    with pytest.raises(ReplacedError) as caught:
        publish_while(settings, monkeypatch, lambda: write_model(settings, seed=2), workers)
    now = version_in(paths.model)
    assert str(caught.value) == (
        f"{paths.model}: found {now}, expected {before}: train has replaced it since this job began; run the job again"
    )
    assert exit_code_of(caught.value) == 1  # which a scheduler tries again
    assert published.versions(settings.table_location, DATE) == []
    made = publish_while(settings, monkeypatch, lambda: None, workers)
    assert made.manifest.model_version == now


def test_samples_that_are_replaced_between_two_files(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunPaths(settings.run_folder).part("items")

    def build() -> None:
        storage.remove(folder)
        write_items(settings, "later")

    with pytest.raises(ReplacedError) as caught:
        publish_while(settings, monkeypatch, build)
    assert str(caught.value) == (
        f"{folder}: found later, expected tiny: build_samples has replaced it since this job began; run the job again"
    )
    assert publish_while(settings, monkeypatch, lambda: None).manifest.samples_build == "later"


def test_a_file_that_is_gone_is_told_as_what_it_is(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a store copies what is renamed, it is gone for as long as that takes."""
    folder = Path(RunPaths(settings.run_folder).part("items"))
    with pytest.raises(ReplacedError, match=r"items: found nothing that can be read, expected tiny: build_samples has"):
        publish_while(settings, monkeypatch, lambda: folder.rename(f"{folder}.aside"))


def test_a_model_that_is_replaced_while_it_is_loaded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    model = RunPaths(settings.run_folder).model
    version = version_in(model)
    assert version is not None

    class Slow(export.LoadedTower):
        def __init__(self, folder: str) -> None:
            write_model(settings, seed=2)
            super().__init__(folder)

    load_tower.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(export, "LoadedTower", Slow)
        with pytest.raises(ReplacedError, match=f"expected {version}: train has replaced it since this job began"):
            load_tower(f"{model}/item_tower", version, 1)
    with pytest.raises(ReplacedError, match=f"expected {version}"):  # it was not kept
        load_tower(f"{model}/item_tower", version, 1)


def test_an_evaluation_of_a_model_that_is_replaced_says_so(tmp_path: Path) -> None:
    """Also where a task has failed by it: what is told is why."""
    paths = RunPaths(str(tmp_path))
    Path(paths.model).mkdir()
    Path(paths.model, "manifest.json").write_text('{"model_version": "m2"}')
    before, now = (ModelManifest.model_construct(model_version=version) for version in ("m1", "m2"))
    told = "found m2, expected m1: train has replaced it since this job began"
    with pytest.raises(ReplacedError, match=told), _of_one_model(paths, before):
        raise RuntimeError("a task of Spark's")
    with pytest.raises(ReplacedError, match=told), _of_one_model(paths, before):
        pass
    with _of_one_model(paths, now):
        pass
