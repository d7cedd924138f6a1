from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import fsspec
import pytest

from dssm.console import LOGGER, log
from dssm.errors import UserError
from dssm.observe.records import JobLog, logged_to


def log_of(path: Path | str, date: str = "2024-01-15", level: int = logging.INFO) -> JobLog:
    return JobLog(str(path), level, {"run_id": "r", "run": f"demo/{date}", "job": "train", "date": date})


def messages(path: Path) -> list[str]:
    return [json.loads(line)["message"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_log_holds_no_secret_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "swordfish")
    path = tmp_path / "train.jsonl"
    with logged_to(log_of(path)):
        error = RuntimeError("refused swordfish")
        told = {"rows": [["redis", "swordfish", 3]], "at": {"url": "redis://me:fish@host/0"}}
        LOGGER.error("AUTH swordfish", exc_info=(RuntimeError, error, None), extra={"fields": told})
    text = path.read_text()
    assert "swordfish" not in text
    record = json.loads(text)
    assert record["message"] == "AUTH (not shown)"
    assert record["rows"] == [["redis", "(not shown)", 3]]
    assert record["at"] == {"url": "redis://(not shown)@host/0"}
    assert record["traceback"].endswith("RuntimeError: refused (not shown)")


def test_each_date_has_its_own_log_and_a_strange_thread_writes_to_the_newest(tmp_path: Path) -> None:
    both, strange_done = threading.Barrier(2), threading.Event()

    def run(date: str) -> None:
        with logged_to(log_of(tmp_path / f"{date}.jsonl", date)):
            both.wait(30)
            log(f"of {date}")
            if date == "a":
                strange = threading.Thread(target=log, args=("strange",))
                strange.start()
                strange.join()
                strange_done.set()
            strange_done.wait(30)

    threads = [threading.Thread(target=run, args=(date,)) for date in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {date: messages(tmp_path / f"{date}.jsonl") for date in "ab"}
    assert [found["a"][0], found["b"][0]] == ["of a", "of b"] or "strange" in (found["a"][0], found["b"][0])
    assert sorted(found["a"] + found["b"]) == ["of a", "of b", "strange"]
    assert not LOGGER.isEnabledFor(logging.CRITICAL)


def test_another_attempt_goes_on_in_the_file_and_lesser_levels_stay_out(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    for message in ("first", "second"):
        with logged_to(log_of(path)):
            log(message)
            log("detail", logging.DEBUG)
    assert messages(path) == ["first", "second"]


def test_a_file_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").mkdir()
    with pytest.raises(UserError, match=r"train\.jsonl: can't be written \(Is a directory\); expected a run's folder"):
        log_of(tmp_path / "train.jsonl")


def test_where_files_can_not_grow_the_log_is_put_there_at_the_end() -> None:
    place = "memory://logs/demo/train.jsonl"
    for message in ("first", "second"):
        with logged_to(log_of(place)):
            log(message)
    text = fsspec.filesystem("memory").cat_file("/logs/demo/train.jsonl").decode()
    assert [json.loads(line)["message"] for line in text.splitlines()] == ["first", "second"]
