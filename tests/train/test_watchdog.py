"""A process that takes no step in time is ended, whatever it is doing."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from dssm.sections import Train
from dssm.train.watchdog import GRACE_S, LOOK_S, SILENT, Watchdog, how_it_ended, standing_at
from tests.train.conftest import ROOT

pytestmark = pytest.mark.slow

BEGIN = "import re, time; from dssm.train import watchdog; watchdog.LAST_WORDS_S = 0; watchdog.GRACE_S = 1; "
EXPECT = "watched = watchdog.Watchdog(); watched.expect(1, rank=3, setting='a.limit_s'); "


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BEGIN + code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_default_limit_ends_a_job_within_two_minutes():
    limit_s = Train().stall_shutdown_s
    assert limit_s + LOOK_S + GRACE_S < 115  # the launcher ends the others within five seconds


def test_a_silent_process_says_where_it_stands():
    ended = run(EXPECT + "time.sleep(50)")
    assert ended.returncode == SILENT
    assert ended.stderr == "rank 3: no step for 1 s (a.limit_s); it stands at <string>:1 <module>\n"


def test_a_process_that_lets_no_python_run_is_ended_all_the_same():
    """A regular expression that holds the interpreter's lock."""
    ended = run(EXPECT + "time.sleep(0.8); re.match('(a+)+$', 'a' * 60 + 'b')")
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert "most recent call first" in ended.stderr


@pytest.mark.parametrize(
    "rests", ["watched.rest(); time.sleep(3)", "[(watched.expect(1, 3, ''), time.sleep(0.5)) for _ in range(6)]"]
)
def test_steps_in_time_and_rest_end_nothing(rests: str):
    ended = run(f"{EXPECT}{rests}; print('done')")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_a_thread_stands_in_this_packages_line_and_the_innermost():
    entered, over = threading.Event(), threading.Event()

    def waits() -> None:
        entered.set()
        over.wait()

    thread = threading.Thread(target=waits)
    thread.start()
    entered.wait()
    told = standing_at(thread.ident or 0)
    over.set()
    thread.join()
    assert told.startswith("threading.py:")
    assert standing_at(thread.ident or 0) == "its end"
    watched = Watchdog()
    watched.expect(600, rank=0, setting="a.limit_s")
    assert standing_at(watched._thread.ident).startswith("watchdog.py:")
    watched.rest()


def test_an_exit_code_tells_a_silence():
    assert how_it_ended(SILENT).startswith("no step was taken in time")
    assert how_it_ended(-9) == "it ended with exit code -9, its output is above"
