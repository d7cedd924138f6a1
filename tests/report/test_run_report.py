from __future__ import annotations

import datetime as dt
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dssm import published
from dssm.config import Settings
from dssm.errors import GateError, UserError
from dssm.paths import RunPaths
from dssm.report import kept_map, run_report
from dssm.report.run_facts import Missing, read_refusals
from dssm.report.run_report import reported, write_report
from dssm.scoring.gates import check
from jobs import rollback
from jobs.report import main
from tests.report.full_run import (
    BEGAN,
    GATES,
    clustered_vectors,
    full_run,
    samples_run,
    settings_of,
    write_model,
    write_table,
)
from tests.report.test_page import Reader


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return samples_run(tmp_path)


def test_the_view_writes_the_page_of_the_run_that_is_named(
    paths: RunPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["tiny", "--root", str(tmp_path)])
    assert Path(paths.report).read_text().startswith("<!DOCTYPE html>")
    told = capsys.readouterr().out
    assert told.splitlines()[-1] == paths.report
    assert " MB; train, evaluate, score_items and index_items will add to it\n" in told


def test_the_map_is_laid_out_once_for_the_reports_of_all_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out: list[int] = []
    layout = kept_map.layout
    monkeypatch.setattr(kept_map, "layout", lambda vectors, seed: (laid_out.append(seed), layout(vectors, seed))[1])
    paths = full_run(tmp_path)
    pages = [Path(write_report(paths)).read_text(encoding="utf-8") for _ in range(2)]
    assert len(laid_out) == 1
    assert 'class="map"' in pages[0]
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    ("jobs", "told"),
    [
        ([], "0.1 MB"),
        (["evaluate", "evaluate"], "0.1 MB; evaluate will add to it"),
        (["evaluate", "score_items", "index_items"], "0.1 MB; evaluate, score_items and index_items will add to it"),
    ],
)
def test_the_closing_line_names_the_jobs_to_come_and_what_is_lost(jobs: list[str], told: str) -> None:
    to_come = [Missing("what", job, "it has not run", to_come=True) for job in jobs]
    assert run_report._remark(123_456, to_come) == told
    damaged = Missing("map", "score_items", "a.json can't be read (bad)")
    assert run_report._remark(123_456, [*to_come, damaged]) == f"{told}; without map: a.json can't be read (bad)"


def test_a_report_is_replaced(paths: RunPaths) -> None:
    assert write_report(paths) == paths.report
    assert "Towers" in Path(paths.report).read_text()
    write_model(paths)
    write_report(paths)
    assert "The weights are those of epoch 2" in Path(paths.report).read_text()
    assert [path.name for path in Path(paths.folder).glob(".*")] == []


def test_the_settings_are_those_of_the_job_else_of_the_model_else_of_the_samples(
    paths: RunPaths, tmp_path: Path
) -> None:
    def page_of(settings: Settings | None) -> str:
        write_report(paths, settings)
        return Path(paths.report).read_text()

    assert "batch_size: 4096" not in page_of(None).split("All settings")[0]
    write_model(paths)
    trained = settings_of(tmp_path, train={"loss": "weighted_bce", "batch_size": 4096})
    card = {"settings": trained.model_dump(mode="json", exclude={"spark"})}
    Path(paths.model, "model.json").write_text(json.dumps(card))
    assert "batch_size: 4096" in page_of(None).split("All settings")[0]
    asked = settings_of(tmp_path, train={"loss": "weighted_bce", "batch_size": 32})
    assert "batch_size: 32" in page_of(asked).split("All settings")[0]


# At the end of a job ----------------------------------------------------------------------------------------


def test_a_job_that_ends_well_leaves_its_report(paths: RunPaths, tmp_path: Path) -> None:
    with reported(settings_of(tmp_path), "build_samples"):
        assert not Path(paths.report).exists()
    assert "40 train rows" in Path(paths.report).read_text()


def test_dates_side_by_side_leave_a_report_each(tmp_path: Path) -> None:
    dates = [settings_of(tmp_path, date=dt.date(2024, 1, day)) for day in (8, 9, 10)]

    def run(settings: Settings) -> str:
        paths = samples_run(tmp_path, settings)
        write_model(paths, loss=[float(settings.date.day)])
        with reported(settings, "train"):
            pass
        return Path(paths.report).read_text()

    with ThreadPoolExecutor(3) as pool:
        pages = list(pool.map(run, dates))
    for settings, shown in zip(dates, pages, strict=True):
        assert f"tiny · {settings.date}</h1>" in shown
        assert f"loss {settings.date.day}<" in shown


