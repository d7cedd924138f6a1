"""Ctrl-C: one line, no rank that stays, and no talk of a lost one."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from horovod.runner import gloo_run

from dssm import storage
from dssm.errors import LostRankError
from dssm.train import launch
from dssm.train.interrupts import interrupts_told
from tests.datasets import write_run


def _handlers() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def _wait_for(threads_before: set[threading.Thread]) -> None:
    for thread in set(threading.enumerate()) - threads_before:
        thread.join(5)


def _interrupted_twice(told: list[str]) -> None:
    with interrupts_told(lambda: told.append("broken off")):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        told.append("went on")


def test_an_interrupt_is_told_once_and_ends_what_goes_on() -> None:
    told: list[str] = []
    before, threads = _handlers(), set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        _interrupted_twice(told)
    _wait_for(threads)
    assert told == ["broken off"]
    assert _handlers() == before


def test_what_is_being_started_is_there_before_an_interrupt_ends_it() -> None:
    told: list[str] = []
    before, threads = _handlers(), set(threading.enumerate())

    def started() -> None:
        with interrupts_told(lambda: told.append("broken off")) as interrupts, interrupts.held():
            signal.raise_signal(signal.SIGINT)
            _wait_for(threads)
            signal.raise_signal(signal.SIGINT)
            told.append("started")

    with pytest.raises(KeyboardInterrupt):
        started()
    assert told == ["broken off", "started"]
    assert _handlers() == before


def _launched(told: list[str], *signals: signal.Signals) -> None:
    """A launcher that waits for its event, and calls the end of its ranks the loss of one."""
    with interrupts_told(lambda: told.append("broken off")) as interrupts, interrupts.ending_ranks():
        event = gloo_run.register_shutdown_event()
        assert not event.is_set()
        for number in signals:
            signal.raise_signal(number)
        assert event.is_set()
        told.append("ranks ended")
        raise LostRankError("it ended with exit code 143")


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, LostRankError)])
def test_a_launcher_ends_its_ranks_first(number: signal.Signals, error: type[BaseException]) -> None:
    told: list[str] = []
    before, threads = _handlers(), set(threading.enumerate())
    with pytest.raises(error):
        _launched(told, number)
    _wait_for(threads)
    assert sorted(told) == ["broken off"] * (number == signal.SIGINT) + ["ranks ended"]
    assert _handlers() == before


def test_the_second_interrupt_waits_for_no_rank() -> None:
    told: list[str] = []
    threads = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        _launched(told, signal.SIGINT, signal.SIGINT)
    _wait_for(threads)
    assert told == ["broken off"]


def _ended_well(told: list[str]) -> None:
    with interrupts_told(lambda: told.append("broken off")) as interrupts, interrupts.ending_ranks():
        gloo_run.register_shutdown_event()
        signal.raise_signal(signal.SIGINT)
        told.append("model")


def test_an_interrupt_that_no_launcher_looked_at_ends_the_training_all_the_same() -> None:
    """It came when the ranks had ended well, and no other date may begin."""
    told: list[str] = []
    before, threads = _handlers(), set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        _ended_well(told)
    _wait_for(threads)
    assert sorted(told) == ["broken off", "model"]
    assert _handlers() == before


def test_an_interrupt_stays_ignored_where_it_was() -> None:
    """As in what a script starts with &: who presses Ctrl-C means another."""
    told: list[str] = []
    own = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_told(lambda: told.append("broken off")) as interrupts, interrupts.ending_ranks():
            event = gloo_run.register_shutdown_event()
            signal.raise_signal(signal.SIGINT)
            assert not event.is_set()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, own)
    assert not told
    assert not interrupts.met


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(LostRankError), interrupts_told(lambda: None):
        raise LostRankError("its host is gone")


@pytest.mark.parametrize(
    ("left", "resume", "how"),
    [
        (
            "checkpoints/step-0000000010-000000/x",
            True,
            "the same command goes on from the last checkpoint, if that is of these settings and samples",
        ),
        (
            "checkpoints/step-0000000010-000000/x",
            False,
            "the same command begins at the first step (train.resume)",
        ),
        ("checkpoints/owner", True, "the same command begins at the first step: there is no checkpoint"),
        (
            "model/manifest.json",
            True,
            "there is a whole model, and the same command trains it anew, from the first step",
        ),
    ],
)
def test_a_broken_off_launch_says_how_it_goes_on_and_leaves_no_process(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    left: str,
    resume: bool,
    how: str,
) -> None:
    started, script = tmp_path / "started", tmp_path / "horovodrun"
    script.write_text(f"#!/bin/sh\necho $$ > {started}.tmp; mv {started}.tmp {started}; exec sleep 60\n", "utf-8")
    script.chmod(0o755)
    monkeypatch.setattr(launch, "sys", SimpleNamespace(executable=str(script)))

    def interrupt() -> None:
        while not started.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    settings = write_run(tmp_path, launch="horovodrun", ranks=2, resume=resume)
    storage.write_text(f"{settings.run_folder}/{left}", "")
    threads = set(threading.enumerate())
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        launch.train(settings)
    _wait_for(threads)
    assert f"train: broken off; {how}\n" in capsys.readouterr().err
    assert not psutil.pid_exists(int(started.read_text("utf-8")))
