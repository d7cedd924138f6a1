from __future__ import annotations

import contextlib
import re
import threading
import time
from pathlib import Path

import psutil
import pytest

from dssm import storage
from dssm.errors import LostRankError, UserError
from dssm.manifest import read_manifest
from dssm.paths import RunPaths
from dssm.stream.plan import plan_epoch
from dssm.train.launch import _environment, train
from tests.datasets import write_run
from tests.train.conftest import launch

pytestmark = pytest.mark.horovod


@pytest.mark.parametrize("how", ["killed", "silent", "failed"])
def test_a_lost_rank_ends_the_launch(tmp_path: Path, how: str):
    settings = write_run(tmp_path, launch="horovodrun", ranks=2, epochs=2, start_timeout_s=60, stall_shutdown_s=8)
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    started = time.monotonic()
    done = launch(
        2,
        "tests.train.losing",
        str(tmp_path / "settings.json"),
        how,
        limit_s=200,
        **_environment(settings, report_to=""),
    )
    assert time.monotonic() - started < 180
    assert done.code == 1
    assert f"rank 1 is {how}" in done.output
    assert "the training went on" not in done.output
    assert done.output.count("Traceback") == (how == "failed")  # of the rank whose fault it was, and of no other
    assert "most recent call first" not in done.output
    if how == "silent":
        told = r"rank (\d): no step for 8 s \(train.stall_shutdown_s\); it stands at (.*)"
        stood = dict(re.findall(told, done.output))
        assert stood.keys() == {"0", "1"}
        assert stood["1"].endswith("losing_step")
        assert not stood["0"].endswith("losing_step")
        assert "no step was taken in time; where each rank stood, and the limit, is above" in done.output
    else:
        told = r"rank \d was the first to end: it ended with exit code -?\d+, its output is above"
        assert re.search(told, done.output)
    assert not storage.exists(RunPaths(settings.run_folder).model)


@pytest.mark.parametrize(("where", "rank"), [("setting_up", "1"), ("saving", "0")])
def test_a_rank_that_falls_silent_where_no_steps_are_taken_ends_the_launch(tmp_path: Path, where: str, rank: str):
    settings = write_run(tmp_path, launch="horovodrun", ranks=2, start_timeout_s=60, pause_limit_s=30)
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    environment = _environment(settings, report_to="")
    done = launch(2, "tests.train.losing", str(tmp_path / "settings.json"), where, limit_s=240, **environment)
    assert done.code == 1
    told = r"rank (\d): no step for 30 s \(train.pause_limit_s\); it stands at (.*)"
    stood = dict(re.findall(told, done.output))
    assert stood.keys() == {"0", "1"}
    assert {name for name, place in stood.items() if place.endswith(where)} == {rank}
    assert "no step was taken in time; where each rank stood, and the limit, is above" in done.output


def test_the_others_wait_for_a_best_epoch_that_takes_long_to_write(tmp_path: Path):
    validation = {"days": 1, "metric": "auc"}
    settings = write_run(
        tmp_path, (40, 40), launch="horovodrun", ranks=2, epochs=2, validation=validation, stall_shutdown_s=8,
        start_timeout_s=60,
    )  # fmt: skip
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    environment = _environment(settings, report_to="")
    done = launch(2, "tests.train.losing", str(tmp_path / "settings.json"), "slow_best", limit_s=150, **environment)
    assert done.code == 0, done.output
    assert "the training went on" in done.output
    assert storage.exists(RunPaths(settings.run_folder).model)


def test_a_rank_that_is_killed_is_a_lost_rank_of_the_job(tmp_path: Path):
    settings = write_run(tmp_path, launch="horovodrun", ranks=2, epochs=1000)
    is_over = threading.Event()
    killer = threading.Thread(target=_kill_a_rank, args=(is_over,), daemon=True)
    killer.start()
    try:
        told = "horovodrun ended with exit code 1, its output is above; the same command"
        with pytest.raises(LostRankError, match=told):
            train(settings)
    finally:
        is_over.set()
        killer.join()
    assert not storage.exists(RunPaths(settings.run_folder).model)


def _kill_a_rank(is_over: threading.Event) -> None:
    while not is_over.wait(0.1):
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has just ended
                command = process.cmdline()
                if "dssm.train.rank" in command and "dssm.train.horovodrun" not in command and "-c" not in command:
                    process.kill()
                    return


@pytest.mark.spark
@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize("launched_by", ["horovodrun", "spark"])
def test_a_file_that_one_rank_alone_finds_damaged_is_the_users_to_mend(tmp_path: Path, launched_by: str):
    settings = write_run(tmp_path, launch=launched_by, ranks=2, epochs=1)
    paths = RunPaths(settings.run_folder)
    files = read_manifest(paths.part("train"), "build_samples").files
    plan = plan_epoch([file.rows for file in files], settings.seed, 0, 2, settings.train.batch_size)
    damaged = Path(paths.part("train")) / files[plan.files[1][0]].name
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(UserError, match=damaged.name) as caught:
        train(settings)
    assert caught.value.exit_code == 2
    assert not storage.folder_names(paths.launches)


def test_hosts_with_too_few_slots_are_the_users_to_mend(tmp_path: Path):
    settings = write_run(tmp_path, launch="horovodrun", ranks=2, hosts="127.0.0.1:1")
    with pytest.raises(UserError, match=r"horovodrun has started no rank: Requested more processes \(2\)") as caught:
        train(settings)
    assert caught.value.exit_code == 2
