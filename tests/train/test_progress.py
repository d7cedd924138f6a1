from __future__ import annotations

import io
import json
import re
import socket
import threading
import time
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.console import LoggedConsole
from dssm.train import progress
from dssm.train.progress import MARK, ProgressView, Report, ReportListener, ReportStream, as_line, reporter

FIRST = Report(epoch=1, epochs=2, step=3, steps=9, rows_per_s=1234.5, loss=0.25, seconds=1.5)
LAST = Report(epoch=2, epochs=2, step=9, steps=9, rows_per_s=1e6, loss=1e-7, seconds=60.0, auc=0.75)

numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 10**9)
reports = st.builds(Report, counts, counts, counts, counts, numbers, numbers, numbers, st.none() | numbers)


def _shown(*chunks: str) -> tuple[list[Report], str]:
    """What a stream shows of text written in these chunks, and what it passes on."""
    shown: list[Report] = []
    passed = io.StringIO()
    stream = ReportStream(shown.append, passed)
    assert sum(stream.write(chunk) for chunk in chunks) == sum(map(len, chunks))
    return shown, passed.getvalue()


@given(report=reports)
@settings(deadline=None)
def test_a_report_is_one_line_that_gives_it_back(report: Report):
    line = as_line(report)
    assert "\n" not in line
    assert json.loads(line.removeprefix(MARK))["loss"] == report.loss
    assert _shown(line + "\n") == ([report], "")


@given(cuts=st.lists(st.integers(0, 400), max_size=12))
@settings(deadline=None)
def test_reports_survive_any_cutting_and_other_lines_are_passed_on(cuts):
    text = f"[0]<stdout>:loading\n[0]<stdout>:{as_line(FIRST)}\n\n   \n[1]<stderr>:a warning\n{as_line(LAST)}\nend\n"
    places = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    chunks = [text[start:end] for start, end in pairwise(places)]
    assert _shown(*chunks) == ([FIRST, LAST], "[0]<stdout>:loading\n[1]<stderr>:a warning\nend\n")


@pytest.mark.parametrize(
    "garbled", [f"{MARK}{{garbled", f"{MARK}3", f'{MARK}{{"epoch": 1}}', as_line(FIRST) + "Traceback"]
)
def test_a_report_that_other_output_ran_into_is_passed_on_as_text(garbled: str):
    assert _shown(f"{garbled}\n", as_line(LAST) + "\n") == ([LAST], f"{garbled}\n")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_bar_shows_what_a_training_is_at(monkeypatch: pytest.MonkeyPatch, width: int):
    drawn = io.StringIO()
    console = LoggedConsole(file=drawn, force_terminal=True, color_system=None, width=width)
    monkeypatch.setattr(progress, "out", console)
    with ProgressView() as view:
        view.show(replace(FIRST, input_wait=0.125, exchange=0.5, learning_rate=0.002))
    *_, last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.getvalue()).rpartition("epoch 1/2")
    _, eta, *state = last.replace("━", "").split(maxsplit=2)
    assert re.fullmatch(r"\d+:\d\d:\d\d|-:--:--", eta)
    shown = "step 3/9 loss 0.2500 1,234 samples/s input wait 12% exchange 50% learning rate 0.002"
    assert " ".join(state[0].split()) == shown


def test_a_log_file_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch):
    """Six of 18 steps took 3 s: the other twelve take 6 s."""
    written = io.StringIO()
    monkeypatch.setattr(progress, "out", LoggedConsole(file=written, width=120, soft_wrap=True))
    with ProgressView() as view:
        view.show(replace(FIRST, step=6, seconds=3.0, learning_rate=0.002))
        assert written.getvalue() == ""
        view._shown -= 11
        view.show(replace(FIRST, step=6, seconds=3.0, learning_rate=0.002))
    line = "  epoch 1/2  step 6/9  loss 0.2500  1,234 samples/s  input wait 0%  learning rate 0.002  ETA 6 s\n"
    assert written.getvalue() == line


def test_an_epoch_ends_with_the_auc_of_the_test_samples(monkeypatch: pytest.MonkeyPatch):
    written = io.StringIO()
    monkeypatch.setattr(progress, "out", LoggedConsole(file=written, width=120, soft_wrap=True))
    with ProgressView() as view:
        view.show(replace(LAST, loss=0.5, validation="recall@100 0.2500"))
    told = "  epoch 2/2  loss 0.5000  1,000,000 samples/s  test AUC 0.7500  validation recall@100 0.2500\n"
    assert written.getvalue() == told


def _wait_for(shown: list[Report]) -> None:
    deadline = time.monotonic() + 10
    while not shown and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_listener_has_shown_every_report_when_it_ends_and_leaves_no_thread():
    threads = set(threading.enumerate())
    shown: list[Report] = []
    with ReportListener(shown.append, "127.0.0.1") as listener:
        show = reporter(listener.address)
        show(FIRST)
        _wait_for(shown)
        for _ in range(199):
            show(FIRST)
        show(LAST)
        del show  # the rank's process ends
    assert shown == [FIRST] * 200 + [LAST]
    assert set(threading.enumerate()) <= threads


def test_a_listener_without_ranks_ends():
    threads = set(threading.enumerate())
    with ReportListener(pytest.fail, "127.0.0.1"):
        pass
    assert set(threading.enumerate()) <= threads


def test_who_does_not_know_the_token_is_not_listened_to():
    shown: list[Report] = []
    with ReportListener(shown.append, "127.0.0.1") as listener:
        host, port, token = listener.address.split(":")
        with socket.create_connection((host, int(port))) as stranger:
            stranger.sendall(f"{token[:-1]}\n{as_line(FIRST)}\n".encode())
        show = reporter(listener.address)
        show(LAST)
        _wait_for(shown)
        del show
    assert shown == [LAST]


def test_a_first_rank_that_fell_silent_keeps_no_other_from_reporting():
    shown: list[Report] = []
    with ReportListener(shown.append, "127.0.0.1") as listener:
        lost = reporter(listener.address)
        lost(FIRST)
        _wait_for(shown)
        show = reporter(listener.address)
        show(LAST)
        deadline = time.monotonic() + 20
        while len(shown) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        del show, lost
    assert shown == [FIRST, LAST]


def test_reports_go_to_the_output_where_nobody_listens(capsys: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    reporter(f"127.0.0.1:{port}:token")(FIRST)
    reporter(None)(LAST)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"progress: no answer from 127.0.0.1:{port}")
    assert lines[1:] == [as_line(FIRST), as_line(LAST)]
