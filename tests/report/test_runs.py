from __future__ import annotations

from pathlib import Path

import pytest

from dssm.errors import UserError
from dssm.paths import RunPaths
from dssm.published import write_run_tables
from dssm.report.runs import EVALUATED, find_run, finished_dates, previous_run, published_table


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two pipelines; the newest run of one has no samples yet."""
    for run in ("feed/2024-01-09", "feed/2024-01-10", "video/2024-01-10"):
        (tmp_path / run / "samples").mkdir(parents=True)
        (tmp_path / run / "samples" / "manifest.json").touch()
    (tmp_path / "feed" / "2024-01-11" / "samples").mkdir(parents=True)
    (tmp_path / "feed" / "item_table").mkdir()
    return tmp_path


@pytest.mark.parametrize("asked", ["feed", "feed/", "feed/2024-01-10", "{root}/feed", "{root}/feed/2024-01-10/"])
def test_a_run_by_its_name_its_date_or_its_folder(root: Path, asked: str) -> None:
    assert find_run(asked.format(root=root), str(root)) == RunPaths(f"{root}/feed/2024-01-10")


def test_an_earlier_date_of_a_run(root: Path) -> None:
    assert find_run("feed/2024-01-09", str(root)).folder == f"{root}/feed/2024-01-09"
    assert finished_dates(f"{root}/feed") == ["2024-01-09", "2024-01-10"]
    assert finished_dates(f"{root}/nothing") == []


def test_a_name_is_the_newest_date_that_has_what_a_command_needs(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "feed" / "2024-01-09" / "evaluation.json").touch()
    assert find_run("feed", str(root), need=EVALUATED).folder == f"{root}/feed/2024-01-09"
    told = "feed/2024-01-09 is the newest date with an evaluation: 2024-01-10 has none\n"
    assert capsys.readouterr().out == told
    (root / "feed" / "2024-01-10" / "evaluation.json").touch()
    assert find_run("feed", str(root), need=EVALUATED).folder == f"{root}/feed/2024-01-10"
    assert find_run("feed/2024-01-09", str(root), need=EVALUATED).folder == f"{root}/feed/2024-01-09"
    assert capsys.readouterr().out == ""


def test_a_date_is_published_where_the_runs_table_has_a_current_version_of_it(root: Path) -> None:
    need = published_table("items")
    assert find_run("feed", str(root), need=need).folder == f"{root}/feed/2024-01-10"  # none has: as without a need
    for date in ("2024-01-09", "2024-01-10"):
        write_run_tables(f"{root}/feed/{date}", {"items": f"{root}/feed/item_table"})
    (root / "feed" / "item_table" / "dt=2024-01-09").mkdir()
    (root / "feed" / "item_table" / "dt=2024-01-09" / "_current").touch()
    assert find_run("feed", str(root), need=need).folder == f"{root}/feed/2024-01-09"
    assert find_run("feed", str(root), need=published_table("users")).folder == f"{root}/feed/2024-01-10"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("fed", "RUN fed: no such folder, and no run of that name in {root} (did you mean 'feed'?)"),
        ("xyz", "RUN xyz: no such folder, and no run of that name in {root} (known: feed, video)"),
        (
            "feed/2024-01-12",
            "RUN feed/2024-01-12: {root}/feed has no samples of '2024-01-12' (did you mean '2024-01-10'?)",
        ),
        (
            "feed/2024-01-11",
            "RUN feed/2024-01-11: {root}/feed/2024-01-11 holds no finished samples; run build_samples for it first",
        ),
    ],
)
def test_a_run_that_is_not_there(root: Path, asked: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        find_run(asked, str(root))
    assert str(raised.value) == message.format(root=root)


def test_a_root_without_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^RUN feed: no such folder, and .*/runs holds no run with samples; expected"):
        find_run("feed", f"{tmp_path}/runs")


def test_the_previous_run_is_the_newest_before_that_has_samples_or_a_profile(root: Path) -> None:
    def before(run: str) -> str | None:
        found = previous_run(RunPaths(f"{root}/{run}"))
        return found and found.folder.removeprefix(f"{root}/")

    assert before("feed/2024-01-12") == "feed/2024-01-10"
    assert before("feed/2024-01-10") == "feed/2024-01-09"
    assert before("feed/2024-01-09") is None
    assert before("feed/item_table") is None
    (root / "feed" / "2024-01-11" / "profile.json").touch()
    assert before("feed/2024-01-12") == "feed/2024-01-11"
