from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from dssm.cli import JOBS, VIEWS, each_date, exit_with, parse_settings, parse_view
from dssm.errors import GateError, UserError

DEMO = str(Path(__file__).parents[1] / "conf" / "demo.yaml")


def test_the_configs_date_where_the_command_names_none() -> None:
    (settings,) = parse_settings(["--config", DEMO], "train")
    assert (settings.name, settings.date) == ("demo", dt.date(2024, 1, 15))


def test_every_day_of_a_range_with_the_overrides() -> None:
    argv = ["--config", DEMO, "--dates", "2024-02-28..2024-03-01", "--set", "seed=5", "--set", "train.epochs=2"]
    found = [(s.date.isoformat(), s.seed, s.train.epochs) for s in parse_settings(argv, "train")]
    assert found == [("2024-02-28", 5, 2), ("2024-02-29", 5, 2), ("2024-03-01", 5, 2)]


def test_each_date_has_a_heading(capsys: pytest.CaptureFixture[str]) -> None:
    for settings in each_date(["--config", DEMO, "--dates", "2024-02-28..2024-02-29"], "train"):
        print(settings.run_folder)
    assert capsys.readouterr().out.split("\n") == [
        "train demo 2024-02-28",
        "runs/demo/2024-02-28",
        "train demo 2024-02-29",
        "runs/demo/2024-02-29",
        "",
    ]


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "the following arguments are required: --config"),
        (["--config", DEMO, "--epochs", "2"], "unrecognized arguments: --epochs 2"),
        (["--config", DEMO, "--date"], "argument --date: expected one argument"),
    ],
)
def test_arguments_that_no_job_has(argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_settings(argv, "train")
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("job", [*JOBS, *VIEWS])
def test_help_names_the_job(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_settings(["--help"], job) if job in JOBS else parse_view(["--help"], job)
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: ./spark-submit.sh {job} ")
    assert {**JOBS, **VIEWS}[job] in " ".join(shown.split())


def test_what_a_view_is_asked_for() -> None:
    assert vars(parse_view(["demo"], "profile")) == {"run": "demo", "root": "runs"}
    assert vars(parse_view(["demo"], "show")) == {
        "run": "demo", "root": "runs", "part": "train", "user": None, "rows": 3, "full": False,
    }  # fmt: skip
    asked = parse_view(["demo/2024-01-15", "--user", "7", "--rows", "1", "--part", "test", "--full"], "show")
    assert (asked.run, asked.user, asked.rows, asked.part, asked.full) == ("demo/2024-01-15", "7", 1, "test", True)


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "the following arguments are required: RUN"),
        (["demo", "--rows", "few"], "argument --rows: invalid int value: 'few'"),
        (["demo", "--part", "tset"], "argument --part: invalid choice: 'tset'"),
        (["demo", "--config", DEMO], f"unrecognized arguments: --config {DEMO}"),
    ],
)
def test_arguments_that_no_view_has(argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_view(argv, "show")
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("rows", [0, -2])
def test_at_least_one_row_is_shown(rows: int) -> None:
    with pytest.raises(UserError, match=f"^--rows {rows}: expected at least 1$"):
        parse_view(["demo", "--rows", str(rows)], "show")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("catalogue.path: nothing at [a/b]; x"), 2, "error: catalogue.path: nothing at [a/b]; x\n"),
        (GateError("recall@50 0.1 < 0.2"), 3, "error: recall@50 0.1 < 0.2\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=["fault of the user", "gate", "interrupted"],
)
def test_exit_codes_and_one_message(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def job() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        exit_with(job)
    assert ended.value.code == code
    assert capsys.readouterr().err == message


def test_a_defect_shows_where_it_happened(capsys: pytest.CaptureFixture[str]) -> None:
    def faulty_job() -> None:
        raise RuntimeError("5 rows written, 6 counted")

    with pytest.raises(SystemExit) as ended:
        exit_with(faulty_job)
    assert ended.value.code == 1
    shown = capsys.readouterr().err
    assert "in faulty_job" in shown
    assert shown.endswith("RuntimeError: 5 rows written, 6 counted\n")


def test_success() -> None:
    with pytest.raises(SystemExit) as ended:
        exit_with(lambda: None)
    assert ended.value.code == 0
