"""Real elastic launches on two addresses of this machine: a rank is lost, another joins."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dssm.config import Settings
from dssm.paths import RunPaths
from dssm.train.checkpoint import read_checkpoint
from dssm.train.launch import _elastic_options, _environment
from dssm.train.result import TrainResult
from tests.datasets import write_run
from tests.train.conftest import ROOT
from tests.train.events import curves_of

pytestmark = pytest.mark.horovod

ROWS = (60, 60, 60, 60)  # 60 steps an epoch of one rank, 30 of two


def start(settings: Settings, folder: Path, *hosts: str) -> subprocess.Popen[str]:
    """Starts horovodrun with the hosts that stand in `folder`/hosts, which may change."""
    write_hosts(folder, *hosts)
    script = Path(settings.train.elasticity.hosts_script or "")
    script.write_text(f"#!/bin/sh\ncat {folder}/hosts\n", encoding="utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (folder / "settings.json").write_text(settings.model_dump_json(), encoding="utf-8")
    command = [
        sys.executable, "-m", "dssm.train.horovodrun", "-np", str(settings.train.ranks), "--gloo",
        "--network-interfaces", "lo", "--start-timeout", "60",
        *_elastic_options(settings.train, settings.train.elasticity),
        sys.executable, "-m", "tests.train.rank", "tests.train.stepping", str(folder),
    ]  # fmt: skip
    environment = {**os.environ, **_environment(settings, report_to=""), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def write_hosts(folder: Path, *hosts: str) -> None:
    replace_text(folder / "hosts", "".join(f"{host}:1\n" for host in hosts))


def replace_text(path: Path, text: str) -> None:
    """Writes a file that the ranks read meanwhile."""
    made = path.with_suffix(".tmp")
    made.write_text(text, encoding="utf-8")
    made.replace(path)


def elastic_run(folder: Path, ranks: int) -> Settings:
    script = str(folder / "hosts.sh")
    elastic = {"min_ranks": 1, "max_ranks": max(ranks, 2), "commit_every_steps": 5, "hosts_script": script}
    return write_run(
        folder, ROWS, launch="horovodrun", ranks=ranks, epochs=2, elastic=elastic, start_timeout_s=60,
        checkpoint={"every_steps": 1000}, interfaces="lo",
    )  # fmt: skip


def ended(process: subprocess.Popen[str], limit_s: float = 400) -> str:
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        pytest.fail(f"not at its end after {limit_s} s:\n{output}")
    assert process.returncode == 0, output
    return output


def steps_by_rank(folder: Path) -> dict[tuple[int, int], int]:
    """Steps taken, by (ranks, rank), of all processes."""
    taken: dict[tuple[int, int], int] = {}
    for path in folder.glob("steps-*"):
        for line in path.read_text(encoding="utf-8").splitlines():
            ranks, rank = map(int, line.split())
            taken[ranks, rank] = taken.get((ranks, rank), 0) + 1
    return taken


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_rank_costs_the_steps_since_the_last_commit(tmp_path: Path, lost: int):
    settings = elastic_run(tmp_path, ranks=2)
    (tmp_path / "kill").write_text(f"rank {lost} at step 13", encoding="utf-8")
    process = start(settings, tmp_path, "localhost", "127.0.0.1")
    output = ended(process)
    model = TrainResult.model_validate_json((tmp_path / "result.json").read_text(encoding="utf-8")).unwrap()

    # 10 steps by two ranks were committed, 80 rows; the other 160 rows of the epoch are 40 steps of one.
    assert (model.ranks, model.steps) == (1, 10 + 40 + 60), output
    taken = steps_by_rank(tmp_path)
    assert taken[2, lost] == 12
    assert 12 <= taken[2, 1 - lost] <= 13
    assert taken[1, 0] == 40 + 60
    state, _ = read_checkpoint(f"{RunPaths(settings.run_folder).model}/checkpoint")
    assert state.place.steps == model.steps
    assert max(curves_of(settings)["loss"]) == model.steps  # whichever rank draws


def test_a_rank_that_is_lost_while_the_others_meet_again_is_one_more_lost_rank(tmp_path: Path):
    settings = elastic_run(tmp_path, ranks=3)
    (tmp_path / "kill").write_text("rank 2 at step 8", encoding="utf-8")
    (tmp_path / "kill_meeting").write_text("rank 1", encoding="utf-8")
    output = ended(start(settings, tmp_path, "localhost", "127.0.0.1", socket.gethostname()))
    model = TrainResult.model_validate_json((tmp_path / "result.json").read_text(encoding="utf-8")).unwrap()
    assert not (tmp_path / "kill_meeting").exists()
    assert model.ranks == 1, output
    taken = steps_by_rank(tmp_path)
    assert taken[3, 2] == 7
    assert not any(ranks == 2 for ranks, _ in taken)
    assert model.steps == 5 + taken[1, 0]  # 5 steps by three ranks were committed
    assert 5 * 3 * 4 + taken[1, 0] * 4 >= 2 * sum(ROWS)


def test_a_new_rank_joins_at_a_commit(tmp_path: Path):
    settings = elastic_run(tmp_path, ranks=1)
    (tmp_path / "slow").write_text("0.2", encoding="utf-8")
    process = start(settings, tmp_path, "localhost")
    until = time.monotonic() + 180
    while steps_by_rank(tmp_path).get((1, 0), 0) < 3:  # before, the rank would not hear of more hosts
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    write_hosts(tmp_path, "localhost", "127.0.0.1")
    while (2, 1) not in steps_by_rank(tmp_path) and process.poll() is None:
        time.sleep(0.1)
    replace_text(tmp_path / "slow", "0.02 0.4")
    output = ended(process)
    model = TrainResult.model_validate_json((tmp_path / "result.json").read_text(encoding="utf-8")).unwrap()
    taken = steps_by_rank(tmp_path)
    assert model.ranks == 2, output
    assert taken[2, 0] == taken[2, 1] > 10
    alone = taken[1, 0]  # at a commit nothing is lost
    assert alone % 5 == 0
    assert model.steps == alone + taken[2, 0]
    assert alone * 4 + taken[2, 0] * 8 >= 2 * sum(ROWS)

    # Both go at the pace of the slower one, which its own speed tells.
    curves = curves_of(settings)
    own = [curves[f"own_samples_per_s/rank_{rank}"] for rank in range(2)]
    looks = sorted(own[1])
    assert looks[0] > alone
    assert looks == sorted(step for step in curves["samples_per_s/rank_0"] if step > alone)
    assert own[1][looks[-1]] < 0.8 * own[0][looks[-1]]
