from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from dssm.report.run_facts import note_refusal, read_facts
from dssm.report.status import show_status, status_rows
from tests.report.full_run import full_run, samples_run

JOBS = ["build_samples", "train", "evaluate", "score_items", "index_items"]


def test_every_job_with_its_time_and_what_it_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = read_facts(full_run(tmp_path))
    rows = {row[0]: row[1:] for row in status_rows(facts, dt.UTC)}
    assert list(rows)[:5] == JOBS
    for job in JOBS:
        used = facts.used[job]
        assert rows[job][0] == f"{used.began:%Y-%m-%d %H:%M}"
        assert rows[job][2] == f"{used.peak_bytes / 2**30:.2f} GiB ({used.peak_process})"
    assert "40 train rows, 8 test rows, 60 items" in rows["build_samples"][3]
    assert "60 vectors" in rows["score_items"][3]
    show_status(facts)
    printed = capsys.readouterr().out
    assert [job for job in JOBS if job in printed] == JOBS


def test_what_has_not_run_and_what_a_gate_refused(tmp_path: Path) -> None:
    paths = samples_run(tmp_path)
    note_refusal(paths, "score_items", "gate: too low")
    rows = {row[0]: row[1:] for row in status_rows(read_facts(paths), dt.UTC)}
    assert rows["train"] == ["–", "–", "–", "has not run"]
    at = read_facts(paths).refusals["score_items"].at
    assert rows["score_items"][3] == f"refused {at.astimezone(dt.UTC):%Y-%m-%d %H:%M}: gate: too low"
