from __future__ import annotations

import time
from pathlib import Path

import pytest

from dssm import storage
from dssm.paths import RunPaths
from dssm.train.launch import _environment
from tests.datasets import write_run
from tests.train.conftest import launch

pytestmark = pytest.mark.horovod


@pytest.mark.parametrize("how", ["killed", "silent", "failed"])
def test_a_lost_rank_ends_the_launch(tmp_path: Path, how: str):
    settings = write_run(tmp_path, launch="horovodrun", ranks=2, epochs=2, start_timeout_s=60, stall_shutdown_s=4)
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    started = time.monotonic()
    done = launch(
        2,
        "tests.train.losing",
        str(tmp_path / "settings.json"),
        how,
        limit_s=90,
        **_environment(settings, report_to=""),
    )
    assert time.monotonic() - started < 75
    assert done.code != 0
    assert f"rank 1 is {how}" in done.output
    assert "the training went on" not in done.output
    assert done.output.count("Traceback") == (how == "failed")  # of the rank whose fault it was, and of no other
    assert "was the first to end, with exit code" in done.output
    assert not storage.exists(RunPaths(settings.run_folder).model)
