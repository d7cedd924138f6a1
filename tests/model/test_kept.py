"""The models of a run: one that is replaced stays for as long as a published version is of it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from dssm import published, storage
from dssm.errors import UserError
from dssm.model.kept import model_of, new_model, remove_spare
from dssm.paths import RunPaths
from dssm.published import PublishedManifest
from tests.dying_store import ROOT, DyingStore, KilledError, dying_after, empty_store
from tests.scoring.tables import manifest_of
from tests.serving.tables import model_manifest

DATE = "2024-01-08"


def train(paths: RunPaths, version: str) -> None:
    """Leaves a model as train does."""
    with new_model(paths) as folder:
        storage.write_text(f"{folder}/user_tower", f"tower of {version}")
        storage.write_text(f"{folder}/manifest.json", model_manifest(DATE, 2, version).model_dump_json())


def vectors_of(model: str) -> PublishedManifest:
    return manifest_of(model_version=model)


def tower_of(paths: RunPaths, model: str) -> str:
    return storage.read_text(f"{model_of(paths, vectors_of(model)).model}/user_tower")


def publish(table: Path, version: str, model: str) -> None:
    folder = published.version_folder(str(table), DATE, version)
    storage.write_text(f"{folder}/manifest.json", manifest_of(version=version, model_version=model).model_dump_json())


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(f"{tmp_path}/tiny/{DATE}")


def test_each_version_finds_its_model(paths: RunPaths) -> None:
    for version in ("a", "b", "c"):
        train(paths, version)
    assert [tower_of(paths, version) for version in "abc"] == ["tower of a", "tower of b", "tower of c"]
    assert model_of(paths, vectors_of("c")) == paths
    assert storage.folder_names(paths.models) == ["a", "b"]


def test_a_model_that_is_trained_again_is_kept_once(paths: RunPaths) -> None:
    for version in ("a", "a", "b", "a"):
        train(paths, version)
    assert storage.folder_names(paths.models) == ["b"]
    assert model_of(paths, vectors_of("a")) == paths
    train(paths, "b")
    assert storage.folder_names(paths.models) == ["a"]


def test_a_model_that_is_gone_is_named_with_its_places(paths: RunPaths) -> None:
    fix = "run score_items for this date again, or rollback to a version whose model is there"
    for found in ("no model that can be read", "model b"):
        with pytest.raises(UserError) as raised:
            model_of(paths, vectors_of("a"))
        assert str(raised.value) == (
            f"{paths.folder}/model: {found}, but the vectors published for {DATE} are of a, and "
            f"{paths.folder}/models/a is not there; {fix}"
        )
        train(paths, "b")


def test_a_model_of_another_schema_is_set_aside_too(paths: RunPaths) -> None:
    train(paths, "a")
    manifest = Path(paths.model, "manifest.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema_version": 0}))
    train(paths, "b")
    assert storage.folder_names(paths.models) == ["a"]


@pytest.mark.parametrize("before", [("a",), ("a", "b", "a")], ids=["one model", "a model set aside"])
@pytest.mark.parametrize("new", ["a", "c"])
def test_a_training_may_die_at_any_step_of_its_save(
    tmp_path: Path, before: tuple[str, ...], new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is published is of `a`: it is found after each death, and after the training that follows."""
    steps = 0
    for at, after in ((at, after) for at in itertools.count() for after in (False, True)):
        paths = RunPaths(f"{tmp_path}/{at}-{after}/{DATE}")
        for version in before:
            train(paths, version)
        count = 0

        def dies(function: Any, at: int = at, after: bool = after) -> Any:
            def step(*given: Any) -> Any:
                nonlocal count
                count += 1
                if count > at + 1:
                    raise KilledError  # the process is gone: nothing cleans up
                if count == at + 1 and not after:
                    raise KilledError
                made = function(*given)
                if count == at + 1:
                    raise KilledError
                return made

            return step

        with monkeypatch.context() as patched:
            for name in ("_rename", "remove", "make_folder"):
                patched.setattr(storage, name, dies(getattr(storage, name)))
            try:
                train(paths, new)
                break
            except KilledError:
                steps += 1
        assert tower_of(paths, "a") == "tower of a"
        train(paths, new)
        assert tower_of(paths, "a") == "tower of a"
        assert tower_of(paths, new) == f"tower of {new}"
        assert sorted(storage.folder_names(paths.folder)) in (["model"], ["model", "models"])
    assert steps > 15


