"""python -m dssm.demo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyarrow import csv

from dssm.config import load_settings
from dssm.demo.__main__ import main
from dssm.demo.feed import (
    Feed,
)
from dssm.errors import UserError
from tests.demo.feeds import CONFIG, END, bytes_of


def test_settings_of_the_demo_read_what_the_demo_writes(folder: Path) -> None:
    conf = load_settings(CONFIG, [f"data={folder}", "window.train_days=4"])
    assert (conf.date, conf.window.test_days, conf.train.ranks, conf.train.launch) == (END, 1, 2, "spark")
    tables = {**conf.sources, **conf.profiles, "catalogue": conf.catalogue}
    columns: dict[str, list[str]] = {}
    for name, table in tables.items():
        assert table.path is not None
        for pattern in conf.expand(table.path):
            parent, _, last = pattern.rpartition("/")
            (path,) = Path(parent).glob(last)
            columns[name] = csv.read_csv(path).column_names
    assert {conf.sources["feed"].user, conf.sources["feed"].item, conf.sources["feed"].time} <= set(columns.pop("feed"))
    known = {*conf.histories, *(column for names in columns.values() for column in names)}
    assert {feature.source_column for feature in conf.features.values()} <= known
    assert all(history.then in known for history in conf.histories.values())
    assert all(Path(conf.expand(vectors.path)[0]).is_file() for vectors in conf.vectors.values())
    assert conf.expand(conf.evaluate.oracle or "") == [str(folder / "oracle")]


def _run(folder: Path, *options: str) -> int:
    sizes = ("--events", "3000", "--clients", "60", "--posts", "50", "--topics", "6")
    return main(["--config", CONFIG, "--output", str(folder), *sizes, *options])


def test_command_covers_the_windows_of_the_settings_and_prints_both_recalls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ("date=2024-02-01", "window.train_days=3", "window.test_days=2", "vectors.post.width=5", "seed=9")
    assert _run(tmp_path / "feed", *(word for text in overrides for word in ("--set", text))) == 0
    days = sorted(path.name for path in (tmp_path / "feed/events").iterdir())
    assert days == [f"dt={day}" for day in ("2024-01-29", "2024-01-30", "2024-01-31", "2024-02-01", "2024-02-02")]
    manifest = json.loads((tmp_path / "feed/manifest.json").read_text())
    assert manifest["parameters"] == {
        "end": "2024-02-02", "days": 5, "events": 3000, "clients": 60, "posts": 50, "topics": 6,
        "vector_width": 5, "seed": 9, "timezone": "UTC",
    }  # fmt: skip
    shown = capsys.readouterr().out
    assert f"best reachable {manifest['best_reachable_recall']:.4f}" in shown
    assert f"popularity {manifest['popularity_recall']:.4f}" in shown


def test_days_that_the_windows_miss_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(tmp_path / "feed", "--days", "4", "--end", "2024-01-14") == 0
    assert "11 of their days are missing, first 2024-01-01" in capsys.readouterr().out  # the log has 4 of the 15


def test_rerun_leaves_the_feed_and_other_parameters_replace_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "feed"
    assert _run(folder) == 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capsys.readouterr()
    assert _run(folder) == 0
    assert "nothing written" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before

    old = bytes_of(folder)
    assert _run(folder, "--seed", "1") == 0
    assert bytes_of(folder)["clients.csv"] != old["clients.csv"]
    assert _run(folder, "--days", "4") == 0
    assert len(list((folder / "events").iterdir())) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["feed"]  # no temporary folder stays


def test_damaged_feed_is_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "feed"
    _run(folder)
    whole = bytes_of(folder)
    (folder / "clients.csv").write_text("client_id\n")
    (folder / "oracle/posts.parquet").unlink()
    assert _run(folder) == 0
    assert bytes_of(folder) == whole


def test_failure_keeps_what_stood_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "feed"
    _run(folder)
    before = bytes_of(folder)

    def full_disk(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dssm.demo.files._write_vectors", full_disk)
    assert _run(folder, "--seed", "1") == 2
    assert capsys.readouterr().err == f"--output {folder}: No space left on device\n"
    assert bytes_of(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["feed"]


@pytest.mark.parametrize("name", ["notes.txt", "deep/notes.txt", "manifest.json"])
def test_folder_with_anything_else_in_it_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"kind": "samples"}')
    assert _run(tmp_path) == 2
    assert "is left alone; expected a new folder" in capsys.readouterr().err
    assert bytes_of(tmp_path) == {name: b'{"kind": "samples"}'}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clients", "3"], "--clients 3: expected at least 50"),
        (["--topics", "4"], "--topics 4: expected at least 5 (a client's favourites)"),
        (["--posts", "5"], "--posts 5: expected at least 6 (one a topic)"),
        (["--events", "14"], "--events 14: expected at least 15 (one a day)"),
        (["--days", "1"], "--days 1: expected at least 2"),
        (["--seed", "-1"], "--seed -1: expected at least 0"),
        (["--end", "2024-02-30"], "--end 2024-02-30: not a date; expected YYYY-MM-DD"),
        (["--days", "999999"], "--days 999999: reaches back before year 1"),
        (["--events", "many"], "argument --events: invalid int value: 'many'"),
        (["--set", "window.train_dayz=3"], "window: unknown key 'train_dayz' (did you mean 'train_days'?)"),
        (["--output", "memory://feed"], "--output memory://feed: expected a local folder"),
    ],
)
def test_bad_parameters_end_with_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert _run(tmp_path / "feed", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "feed").exists()


def test_feed_refuses_sizes_without_the_command_too() -> None:
    with pytest.raises(UserError, match="--clients 0"):
        Feed(end=END, clients=0)
