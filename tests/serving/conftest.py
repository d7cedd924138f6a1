"""One run for all tests of the service; those that change it make a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dssm.paths import RunPaths
from tests.serving.runs import write_served_run


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    return write_served_run(tmp_path_factory.mktemp("served"))


@pytest.fixture
def own_run(served: RunPaths, tmp_path: Path) -> RunPaths:
    """A copy of the run, with a table of its own."""
    from dssm import published

    pipeline = Path(served.folder).parent
    shutil.copytree(pipeline, tmp_path / pipeline.name)
    paths = RunPaths(str(tmp_path / pipeline.name / Path(served.folder).name))
    published.write_run_tables(paths.folder, {"items": str(tmp_path / pipeline.name / "item_table")})
    return paths