@pytest.mark.parametrize("before", [("a",), ("a", "b", "a")], ids=["one model", "a model set aside"])
@pytest.mark.parametrize("new", ["a", "c"])
def test_a_save_that_copies_may_die_at_any_file(before: tuple[str, ...], new: str) -> None:
    """In a store that has no rename: what is published is of `a`, which is found whole after each death."""
    paths, deaths, died = RunPaths(f"{ROOT}/tiny/{DATE}"), 0, [True]
    while died:
        empty_store()
        for version in before:
            train(paths, version)
        with dying_after(deaths) as died:
            train(paths, new)
        assert tower_of(paths, "a") == "tower of a"
        train(paths, new)
        assert tower_of(paths, "a") == "tower of a"
        assert tower_of(paths, new) == f"tower of {new}"
        deaths += 1
    assert deaths > 12


def test_an_error_of_a_copy_leaves_the_model_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    empty_store()
    paths = RunPaths(f"{ROOT}/tiny/{DATE}")
    train(paths, "a")
    copy, tried = DyingStore.cp_file, []

    def full(self: DyingStore, path1: str, path2: str, **options: Any) -> None:
        if path2.endswith("/model/manifest.json") and "/.model.tmp/" in path1:
            tried.append(path1)
            raise OSError(28, "No space left on device")
        copy(self, path1, path2, **options)

    with monkeypatch.context() as patched:
        patched.setattr(DyingStore, "cp_file", full)
        with pytest.raises(OSError, match="No space left"):
            train(paths, "b")
    assert len(tried) == 1
    assert model_of(paths, vectors_of("a")) == paths
    assert tower_of(paths, "a") == "tower of a"


def test_an_error_leaves_the_model_where_it_was(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    train(paths, "a")
    rename, tried = storage.rename, []

    def full(source: str, target: str) -> None:
        tried.append(target)
        if len(tried) == 2:
            raise OSError(28, "No space left on device")
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "rename", full)
        with pytest.raises(OSError, match="No space left"):
            train(paths, "b")
    assert tried == [f"{paths.models}/a", paths.model, paths.model]
    assert model_of(paths, vectors_of("a")) == paths
    assert storage.folder_names(paths.models) == []


def test_models_go_that_no_version_is_of(paths: RunPaths, tmp_path: Path) -> None:
    items, users, noted = tmp_path / "items", tmp_path / "users", tmp_path / "noted"
    for version in ("a", "b", "c", "d", "e"):
        train(paths, version)
    publish(items, "v1", "a")
    publish(users, "v1", "b")
    publish(noted, "v1", "c")
    published.write_run_tables(paths.folder, {"users": str(noted)})
    assert remove_spare(paths, DATE, [str(items), str(users)]) == ["d"]
    assert storage.folder_names(paths.models) == ["a", "b", "c"]
    assert model_of(paths, vectors_of("e")) == paths  # not published yet
    storage.remove(published.version_folder(str(items), DATE, "v1"))
    assert remove_spare(paths, DATE, [str(items), str(users)]) == ["a"]


def test_a_version_of_another_schema_keeps_its_model(paths: RunPaths, tmp_path: Path) -> None:
    for version in ("a", "b", "c"):
        train(paths, version)
    folder = published.version_folder(str(tmp_path / "items"), DATE, "v1")
    storage.write_text(f"{folder}/manifest.json", json.dumps({"schema_version": 99, "model_version": "a"}))
    broken = published.version_folder(str(tmp_path / "items"), DATE, "v2")
    storage.write_text(f"{broken}/manifest.json", "{")
    assert remove_spare(paths, DATE, [str(tmp_path / "items")]) == ["b"]
    assert storage.folder_names(paths.models) == ["a"]
