from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dssm.attempts import read_attempts
from dssm.config import Settings
from dssm.errors import GateError, UserError
from dssm.paths import RunPaths
from dssm.scoring.dates import publish_dates
from dssm.usage import read_usage
from tests.datasets import make_settings


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """What reports heard: job, date, and the job's end. The reports themselves have their own tests."""
    heard: list[tuple[str, str, str]] = []

    @contextmanager
    def reported(settings: Settings, job: str) -> Iterator[None]:
        end = "well"
        try:
            yield
        except BaseException as error:
            end = type(error).__name__
            raise
        finally:
            used = [usage.job for usage in read_usage(settings.run_folder)]
            assert used == ([job] if end == "well" else [])  # the report knows what the job used
            heard.append((job, settings.date.isoformat(), end))

    monkeypatch.setattr("dssm.scoring.dates.reported", reported)
    return heard


DAYS = [dt.date(2024, 1, day) for day in range(1, 7)]


def dates_of(root: Path) -> list[Settings]:
    return [make_settings(root).for_date(day) for day in DAYS]


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_so_many_dates_at_once(tmp_path: Path, at_once: int) -> None:
    lock, running, most, done = threading.Lock(), [0], [0], []
    together = threading.Barrier(at_once, timeout=60)

    def publish(settings: Settings) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        together.wait()
        time.sleep(0.05)  # for one more, were it let in
        with lock:
            running[0] -= 1
            done.append(settings.date)

    publish_dates("score_items", dates_of(tmp_path), at_once, publish)
    assert sorted(done) == DAYS
    assert most == [at_once]
    assert all(read_usage(settings.run_folder)[0].job == "score_items" for settings in dates_of(tmp_path))


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_refused_date_does_not_keep_the_others_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], at_once: int
) -> None:
    done = []

    def publish(settings: Settings) -> None:
        if settings.date in (DAYS[1], DAYS[3]):
            raise GateError(f"gate: too bad on {settings.date}\nthe table keeps what it had")
        done.append(settings.date)

    with pytest.raises(GateError) as caught:
        publish_dates("score_items", dates_of(tmp_path), at_once, publish)
    assert str(caught.value) == (
        "2 of 6 dates were refused: 2024-01-02: gate: too bad on 2024-01-02; 2024-01-04: gate: too bad on 2024-01-04"
    )
    assert sorted(done) == [day for day in DAYS if day not in (DAYS[1], DAYS[3])]
    assert "score_items tiny 2024-01-06" in capsys.readouterr().out
    refused, *_ = (settings for settings in dates_of(tmp_path) if settings.date == DAYS[1])
    assert read_usage(refused.run_folder) == []
    ends = [read_attempts(RunPaths(settings.run_folder))["score_items"].exit_code for settings in dates_of(tmp_path)]
    assert ends == [0, 3, 0, 3, 0, 0]


@pytest.mark.parametrize("at_once", [1, 3])
def test_each_date_is_reported(tmp_path: Path, told: list[tuple[str, str, str]], at_once: int) -> None:
    def publish(settings: Settings) -> None:
        if settings.date == DAYS[1]:
            raise GateError("gate: too bad")

    with pytest.raises(GateError):
        publish_dates("score_items", dates_of(tmp_path)[:3], at_once, publish)
    assert sorted(told) == [
        ("score_items", "2024-01-01", "well"),
        ("score_items", "2024-01-02", "GateError"),
        ("score_items", "2024-01-03", "well"),
    ]


def test_refusals_are_said_before_another_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def publish(settings: Settings) -> None:
        raise UserError("no model") if settings.date == DAYS[1] else GateError("gate: too bad\nthe table keeps it")

    with pytest.raises(UserError, match=r"^no model$"):
        publish_dates("score_items", dates_of(tmp_path), 1, publish)
    assert "1 of 6 dates were refused: 2024-01-01: gate: too bad\n" in capsys.readouterr().out


def test_one_date_is_refused_in_its_own_words(tmp_path: Path) -> None:
    def publish(settings: Settings) -> None:
        raise GateError("gate: too bad")

    with pytest.raises(GateError, match=r"^gate: too bad$"):
        publish_dates("score_items", dates_of(tmp_path)[:1], 2, publish)


@pytest.mark.parametrize("at_once", [1, 2])
def test_another_error_ends_the_job(tmp_path: Path, at_once: int) -> None:
    done = []

    def publish(settings: Settings) -> None:
        if settings.date == DAYS[0]:
            raise UserError("no model")
        time.sleep(0.5)
        done.append(settings.date)

    with pytest.raises(UserError, match="no model"):
        publish_dates("score_items", dates_of(tmp_path), at_once, publish)
    assert len(done) < 3  # those that had begun


def test_no_date_begins_after_another_has_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second fails while the first goes on, which then fails as well."""
    failed, begun = threading.Event(), []

    def publish(settings: Settings) -> None:
        begun.append(settings.date)
        if settings.date == DAYS[1]:
            failed.set()
            raise UserError("no model")
        if settings.date == DAYS[0]:
            assert failed.wait(60)
            time.sleep(0.5)  # for further dates, were they let in
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match=r"^lost$"):
        publish_dates("score_items", dates_of(tmp_path), 2, publish)
    assert sorted(begun) == DAYS[:2]
    assert "2024-01-02: no model" in capsys.readouterr().out