def test_a_refusal_is_in_the_report_and_goes_on(paths: RunPaths, tmp_path: Path) -> None:
    with pytest.raises(GateError, match="gate: too bad"), reported(settings_of(tmp_path), "score_items"):
        raise GateError("gate: too bad\nthe table keeps what it had")
    assert "score_items refused: gate: too bad the table keeps" in Path(paths.report).read_text()
    assert list(read_refusals(paths)) == ["score_items"]
    with reported(settings_of(tmp_path), "score_items"):
        pass
    assert read_refusals(paths) == {}
    assert "refused" not in Path(paths.report).read_text()


def test_a_refusals_gates_are_kept_and_shown(paths: RunPaths, tmp_path: Path) -> None:
    with pytest.raises(GateError), reported(settings_of(tmp_path), "score_items"):
        check(GATES, forced=False)
    kept = read_refusals(paths)["score_items"]
    assert kept.gates == GATES
    shown = " ".join(Reader(Path(paths.report).read_text()).text.split())
    assert "Refused: what score_items would have published" in shown
    assert "better than the baselinepassed0.40.1normsrefused0.020.001a vector's norm is off 1 by 0.02" in shown
    path = Path(paths.folder, "refusals.json")
    before = {"score_items": {"at": kept.at.isoformat(), "reason": "gate: too bad"}}  # as it was written once
    path.write_text(json.dumps(before))
    assert read_refusals(paths)["score_items"].gates == []
    write_report(paths)
    assert "would have published" not in Path(paths.report).read_text()


def test_a_rollback_is_in_the_report(tmp_path: Path) -> None:
    paths, table = full_run(tmp_path), f"{tmp_path}/item_table"
    write_table(paths, table, clustered_vectors(), version="v2", at=BEGAN + dt.timedelta(days=1))
    settings = settings_of(tmp_path, item_table={"kind": "path", "location": table})
    with reported(settings, "score_items"):
        pass
    assert "tiny_items, version v2" in Path(paths.report).read_text()
    config = tmp_path / "tiny.yaml"
    config.write_text(settings.model_dump_json(exclude_unset=True))
    rollback.main(["--config", str(config), "--to", "v1"])
    assert published.current(table, "2024-01-08").manifest.version == "v1"
    shown = Path(paths.report).read_text()
    assert "tiny_items, version v1" in shown
    assert "version v2" not in shown


def test_a_job_that_fails_leaves_the_report_as_it_was(paths: RunPaths, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk"), reported(settings_of(tmp_path), "score_items"):
        raise OSError("disk full")
    assert not Path(paths.report).exists()


def test_a_report_that_can_not_be_written_does_not_undo_the_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(tmp_path)
    with reported(settings, "score_items"):  # there are no samples in its folder
        Path(settings.run_folder).mkdir(parents=True)
    assert "report: " in capsys.readouterr().out.replace("\n", " ")
    assert not Path(settings.run_folder, "report.html").exists()


def test_a_bug_in_the_report_is_told_and_does_not_undo_the_job(
    paths: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> str:
        raise ZeroDivisionError("by 0")

    monkeypatch.setattr(run_report, "page", broken)
    with reported(settings_of(tmp_path), "score_items"):
        pass
    assert "report: ZeroDivisionError: by 0" in capsys.readouterr().out


def test_tracking_without_its_package_stops_before_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = "tracking.kind: found mlflow, but the package mlflow-skinny is not installed"
    with pytest.raises(UserError, match=message), reported(settings_of(tmp_path, tracking="mlflow"), "train"):
        pytest.fail("the job began")


def test_a_job_is_logged_once_there_is_a_model(paths: RunPaths, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, tracking="mlflow")
    with reported(settings, "build_samples"):
        pass
    assert not (tmp_path / "mlruns").exists()
    write_model(paths)
    with reported(settings, "train"):
        pass
    assert len(list(tmp_path.glob("mlruns/*/*/artifacts/report.html"))) == 1


def test_a_tracking_server_that_is_away_does_not_undo_the_job(
    paths: RunPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    write_model(paths)
    with reported(settings_of(tmp_path, tracking={"kind": "mlflow", "uri": "http://127.0.0.1:9"}), "train"):
        pass
    assert Path(paths.report).exists()
    assert "tracking.uri: MLflow at http://127.0.0.1:9" in capsys.readouterr().out
