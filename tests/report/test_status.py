from __future__ import annotations

import datetime as dt
import os
import socket
import subprocess
from pathlib import Path

import pytest

from dssm.attempts import Attempt, note_attempt, read_attempts
from dssm.errors import UserError
from dssm.paths import RunPaths
from dssm.report.run_facts import note_refusal, read_facts
from dssm.report.runs import find_run
from dssm.report.status import rows_without_samples, show_status, status_rows
from tests.report.full_run import full_run, samples_run

JOBS = ["build_samples", "train", "evaluate", "score_items", "index_items"]
AT = dt.datetime(2024, 1, 9, 4, 30, tzinfo=dt.UTC)


def attempt(job: str, **over: object) -> Attempt:
    given = {"job": job, "run_id": "r1", "began": AT, "host": socket.gethostname(), "pid": os.getpid(), **over}
    return Attempt.model_validate(given)


def by_job(rows: list[list[str]]) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in rows}


def test_every_job_with_its_time_and_what_it_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = full_run(tmp_path)
    facts = read_facts(paths)
    rows = by_job(status_rows(facts, {}, dt.UTC))
    assert list(rows)[:5] == JOBS
    for job in JOBS:
        used = facts.used[job]
        assert rows[job][0] == f"{used.began:%Y-%m-%d %H:%M}"
        assert rows[job][2] == f"{used.peak_bytes / 2**30:.2f} GiB ({used.peak_process})"
    assert "40 train rows, 8 test rows, 60 items" in rows["build_samples"][3]
    assert "60 vectors" in rows["score_items"][3]
    show_status(paths)
    printed = capsys.readouterr().out
    assert [job for job in JOBS if job in printed] == JOBS


def test_what_has_not_run_and_what_a_gate_refused(tmp_path: Path) -> None:
    paths = samples_run(tmp_path)
    note_refusal(paths, "score_items", "gate: too low")
    refused = attempt("score_items", ended=AT, exit_code=3, error="gate: too low")
    rows = by_job(status_rows(read_facts(paths), {"score_items": refused}, dt.UTC))
    assert rows["train"] == ["–", "–", "–", "has not run"]
    at = read_facts(paths).refusals["score_items"].at
    told = f"refused {at.astimezone(dt.UTC):%Y-%m-%d %H:%M}: gate: too low"
    assert rows["score_items"] == ["2024-01-09 04:30", "0.0 s", "–", told]  # once


def test_a_failure_stands_beside_what_the_job_left_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = full_run(tmp_path)
    ended = AT + dt.timedelta(minutes=3)
    failed = attempt("train", ended=ended, exit_code=2, error="train.ranks: 9 ranks", stage="samples")
    note_attempt(paths, failed)
    note_attempt(paths, attempt("rollback", ended=ended, exit_code=0))
    rows = by_job(status_rows(read_facts(paths), read_attempts(paths), dt.UTC))
    assert " epochs, " in rows["train"][3]
    assert rows["train"][3].endswith("; failed 2024-01-09 04:33 in 'samples', exit code 2: train.ranks: 9 ranks")
    assert rows["rollback"] == ["2024-01-09 04:30", "3 min 0 s", "–", "done"]
    show_status(paths)
    assert f"log of train: {paths.folder}/jobs/train.jsonl\n" in capsys.readouterr().out


def test_a_run_whose_first_job_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = RunPaths(f"{tmp_path}/feed/2024-01-09")
    note_attempt(paths, attempt("build_samples", ended=AT, exit_code=1, error="RuntimeError: x"))
    assert find_run("feed", str(tmp_path), begun=True).folder == paths.folder
    with pytest.raises(UserError, match="holds no finished samples"):
        find_run("feed/2024-01-09", str(tmp_path))
    rows = rows_without_samples(read_attempts(paths), dt.UTC)
    told = "failed 2024-01-09 04:30, exit code 1: RuntimeError: x"
    assert rows == [["build_samples", "2024-01-09 04:30", "0.0 s", "–", told]]
    show_status(paths)
    assert "feed 2024-01-09" in capsys.readouterr().out


def test_one_that_runs_and_one_that_was_killed(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    now = dt.datetime.now(dt.UTC)
    found = {
        "train": attempt("train", began=now),
        "evaluate": attempt("evaluate", pid=gone.pid),
        "score_items": attempt("score_items", host="elsewhere"),
    }
    rows = by_job(rows_without_samples(found, dt.UTC))
    assert rows["train"][3] == f"began {now:%Y-%m-%d %H:%M} and runs on {socket.gethostname()}, or was killed"
    assert rows["evaluate"][3] == "began 2024-01-09 04:30 and was killed, or its host went down"
    assert rows["score_items"][3] == "began 2024-01-09 04:30 and runs on elsewhere, or was killed"
    assert attempt("index_items").was_killed  # this process began after that start: another one had its number
