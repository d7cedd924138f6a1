"""A model that is trained over another: what is published of the one before still finds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dssm import storage
from dssm.model.export import LoadedTower
from dssm.model.kept import model_of
from dssm.model.manifest import read_model_manifest
from dssm.paths import RunPaths
from dssm.train import worker
from tests.datasets import make_settings, write_run
from tests.scoring.tables import manifest_of

pytestmark = [pytest.mark.usefixtures("single_rank"), pytest.mark.slow]

ROWS = (17, 23)


class KilledError(BaseException):
    """Nothing that handles errors stops it."""


def test_the_model_before_is_found_also_where_a_save_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = write_run(tmp_path, ROWS)
    paths = RunPaths(settings.run_folder)
    first = worker.train_here(settings, lambda report: None)
    tower = storage.folder_digest(f"{paths.model}/user_tower")
    other, renamed = make_settings(tmp_path, learning_rate=0.5, checkpoint={"every_steps": 3}), []
    rename = storage.rename

    def killed(source: str, target: str) -> None:
        if renamed or target == paths.model:  # between the two renames
            renamed.append(target)
            raise KilledError
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "rename", killed)
        with pytest.raises(KilledError):
            worker.train_here(other, lambda report: None)
    assert renamed
    assert not Path(paths.model).exists()

    made = manifest_of(model_version=first.model_version)
    for _ in range(2):
        found = model_of(paths, made).model
        assert found == f"{paths.models}/{first.model_version}"
        assert read_model_manifest(found) == first
        assert storage.folder_digest(f"{found}/user_tower") == tower
        second = worker.train_here(other, lambda report: None)  # the rerun; then one that trains the same anew
    assert second.model_version != first.model_version
    assert read_model_manifest(paths.model) == second
    assert storage.folder_names(paths.models) == [first.model_version]
    assert LoadedTower(f"{paths.model}/user_tower").inputs == LoadedTower(f"{found}/user_tower").inputs
