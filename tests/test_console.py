from __future__ import annotations

import io
import json
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dssm import console
from dssm.console import LoggedConsole, measured, out, show_progress, step, table, warn
from dssm.observe.records import JobLog, logged_to


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Path]:
    """The file of a log that is open, with everything from debug on."""
    path = tmp_path / "jobs" / "train.jsonl"
    common = {"run_id": "r1", "run": "demo/2024-01-15", "job": "train", "date": "2024-01-15"}
    with logged_to(JobLog(str(path), logging.DEBUG, common)):
        yield path


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_step_prints_one_line_and_logs_its_counts(lines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with step("event logs of 2024-01-15", "event logs") as remarks:
        remarks.counted("train", 1234)
        remarks.counted("items", 5, "5 items")
        remarks.append("all known")
        warn("  [3] is odd")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "  [3] is odd"
    assert re.fullmatch(r"✓ event logs of 2024-01-15 \d+\.\d s  train 1,234, 5 items, all known", printed[1])
    begins, odd, done = read(lines)
    common = {"run_id": "r1", "run": "demo/2024-01-15", "job": "train", "date": "2024-01-15", "stage": "event logs"}
    assert begins == {"time": begins["time"], "level": "debug", **common, "message": "event logs of 2024-01-15: begins"}
    assert (odd["level"], odd["message"], odd["stage"]) == ("warning", "[3] is odd", "event logs")
    assert done["counts"] == {"train": 1234, "items": 5}
    assert done["message"] == "event logs of 2024-01-15 done: train 1,234, 5 items, all known"
    assert 0 <= done["seconds"] < 60
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(done["time"]))


def test_a_step_that_fails_is_logged_and_prints_nothing(lines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), step("vocabularies"):
        raise KeyError("x")
    assert capsys.readouterr().out == ""
    failed = read(lines)[-1]
    assert (failed["level"], failed["message"], failed["failed"]) == ("error", "vocabularies failed: KeyError", True)


def test_what_is_printed_is_logged_without_its_styles(lines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out.print("  [bold]two[/bold] lines\nof text")
    out.print("[a/b]", markup=False)
    out.print("not logged", level=None)
    measured("loss 0.5", {"loss": 0.5})
    table("Items", ["id", "n"], [["x", "1"]])
    shown = [record["message"] for record in read(lines)]
    assert shown[:4] == ["two lines", "of text", "[a/b]", "loss 0.5"]
    assert shown[4:] == ["Items"]
    assert (read(lines)[4]["columns"], read(lines)[4]["rows"]) == (["id", "n"], [["x", "1"]])
    assert read(lines)[3]["measures"] == {"loss": 0.5}
    assert "loss 0.5" not in capsys.readouterr().out


def test_without_a_log_nothing_is_kept_and_nothing_is_added(capsys: pytest.CaptureFixture[str]) -> None:
    warn("careful")
    measured("loss 0.5", {"loss": 0.5}, logging.ERROR)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("careful\n", "")


def test_no_progress_is_drawn_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with step("evaluate"):
        show_progress(3, 8, "3/8 tasks")
    assert re.fullmatch(r"✓ evaluate \d+\.\d s\n", capsys.readouterr().out)


def test_a_terminal_shows_each_step_and_the_tasks_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps at once, as of dates side by side: rich alone refuses a second display."""
    drawn = io.StringIO()
    monkeypatch.setattr(console, "out", LoggedConsole(file=drawn, force_terminal=True, width=100, color_system=None))
    inside, go_on = threading.Barrier(2), threading.Barrier(2)

    def other() -> None:
        with step("second"):
            inside.wait(30)
            go_on.wait(30)

    thread = threading.Thread(target=other)
    with step("first [x]"):
        thread.start()
        inside.wait(30)
        show_progress(3, 8, "3/8 tasks")
        assert console._display._progress is not None
        console._display._progress.refresh()
        go_on.wait(30)
        thread.join()
    text = drawn.getvalue()
    assert "first [x]" in text
    assert "second" in text
    assert "3/8 tasks" in text
    assert console._display._progress is None  # the last one takes the display away
    assert re.search(r"✓ second .*✓ first", text, re.DOTALL)
