"""Retention: a model that train has set aside goes with the last version that is of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dssm import storage
from dssm.model.kept import new_model
from dssm.paths import RunPaths
from dssm.scoring.publish import roll_back
from dssm.scoring.table import Table
from tests.scoring.tables import DATE, folders, publish_version, table_at
from tests.serving.tables import model_manifest

NEXT = "2024-01-09"


def train(root: Path, *versions: str, date: str = DATE) -> RunPaths:
    paths = RunPaths(f"{root}/runs/{date}")
    for version in versions:
        with new_model(paths) as folder:
            storage.write_text(f"{folder}/manifest.json", model_manifest(date, 2, version).model_dump_json())
    return paths


def items_at(root: Path, date: str = DATE, **section: Any) -> Table:
    table = table_at(root, date, kind="path", **section)
    return replace(table, runs=f"{root}/runs", beside=[f"{root}/beside/table"])


def models(paths: RunPaths) -> list[str]:
    return storage.folder_names(paths.models)


@pytest.mark.usefixtures("no_grace")
def test_a_model_stays_as_long_as_a_version_is_of_it(tmp_path: Path) -> None:
    table = items_at(tmp_path, keep_versions=2, keep_days=0)
    paths = train(tmp_path, "a")
    publish_version(table, "v1", model_version="a")
    train(tmp_path, "never", "b")
    assert models(paths) == ["a", "never"]
    publish_version(table, "v2", model_version="b")
    assert models(paths) == ["a"]
    train(tmp_path, "c")
    roll_back(table, "v1")
    assert models(paths) == ["a", "b"]
    publish_version(table, "v3", model_version="c")
    assert folders(tmp_path / f"table/dt={DATE}") == ["_current", "version=v2", "version=v3"]
    assert models(paths) == ["b"]


@pytest.mark.usefixtures("no_grace")
def test_a_version_of_the_other_table_keeps_the_model(tmp_path: Path) -> None:
    paths = train(tmp_path, "a")
    publish_version(table_at(tmp_path / "beside", kind="path"), "v1", model_version="a")
    train(tmp_path, "b")
    publish_version(items_at(tmp_path), "v2", model_version="b")
    assert models(paths) == ["a"]


@pytest.mark.usefixtures("no_grace")
def test_a_later_date_removes_the_models_of_versions_that_it_removes(tmp_path: Path) -> None:
    first, kept = items_at(tmp_path), {"keep_versions": 1, "keep_days": 0}
    paths = train(tmp_path, "a")
    publish_version(first, "v1", model_version="a")
    train(tmp_path, "b")
    publish_version(first, "v2", model_version="b")
    assert models(paths) == ["a"]
    train(tmp_path, "z", date=NEXT)
    publish_version(items_at(tmp_path, NEXT, **kept), "v3", model_version="z")
    assert folders(tmp_path / f"table/dt={DATE}") == ["_current", "version=v2"]
    assert models(paths) == []
