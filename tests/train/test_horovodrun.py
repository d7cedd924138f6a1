"""What is told of a launch by horovodrun that has ended badly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from horovod.runner.common.util.timeout import Timeout, TimeoutException

from dssm import storage
from dssm.config import load_settings
from dssm.errors import LostRankError, UserError
from dssm.model.manifest import ModelManifest
from dssm.sections.spark import Security
from dssm.train import launch
from dssm.train.horovodrun import why_it_ended
from dssm.train.result import FAULTS_TO, TrainResult, fault_left, leave_fault
from dssm.train.watchdog import SILENT
from tests.datasets import write_run

Leaves = Callable[[str, Mapping[str, str]], None]  # the place of rank 0's result, the ranks' environment
FIRST = "Horovod detected that one or more processes exited.\nProcess name: {}\nExit code: {}\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FIRST.format("127.0.0.2[1]", -9), "rank 127.0.0.2[1] was the first to end: it ended with exit code -9, "),
        (FIRST.format(0, SILENT), "rank 0 was the first to end: no step was taken in time; "),
        ("reset limit reached", "horovodrun: reset limit reached"),
    ],
)
def test_ranks_that_ended_are_no_fault_of_the_users(error: str, told: str):
    found = why_it_ended(RuntimeError(error))
    assert isinstance(found, str)
    assert found.startswith(told)


def test_ranks_that_did_not_start_are():
    timeout = Timeout(0, "Timed out waiting for {activity}.")
    timeout._timeout_at = 0
    with pytest.raises(TimeoutException) as late:
        timeout.check_time_out_for("minimum number of slots to become available")
    for error in (
        late.value,
        ValueError("Requested more processes (2) than there are available slots (1)"),
        RuntimeError("could not connect to some hosts via ssh"),
        RuntimeError("Job has been shutdown, see above error messages for details."),
    ):
        found = why_it_ended(error)
        assert isinstance(found, UserError)
        assert str(found).startswith(
            f"train.launch: horovodrun has started no rank: {str(error).rstrip('.')}; expected"
        )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], None),
        (["train.interfaces='eth0, ib0'"], {"eth0", "ib0"}),
        (["spark.security.interfaces=eth1"], {"eth1"}),
        (["spark.security.interfaces=eth1", "train.interfaces=ib0"], {"ib0"}),
    ],
)
def test_interfaces_of_the_ranks(overrides: list[str], expected: set[str] | None):
    assert launch.interfaces_of(load_settings("conf/demo.yaml", overrides)) == expected


@pytest.mark.parametrize(
    ("hosts", "told"), [("a:1,b:1", ["--network-interfaces", "eth1,ib0"]), (None, [])], ids=["several", "this one"]
)
def test_ranks_of_several_hosts_talk_over_the_interfaces_of_security(
    hosts: str | None, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = write_run(tmp_path, launch="horovodrun", ranks=2, hosts=hosts)
    spark = settings.spark.model_copy(update={"security": Security(interfaces="ib0, eth1")})
    started: list[list[str]] = []

    def start(command: list[str], **_: object) -> None:
        started.append(command)
        raise LostRankError("of the test")

    monkeypatch.setattr(launch.subprocess, "Popen", start)
    with pytest.raises(LostRankError, match="of the test"):
        launch.train(settings.model_copy(update={"spark": spark}))
    (command,) = started
    place = command.index("--network-interfaces") if "--network-interfaces" in command else len(command)
    assert command[place : place + 2] == told


def test_a_fault_is_left_for_the_job_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = str(tmp_path / "launch")
    assert fault_left(folder) is None
    leave_fault(folder, "rank 1", UserError("part-0: damaged"))
    assert fault_left(folder) == "part-0: damaged"
    (tmp_path / "file").write_text("")
    leave_fault(str(tmp_path / "file" / "below"), "rank 2", UserError("part-2: damaged"))
    assert capsys.readouterr().err == "rank 1: part-0: damaged\nrank 2: part-2: damaged\n"


@pytest.fixture
def trained_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Leaves], None]:
    """Trains by a horovodrun that leaves something and ends with exit code 1."""
    settings = write_run(tmp_path, launch="horovodrun", ranks=2)

    def run(leaves: Leaves) -> None:
        class Process:
            stdout, returncode = ("last words\n",), 1

            def __init__(self, command: list[str], env: dict[str, str], **_: object) -> None:
                leaves(command[-1], env)

            def __enter__(self) -> Process:
                return self

            def __exit__(self, *_: object) -> None:
                pass

        monkeypatch.setattr(launch.subprocess, "Popen", Process)
        launch.train(settings)

    return run


def test_a_fault_of_one_rank_takes_the_place_of_its_loss(trained_by: Callable[[Leaves], None]):
    with pytest.raises(UserError, match=r"^part-0: damaged$") as caught:
        trained_by(lambda result, env: leave_fault(env[FAULTS_TO], "rank 1", UserError("part-0: damaged")))
    assert caught.value.exit_code == 2
    with pytest.raises(LostRankError, match="horovodrun ended with exit code 1"):
        trained_by(lambda result, env: None)


def test_a_rank_that_is_lost_behind_the_model_costs_nothing(
    trained_by: Callable[[Leaves], None], capsys: pytest.CaptureFixture[str]
):
    model = ModelManifest(
        model_version="m1", date="2024-01-01", samples_build="b", vocabularies={}, user_columns={}, item_columns={},
        vector_dim=4, vector_norm=1.0, ranks=2, epochs=1, steps=1, rows_per_epoch=1, rows_per_s=1.0, loss=[1.0],
        auc=[None],
    )  # fmt: skip
    made = TrainResult(model=model).model_dump_json()
    trained_by(lambda result, env: storage.write_text(result, made))
    shown = " ".join(capsys.readouterr().out.split())
    assert "a rank was lost when the model was saved already: horovodrun ended with exit code 1" in shown
    assert "model m1" in shown
